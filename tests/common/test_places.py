"""Paths as people write them: what is none is said, and no folder is called after an address."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.users import as_nobody

import headstart as hs
from headstart.common.errors import HeadstartError, SettingError
from headstart.common.outputs import check_outputs, write_text
from headstart.common.places import expanded
from headstart.features.packed import check_free
from headstart.training.settings import checked_folder

pytestmark = pytest.mark.neutral

ADDRESSES = ["s3://bucket/run", "gs://bucket", "az://c/x.json", "file:///tmp/run", "https://example.org/run"]


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_no_path(address: str, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = kind(address)
    for door in (
        expanded,
        hs.load,
        hs.load_features,
        lambda path: write_text(Path(path), "x"),
        lambda path: check_outputs(file=Path(path)),
        lambda path: check_outputs(folder=Path(path)),
        lambda path: checked_folder("profile", path),
    ):
        with pytest.raises(SettingError, match=r"^\w+://[\w/.]+ is an address; expected the path"):
            door(place)
    assert list(tmp_path.iterdir()) == []


def test_secrets_in_an_address_are_not_said() -> None:
    with pytest.raises(SettingError, match="is an address") as said:
        expanded("https://name:verysecret@example.org/run?X-Amz-Signature=alsosecret")
    assert "secret" not in str(said.value)


def test_what_looks_like_an_address_and_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "run").mkdir(parents=True)
    assert expanded("s3:/run") == Path("s3:/run")
    assert expanded("a:/b") == Path("a:/b") and expanded("C:\\runs") == Path("C:\\runs")


DOORS: dict[str, Callable[[Path], object]] = {
    "data": lambda path: hs.data.open_data(str(path)),
    "folder": hs.data.folder,
    "table": lambda path: hs.data.open_data(f"{path}.csv"),
    "pictures": lambda path: hs.data.images_at([path]),
    "run": hs.load,
    "output": lambda path: check_outputs(file=path),
    "features": lambda path: check_free(path, replace=False),
}


@pytest.mark.parametrize("door", DOORS)
def test_what_nobody_can_reach_is_one_line(door: str, tmp_path: Path) -> None:
    """In a folder that this user may not enter, as another's home, or with a name that no system takes."""
    shut = tmp_path / "shut"
    shut.mkdir()
    with contextlib.suppress(HeadstartError):  # imports what it needs while that can be read
        DOORS[door](shut / "missing")
    with pytest.raises(SettingError, match=r"^.{300}\.\.\.: cannot be reached \(File name too long\)"):
        DOORS[door](tmp_path / ("n" * 300))
    shut.chmod(0)
    try:
        with as_nobody(), pytest.raises(SettingError, match=r"run(\.csv)?: cannot be reached \(Perm"):
            DOORS[door](shut / "run")
    finally:
        shut.chmod(0o700)


def test_where_no_file_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions do not tell: a disk that is read only, or full of files, or the system's own folders."""

    def refused(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "deep" / "there.json")
    check_outputs(tmp_path / "run", link)
    assert sorted(tmp_path.iterdir()) == [link]
    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    for place in ({"folder": tmp_path / "new" / "run"}, {"file": tmp_path / "figures.json"}, {"file": link}):
        with pytest.raises(SettingError, match=r"cannot be written \(no file can be made in .*: Read-only"):
            check_outputs(**place)


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="of systems with devices")
def test_devices_are_written_to_in_folders_that_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev is nobody's but the administrator's."""

    def refused(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    check_outputs(file=Path("/dev/null"))
    check_outputs(file=Path("/dev/stdout"))
