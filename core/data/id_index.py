"""The ids of files that have not changed since they were hashed: opening a data set again reads no image.

It works as git's index does. A file's size, times of change, and inode are kept beside its id; while `stat` still
gives just these, the file is the one that was hashed.

Invariant: an id from here is that of the bytes that are in the file. What could break it, and why it does not:

* A file edited in place, its modification time put back: no program can put back ctime, the time of the last
  change of content or attributes. Windows has no such time, so there is no index. FAT, exFAT, SFTP and images with
  times made up pass off another time for it, in whole hundredths of a second; such a ctime is not believed.
* A file written to again within one tick of its clock: what was changed less than two seconds before it was
  read is hashed each time, until it has grown older.
* A file changed while it was read: the stat before and the one after must agree.
  What passes off the time of modification itself, and where that cannot be ruled out, `change_times` tells.
* A damaged index: every entry has a checksum over itself and its path. One that fails is no entry.
* A forged index: a checksum can be computed by anybody, so the file is only used if nobody else can have written
  it, and if it is what is written here, see `index_file`.

Of an object in a bucket, its size and ETag are what stands in the place of the stat (`bucket`).

The device is left out, as in git: NFS, btrfs and overlays get another number at every mount, and each machine that
shares a cache sees its own. For the same path to lead to another file of the same inode, size and ctime, a copy
of the whole file system has to be mounted there, and then it holds the same bytes.

Two holes are left, git's as well, and both need an edit of the same length that no image editor makes: a file on a
server whose clock is seconds behind, written twice within one tick and read in between; and pages changed through
a memory map, whose time of change comes when the system writes them. Loading such a file finds it out.

Nothing here is needed. Whatever fails (no permission, a full disk, a lock held for long, a file system without
locks) costs hashing and nothing else; a damaged file is replaced, and deleting it does no harm. Entries that were
of no use for half a year are dropped, and the oldest where there are too many; this is looked at once a week.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import PIL
from xxhash import xxh3_64_intdigest

from headstart.common.errors import StoreWarning
from headstart.common.machine import cache_root
from headstart.data import change_times
from headstart.data.decode import max_pixels
from headstart.data.index_file import DEADLINE_SECONDS, TABLE, NotOurs, connect, private_path, set_aside
from headstart.data.place import REMOTE, current_folder

if TYPE_CHECKING:
    from sqlite3 import Connection

T = TypeVar("T")

FILE = "ids.sqlite3"
RACY_NS = 2_000_000_000  # the coarsest file system's clock ticks every two seconds
COARSE_NS = 10_000_000
SECONDS_A_PATH = 0.002  # more than a busy disk needs
PATHS_A_QUERY = 500  # SQLite has taken 999 since ever
SEEN_AGAIN_DAYS = 30  # so old a note of when an entry was last of use is written anew
KEPT_DAYS = 180
KEPT_ENTRIES = 5_000_000  # about a gigabyte
PRUNED_EVERY_DAYS = 7

_STAMP = struct.Struct("<QqqQ")  # size, mtime and ctime in ns, inode: SQLite's own integers end at 63 bits
_ENTRY = struct.Struct("<32s16sQQ")  # stamp, id, by what it was decoded (0: it was not), checksum
_ERROR, _INTERRUPT, _CORRUPT, _TOO_BIG, _FORMAT, _NOT_A_DATABASE = 1, 9, 11, 18, 24, 26  # SQLite's codes


class Known(NamedTuple):
    """What is known of a file that has not changed."""

    id: str  # 32 hex digits
    decodes: bool  # whether it was decoded, by this Pillow and within this limit of pixels


class Hashed(NamedTuple):
    """What was found out about a file by reading it."""

    path: str
    stamp: bytes
    id: str
    decodes: bool


def stamp_of(path: str) -> bytes | None:
    """What tells whether a file has changed; None where nothing does, or where there is no regular file."""
    if os.name == "nt":
        return None
    try:
        found = os.stat(path)  # noqa: PTH116 - a million times
        if not stat.S_ISREG(found.st_mode) or found.st_ctime_ns % COARSE_NS == 0:
            return None
        return _STAMP.pack(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    except (OSError, ValueError, struct.error):
        return None


def believed(paths: Sequence[str], stamps: Sequence[bytes | None]) -> list[bytes | None]:
    """The stamps, without those of files whose file system may not tell when they were changed."""
    times = [None if stamp is None else _STAMP.unpack(stamp)[1:3] for stamp in stamps]
    return [
        stamp if good else None for stamp, good in zip(stamps, change_times.believed(paths, times), strict=True)
    ]


def settled(stamp: bytes, now_ns: int) -> bool:
    """Whether a file with this stamp, read from `now_ns` on, cannot change any more without another stamp."""
    _, mtime, ctime, _ = _STAMP.unpack(stamp)
    return bool(max(mtime, ctime) + RACY_NS < now_ns)


class IdIndex:
    """The index in the cache folder, or in the file given. Nothing is open between two calls; any number of
    threads, processes and machines may use one file."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = private_path(cache_root() / FILE if path is None else path.absolute())
        self._damaged = False

    def look_up(self, paths: Sequence[str], stamps: Sequence[bytes | None]) -> list[Known | None]:
        """What is known of the files that have these stamps now; None where that is nothing."""
        keys = _keys(paths)
        stamp_of = {key: stamp for key, stamp in zip(keys, stamps, strict=True) if stamp is not None}
        if not stamp_of:
            return [None] * len(paths)
        here, day = _decoder(), _today()
        known: dict[bytes, Known] = {}
        unseen: list[bytes] = []

        def find(connection: Connection) -> None:
            every = list(stamp_of)
            for start in range(0, len(every), PATHS_A_QUERY):
                some = every[start : start + PATHS_A_QUERY]
                marks = ",".join("?" * len(some))
                rows = connection.execute(f"SELECT path, entry, seen FROM files WHERE path IN ({marks})", some)
                for key, entry, seen in rows:
                    if key not in stamp_of or not isinstance(entry, bytes) or len(entry) != _ENTRY.size:
                        continue
                    stamp, id, decoder, checksum = _ENTRY.unpack(entry)
                    if stamp == stamp_of[key] and checksum == _checksum(key, entry):
                        known[key] = Known(id.hex(), decoder == here)
                        if not isinstance(seen, int) or abs(day - seen) >= SEEN_AGAIN_DAYS:
                            unseen.append(key)

        self._attempt(find, write=False, paths=len(stamp_of))
        if unseen:
            self._attempt(
                lambda connection: connection.executemany(
                    "UPDATE files SET seen = ? WHERE path = ?", ((day, key) for key in unseen)
                ),
                write=True,
            )
        return [known.get(key) for key in keys]

    def record(self, files: Iterable[Hashed]) -> None:
        """Remember what was found out; files that stood there before are forgotten."""
        files = list(files)
        if not files:
            return
        here, day = _decoder(), _today()
        rows = []
        for key, file in zip(_keys([file.path for file in files]), files, strict=True):
            entry = _ENTRY.pack(file.stamp, bytes.fromhex(file.id), here if file.decodes else 0, 0)
            rows.append((key, entry[:-8] + _checksum(key, entry).to_bytes(8, "little"), day))

        def write(connection: Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
            _prune(connection, day)

        self._attempt(write, write=True)

    def forget(self, paths: Sequence[str]) -> None:
        """Drop what is known of these files."""
        if os.path.lexists(self.path):
            keys = [(key,) for key in _keys(paths)]
            self._attempt(
                lambda connection: connection.executemany("DELETE FROM files WHERE path = ?", keys), write=True
            )

    def _attempt(self, action: Callable[[Connection], T], write: bool, paths: int = 0) -> None:
        """Run an action in a transaction of its own. What fails is left undone, and a damaged file replaced before
        the next writing. What is no index of ours is said, and set aside if it is a file of this user's."""
        try:
            import sqlite3
        except ImportError:  # a Python built without it
            return
        for may_replace in (True, False):
            if write and self._damaged:
                self._remove()
                self._damaged = False
            try:
                with contextlib.closing(self._connect(write, paths * SECONDS_A_PATH)) as connection:
                    if write:
                        connection.execute("BEGIN IMMEDIATE")
                        if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                            connection.execute(TABLE)
                    action(connection)
                    if write:
                        connection.execute("COMMIT")
                return
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                # A missing table is no damage to a reader: another process may just have made the file.
                self._damaged = code in (_INTERRUPT, _CORRUPT, _TOO_BIG, _FORMAT, _NOT_A_DATABASE)
                self._damaged |= write and code == _ERROR
                if not (write and self._damaged and may_replace):
                    return
            except NotOurs as error:
                warnings.warn(
                    f"{self.path} is not used as index of ids: {error}; ids are computed from the images. "
                    + ("It is set aside" if error.ours else "Remove it to have an index again"),
                    StoreWarning,
                    stacklevel=2,
                )
                if not error.ours:
                    return
                set_aside(self.path)
                if not (write and may_replace):
                    return
            except (OSError, ValueError, OverflowError, MemoryError):
                return

    def _connect(self, write: bool, seconds: float = 0.0) -> Connection:
        return connect(self.path, write, DEADLINE_SECONDS + seconds)

    def _remove(self) -> None:
        for suffix in ("", "-journal", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                self.path.with_name(self.path.name + suffix).unlink()


def _prune(connection: Connection, day: int) -> None:
    """Once a week, drop what was of no use for long. The day on which that was done is the file's user version."""
    (last,) = connection.execute("PRAGMA user_version").fetchone()
    if 0 <= day - last < PRUNED_EVERY_DAYS:
        return
    connection.execute(f"PRAGMA user_version = {day}")
    oldest, entries = day - KEPT_DAYS, 0
    for seen, count in connection.execute("SELECT seen, count(*) FROM files GROUP BY seen ORDER BY seen DESC"):
        entries += count
        if entries > KEPT_ENTRIES:
            oldest = max(oldest, seen + 1)
            break
    # A day that is yet to come is the mark of a clock that was wrong.
    connection.execute("DELETE FROM files WHERE seen < ? OR seen > ?", (oldest, day + 1))


def _keys(paths: Sequence[str]) -> list[bytes]:
    """The absolute paths, as the system has them, or URLs. Two spellings of one path are two entries, and both
    right."""
    folder = os.path.join(current_folder(), "")  # noqa: PTH118
    return [os.fsencode(path if path.startswith(("/", *REMOTE)) else folder + path) for path in paths]


def _checksum(key: bytes, entry: bytes) -> int:
    return xxh3_64_intdigest(entry[:-8] + key)


def _decoder() -> int:
    """What decides whether a file decodes, beside its bytes; never 0."""
    return xxh3_64_intdigest(f"{PIL.__version__} {max_pixels()}".encode()) | 1


def _today() -> int:
    return int(time.time() // 86400)
