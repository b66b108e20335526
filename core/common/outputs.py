"""Files that are written for people and other programs: whole or not at all; a wrong path is one line.

* What stands under the name and is no regular file, a device or a pipe, is written to and never replaced. A link
  is followed: its target is replaced, and the link stays.
* JSON is valid JSON: what is not finite is null. Secrets are taken out of it.
* Invariant: what is left of a writer that was killed is removed by the next one that writes into the folder, and
  no unfinished file of a writer that still runs ever is.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from headstart.common.errors import HeadstartError, SettingError
from headstart.common.places import expanded
from headstart.common.redact import names_in, redacted
from headstart.common.sizes import binary_size

T = TypeVar("T")

UNFINISHED = re.compile(r"\.partial-[0-9a-f]{32}")
LOCK_SECONDS = 30.0
STALE_SECONDS = 3600.0  # where folders cannot be locked, older unfinished files are nobody's any more


def write_text(path: Path, text: str) -> Path:
    """Write a file whole or not at all, and its folder if need be; SettingError where it cannot be written.
    Halves of characters, in names of files, are escaped."""
    return write_bytes(path, [text.encode("utf-8", "backslashreplace")])


def write_json(path: Path, content: Any) -> Path:
    """Write `content` as indented JSON; see `write_text` and `json_text`."""
    return write_text(path, json_text(content, indent=1) + "\n")


def json_text(content: Any, indent: int | None = None) -> str:
    """`content` as JSON that every reader takes: ASCII, null for what is not finite, and no secrets. Names of
    classes and of pictures (`names_in`) stay as they are."""
    return json.dumps(_plain(content, frozenset(names_in(content))), indent=indent, allow_nan=False)


def outdated(path: Path) -> None:
    """Remove a file that is made of figures which are about to be others: where the process is killed before it
    has written it anew, none is better than one that says something else than what it stands beside."""
    if path.is_file() and not path.is_symlink():
        with contextlib.suppress(OSError):
            path.unlink()


def check_outputs(folder: Path | None = None, file: Path | None = None, nbytes: int = 0) -> None:
    """SettingError where the folder, or the file, could not be written, as far as can be known before it is:
    what takes long to compute should not be lost for a mistyped path. Nothing is left of the trial. `nbytes`: what
    will be written into the folder at the least."""
    if folder is not None:
        nearest = _check_place(folder, Path(os.path.realpath(expanded(folder))))
        if nbytes > (free := shutil.disk_usage(nearest).free):
            raise SettingError(
                f"{folder}: {binary_size(nbytes)} will be written there, and {binary_size(free)} are free; free "
                "some space, or name a folder on another disk"
            )
    if file is not None:
        path = expanded(file)
        if path.is_dir():
            raise SettingError(f"{file}: cannot be written (it is a folder); expected the path of a file")
        # A device, a pipe or a standard stream is written to where it stands, and its folder is left alone.
        if _special(path) or _standard_stream(path) is not None:
            if not os.access(path, os.W_OK):
                raise SettingError(f"{file}: cannot be written (no permission)")
            return
        _check_place(file, Path(os.path.realpath(path)).parent)


def never_lost(write: Callable[[Path], T], folder: Path) -> T:
    """`write(folder)`. Where that cannot be written, it is written to a new folder among the temporary files, or
    else in the current one, and the SettingError says to which: what took long to compute must not end with the
    process for a disk that has become full."""
    try:
        return write(folder)
    except SettingError as error:
        for place in (tempfile.gettempdir(), os.curdir):
            if (kept := _kept_in(place, write)) is not None:
                raise SettingError(f"{error}; it is kept in {kept} instead: move it to where it fits") from error
        raise


def _kept_in(place: str, write: Callable[[Path], Any]) -> Path | None:
    """The new folder within `place` that was written to; None, and nothing is left of it, where none could be."""
    try:
        made = Path(tempfile.mkdtemp(prefix="headstart-", dir=place)).absolute()
    except OSError:
        return None
    try:
        write(made)
    except (SettingError, OSError):
        shutil.rmtree(made, ignore_errors=True)
        return None
    return made


def _check_place(path: Path, folder: Path) -> Path:
    """The folder that is to hold `path`, or the first above it that is there; SettingError unless a file can be
    made in it."""
    nearest = folder
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        raise SettingError(f"{path}: cannot be written ({nearest} is no folder)")
    try:  # permission bits alone do not tell: /proc, a disk that is mounted to be read only, one that is full
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except PermissionError as error:
        raise SettingError(f"{path}: cannot be written (no permission to write into {nearest})") from error
    except OSError as error:
        reason = error.strerror or error
        raise SettingError(f"{path}: cannot be written (no file can be made in {nearest}: {reason})") from error
    return nearest


def write_bytes(path: Path, chunks: Iterable[bytes | memoryview]) -> Path:
    """Write a file; see `write_text`. Errors of ours that come up as the chunks are made pass."""
    path = expanded(path)
    try:
        written_whole(path, chunks)
    except HeadstartError:
        raise
    except OSError as error:
        raise SettingError(f"{path}: cannot be written ({error.strerror or error})") from error
    except ValueError as error:  # a NUL in the name
        raise SettingError(f"{path}: cannot be written ({error})") from error
    return path


def written_whole(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """`write_bytes`, with OSErrors as they are."""
    from headstart.common.files import replace_whole

    if (stream := _standard_stream(path)) is not None:
        for held in (sys.stdout, sys.stderr):
            if held is not None:
                held.flush()
        _write_all(stream, chunks)
        return
    if _special(path):
        _write_into(path, chunks)
        return
    target = Path(os.path.realpath(path))  # of a link, also of one whose target is not there yet
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing_into(target.parent):
        replace_whole(target, chunks)


def _special(path: Path) -> bool:
    """Whether something is there, links followed, that is neither a file nor a folder."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _standard_stream(path: Path) -> int | None:
    """1 or 2 where the path is what that stream goes to, /dev/stdout for one: the file must not be replaced under
    it."""
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(stream)):
                return stream
    return None


def _write_into(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    # O_NONBLOCK: a pipe that nobody reads is an error, and not a wait without end.
    handle = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    try:
        if hasattr(os, "set_blocking"):  # Windows has it since Python 3.12, and nothing to be undone
            os.set_blocking(handle, True)
        _write_all(handle, chunks)
    finally:
        os.close(handle)


def _write_all(handle: int, chunks: Iterable[bytes | memoryview]) -> None:
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            view = view[os.write(handle, view) :]


@contextlib.contextmanager
def writing_into(folder: Path, alone: bool = False) -> Iterator[None]:
    """While the body writes files into a folder, under a lock on the folder itself, which leaves no file and ends
    with the process. Afterwards what killed writers left there is removed, where nobody else is writing.

    `alone`: nobody else may write meanwhile; OSError (EBUSY) where somebody does for half a minute."""
    with _locked(folder, alone) as held:
        try:
            yield
        finally:
            if held is None:
                _remove_unfinished(folder, STALE_SECONDS)
            elif held():
                _remove_unfinished(folder, 0.0)


@contextlib.contextmanager
def _locked(folder: Path, alone: bool) -> Iterator[Callable[[], bool] | None]:
    """Yields whether this process is the only one that holds it, to be asked; None where that cannot be known."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows; a folder that may be written and not read
        yield None
        return
    try:
        mode = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        end, known = time.monotonic() + LOCK_SECONDS, False
        while True:
            try:
                fcntl.flock(handle, mode | fcntl.LOCK_NB)
                known = True
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    break  # a file system without such locks
                if time.monotonic() > end:
                    if alone:
                        raise OSError(errno.EBUSY, "another process has been writing there") from None
                    break
                time.sleep(0.01)

        def only() -> bool:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            return True

        yield only if known else None
    finally:
        os.close(handle)


def _remove_unfinished(folder: Path, age: float) -> None:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not UNFINISHED.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime < age:
                    continue
                if entry.is_dir(follow_symlinks=False):  # of `headstart.common.staging`
                    shutil.rmtree(entry.path)
                elif entry.is_symlink() or entry.is_file(follow_symlinks=False):
                    Path(entry.path).unlink()


def _plain(value: Any, names: Collection[str]) -> Any:
    """As JSON has it. `names`: texts that stay as they are."""
    if isinstance(value, str):
        return value if value in names else redacted(value)
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {
            _plain(name, names) if isinstance(name, str) else name: _plain(v, names) for name, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(entry, names) for entry in value]
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return _plain(value.tolist(), names)
    return value
