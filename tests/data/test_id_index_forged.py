# ruff: noqa: F811 - fixtures of another module
"""An index of ids that somebody else made, and file systems whose times of change are none: the ids are right,
soon, and whoever looks is told."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults.users import as_nobody
from test_id_index import COUNT, content, ids, index_file, photos, quick, reads, settle, truth  # noqa: F401

from headstart.common.errors import StoreWarning
from headstart.data import change_times, id_index
from headstart.data.id_index import IdIndex
from headstart.data.index_file import TABLE

pytestmark = [
    pytest.mark.neutral,
    pytest.mark.skipif(os.name == "nt", reason="without a ctime there is no index"),
]

ENDLESS = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
    "SELECT x AS path, x AS entry, x AS seen FROM n"
)


@pytest.fixture
def forged_ids(photos: Path, quick: None) -> Path:
    """Every entry is another file's id, under a right checksum."""
    settle()
    real = truth(photos)
    paths = sorted(map(str, photos.rglob("*.bmp")))
    wrong = [
        id_index.Hashed(path, id_index.stamp_of(path) or b"", id, True)
        for path, id in zip(paths, real[::-1], strict=True)
    ]
    IdIndex().record(wrong)
    assert ids(photos) == real[::-1] != real, "this index is believed, so what follows shows when it is not"
    return photos


def execute(*statements: str) -> None:
    with closing(sqlite3.connect(index_file(), isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def replaced_by(make: Callable[[Path], Any]) -> None:
    path = index_file()
    elsewhere = path.with_name("elsewhere")
    path.replace(elsewhere)
    make(elsewhere)


def sparse(nbytes: int) -> None:
    os.truncate(index_file(), nbytes)


FORGED: dict[str, Callable[[], Any]] = {
    "a trigger": lambda: execute("CREATE TRIGGER t AFTER UPDATE ON files BEGIN DELETE FROM files; END"),
    "a view": lambda: execute("DROP TABLE files", f"CREATE VIEW files AS {ENDLESS}"),
    "a view beside": lambda: execute(f"CREATE VIEW other AS {ENDLESS}"),
    "an index on an expression": lambda: execute("CREATE INDEX i ON files (hex(entry))"),
    "a generated column": lambda: execute("ALTER TABLE files ADD COLUMN more AS (hex(path))"),
    "a check": lambda: execute(
        "ALTER TABLE files RENAME TO old",
        TABLE.replace("seen INTEGER NOT NULL", "seen INTEGER NOT NULL CHECK (seen > 0)"),
        "INSERT INTO files SELECT * FROM old",
        "DROP TABLE old",
    ),
    "a virtual table": lambda: execute("CREATE VIRTUAL TABLE v USING fts5(x)"),
    "another collation": lambda: execute(
        "ALTER TABLE files RENAME TO old",
        TABLE.replace("BLOB PRIMARY", "BLOB COLLATE NOCASE PRIMARY"),
        "INSERT INTO files SELECT * FROM old",
        "DROP TABLE old",
    ),
    "a log beside": lambda: execute("PRAGMA journal_mode = WAL"),
    "too large": lambda: sparse(5 << 30),
    "a link": lambda: replaced_by(lambda elsewhere: index_file().symlink_to(elsewhere)),
    "a link to a device": lambda: replaced_by(lambda elsewhere: index_file().symlink_to("/dev/zero")),
    "a pipe": lambda: replaced_by(lambda elsewhere: os.mkfifo(index_file())),
    "a pipe for a journal": lambda: os.mkfifo(f"{index_file()}-journal"),
    "a folder others write to": lambda: (index_file().chmod(0o666), index_file().parent.chmod(0o777)),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_index_is_not_used(kind: str, forged_ids: Path, reads: list[str]) -> None:
    FORGED[kind]()
    shared = kind == "a folder others write to"  # where each user has an index of their own
    start = time.process_time()
    with warnings.catch_warnings() if shared else pytest.warns(StoreWarning, match="is not used as index of ids"):
        assert ids(forged_ids) == truth(forged_ids)
    assert time.process_time() - start < 5 and len(reads) == COUNT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ids(forged_ids) == truth(forged_ids)
        assert len(reads) == (2 if kind.startswith("a link") or kind == "a pipe" else 1) * COUNT


def test_statements_end(forged_ids: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever keeps SQLite busy, it is left after the deadline; ids are hashed."""
    monkeypatch.setattr(id_index, "DEADLINE_SECONDS", 0.2)
    monkeypatch.setattr(id_index, "SECONDS_A_PATH", 0.0)
    index, done = IdIndex(), []

    def endless(connection: sqlite3.Connection) -> None:
        connection.execute(f"SELECT count(*) FROM ({ENDLESS})").fetchone()
        done.append(True)

    start = time.process_time()
    index._attempt(endless, write=False)
    assert time.process_time() - start < 5 and not done
    assert ids(forged_ids) == truth(forged_ids)[::-1], "the index itself is as it was"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_another_users_index_in_a_shared_place(
    photos: Path,
    quick: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Path("/tmp") / f"headstart-index-{os.getpid()}"  # where the other user gets to
    place.mkdir(mode=0o777)
    place.chmod(0o1777)
    try:
        (place / "ids.sqlite3").write_bytes(b"")
        (place / "ids.sqlite3").chmod(0o644)
        monkeypatch.setenv("HEADSTART_CACHE", str(place))
        with as_nobody():
            index = IdIndex()
            assert index.path.name == f"ids-{os.geteuid()}.sqlite3"
            index.record([id_index.Hashed("/a", b"\0" * 32, "0" * 32, True)])
            assert index.look_up(["/a"], [b"\0" * 32]) == [id_index.Known("0" * 32, True)]
            assert index.path.stat().st_mode & 0o777 == 0o600
        assert IdIndex().path.name == "ids.sqlite3"
    finally:
        for path in place.iterdir():
            path.unlink()
        place.rmdir()


# --- file systems without a time of change


@pytest.fixture
def file_system(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What stat tells of the photos' file system."""
    real = os.stat
    first: dict[Any, int] = {}

    def told(kind: str) -> None:
        def changed(path: Any, **settings: Any) -> Any:
            found = real(path, **settings)
            if not str(path).startswith(str(photos)):
                return found
            names = ("st_mode", "st_size", "st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev")
            values = {name: getattr(found, name) for name in names}
            values["st_dev"] += 4242
            if kind == "mtime as ctime":
                values["st_ctime_ns"] = values["st_mtime_ns"]
            elif kind == "never moves":
                values["st_ctime_ns"] = first.setdefault(values["st_ino"], values["st_mtime_ns"])
            return SimpleNamespace(**values)

        monkeypatch.setattr(id_index.os, "stat", changed)

    monkeypatch.setattr(change_times, "_moves", {})
    return told


@pytest.mark.parametrize("kind", ["mtime as ctime", "never moves"])
def test_an_edit_with_its_time_put_back_is_seen(
    kind: str,
    photos: Path,
    quick: None,
    reads: list[str],
    file_system: Callable[[str], None],
) -> None:
    file_system(kind)
    settle()
    assert ids(photos) == truth(photos)
    path = photos / "a" / "2.bmp"
    status = path.lstat()
    content(path, 99)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ids(photos) == truth(photos), "an edit of the same length, its time put back"
    assert len(reads) == 2 * COUNT
    assert sorted(path.name for path in photos.rglob("*")) == sorted(
        ["a", "b", *(f"{i}.bmp" for i in range(COUNT))]
    ), "nothing is left there"


def test_a_true_time_of_change_is_believed(
    photos: Path,
    quick: None,
    reads: list[str],
    file_system: Callable[[str], None],
    monkeypatch: Any,
) -> None:
    file_system("true")
    settle()
    probes = []
    real = change_times._moves_in
    monkeypatch.setattr(change_times, "_moves_in", lambda folder: probes.append(folder) or real(folder))
    assert [ids(photos), ids(photos)] == [truth(photos)] * 2
    assert len(reads) == COUNT and len(probes) == 1, "two folders, one file system"
    for path in photos.rglob("*.bmp"):
        os.utime(path, ns=(path.stat().st_mtime_ns - 10**9,) * 2)
    monkeypatch.setattr(change_times, "_moves", {})
    settle()
    assert [ids(photos), ids(photos)] == [truth(photos)] * 2
    assert len(reads) == 2 * COUNT and len(probes) == 1, "files whose times differ tell it"


def test_what_cannot_be_told_is_hashed(
    photos: Path,
    quick: None,
    reads: list[str],
    file_system: Callable[[str], None],
    monkeypatch: Any,
) -> None:
    """A folder in which nothing may be written, and all of whose times are equal."""
    file_system("true")
    settle()
    opened = os.open

    def refuse(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if str(path).startswith(str(photos)) and flags & os.O_CREAT:
            raise PermissionError
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(change_times.os, "open", refuse)
    assert [ids(photos), ids(photos)] == [truth(photos)] * 2
    assert len(reads) == 2 * COUNT


def test_files_dated_ahead_are_hashed(photos: Path, quick: None, reads: list[str]) -> None:
    path = photos / "a" / "0.bmp"
    ahead = time.time_ns() + 10**15
    os.utime(path, ns=(ahead, ahead))
    settle()
    assert [ids(photos), ids(photos)] == [truth(photos)] * 2
    assert reads.count("0.bmp") == 2


def test_looking_is_quick() -> None:
    """No sqlite where nothing is to be found."""
    code = "import sys; import headstart; assert 'sqlite3' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
