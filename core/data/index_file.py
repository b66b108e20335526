"""The door to the index's file: a database is opened only if it is what `id_index` writes.

SQLite runs what a schema says (views, triggers, generated columns), and a file made for it can keep it busy for
hours. Invariant: what is opened is a regular file, of bounded size, with our schema to the letter, which nobody
else could write; and no statement on it takes longer than its deadline. Whatever else lies there is left unused.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite3 import Connection

TABLE = "CREATE TABLE files (path BLOB PRIMARY KEY, entry BLOB NOT NULL, seen INTEGER NOT NULL) WITHOUT ROWID"
MAX_NBYTES = 4 << 30  # five million entries take about one
MAX_VALUE_NBYTES = 1 << 20  # of a path, an entry, a statement
BUSY_SECONDS = 1.0
DEADLINE_SECONDS = 20.0
OPCODES = 100_000  # so often the deadline is looked at
COMPANIONS = ("-journal", "-wal", "-shm")

_MAGIC = b"SQLite format 3\0"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NotOurs(Exception):  # noqa: N818 - it never leaves these two modules
    """What lies there is no index of ours. `ours` says whether it may be moved out of the way."""

    def __init__(self, reason: str, ours: bool = False) -> None:
        super().__init__(reason)
        self.ours = ours


def private_path(path: Path) -> Path:
    """Where this user's index is: in a folder that others may write to, under a name of their own, so that each
    has one that nobody else can have written."""
    try:
        folder = path.parent.stat()
        if _is_private(folder):
            return path
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_uid == _user() and _nobody_else_wrote(status):
            return path
    except OSError:
        return path
    return path.with_name(f"{path.stem}-{_user()}{path.suffix}")


def check_file(path: Path) -> bool:
    """Whether there is an index, of the kind that may be opened. NotOurs for anything else; OSError."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode):
        raise NotOurs("it is no regular file")
    if not _is_private(path.parent.stat()) and not _nobody_else_wrote(status):
        raise NotOurs("others can write it", ours=status.st_uid == _user())
    if status.st_size > MAX_NBYTES:
        raise NotOurs(f"it has {status.st_size} bytes, at most {MAX_NBYTES}", ours=True)
    for suffix in COMPANIONS:
        with contextlib.suppress(FileNotFoundError):
            companion = path.with_name(path.name + suffix).lstat()
            if not stat.S_ISREG(companion.st_mode) or companion.st_size > MAX_NBYTES or suffix != "-journal":
                raise NotOurs(f"there is a {suffix[1:]} that it does not write", ours=True)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        prefix = os.read(handle, 100)
    finally:
        os.close(handle)
    # Versions of write-ahead logs would have SQLite map a file beside it.
    if prefix.startswith(_MAGIC) and prefix[18:20] in (b"\1\2", b"\2\1", b"\2\2"):
        raise NotOurs("it is of another kind", ours=True)
    return True


def connect(path: Path, write: bool, seconds: float = DEADLINE_SECONDS) -> Connection:
    """A connection in autocommit mode, every statement of which ends within the deadline. NotOurs, OSError,
    sqlite3.Error."""
    import sqlite3

    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
    if not check_file(path):
        if not write:
            raise FileNotFoundError(path)
        # With the permissions that it is to have; SQLite would take the system's.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'rw' if write else 'ro'}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        cached_statements=8,
    )
    try:
        connection.text_factory = bytes
        for limit in (sqlite3.SQLITE_LIMIT_LENGTH, sqlite3.SQLITE_LIMIT_SQL_LENGTH):
            connection.setlimit(limit, MAX_VALUE_NBYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 0)
        end = time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > end, OPCODES)
        # A lost index costs hashing, and a torn one is found out: there is no need to wait for the disk.
        # Mapped, a file that shrinks would end the process.
        settings = ["trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "synchronous = OFF"]
        for setting in [*settings, *([] if write else ["query_only = ON"])]:
            connection.execute(f"PRAGMA {setting}")
        check_schema(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def check_schema(connection: Connection) -> None:
    """NotOurs unless the database is empty, or holds our one table and nothing else."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT 3").fetchall()
    if rows not in ([], [(b"table", b"files", b"files", TABLE.encode())]):
        raise NotOurs("its schema is another", ours=True)


def set_aside(path: Path) -> None:
    """Move a file out of the way, and what SQLite has left beside it. Links and folders stay."""
    for suffix in ("", *COMPANIONS):
        old = path.with_name(path.name + suffix)
        with contextlib.suppress(OSError):
            if stat.S_ISREG(old.lstat().st_mode):
                old.replace(old.with_name(old.name + ".unused"))


def _user() -> int:
    """This user's number. Windows has none, and 0 stands for it in what `stat` says of any file there."""
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _is_private(folder: os.stat_result) -> bool:
    """Whether only its owner can put anything there, and that is this user, or this user may do anything."""
    me = _user()
    return not folder.st_mode & _OTHERS_WRITE and (me == 0 or folder.st_uid in (me, 0))


def _nobody_else_wrote(status: os.stat_result) -> bool:
    return status.st_uid in (_user(), 0) and not status.st_mode & _OTHERS_WRITE
