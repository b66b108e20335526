"""What cannot be written in one piece, since a program of somebody else's writes it or it must be tried before it
counts, is made in a folder beside its place and gets its name when it is whole.

Invariant: the name holds what it held before, or all of what was made. Whatever ends the making, the folder in
which it was made is gone; after a kill the next writer of files there removes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from headstart.common.errors import SettingError
from headstart.common.files import PARTIAL_PREFIX, sync_folder
from headstart.common.outputs import writing_into
from headstart.common.places import expanded


@contextlib.contextmanager
def staged(path: Path, replace: bool = False, marker: str = "") -> Iterator[Path]:
    """The body makes a file, or with `marker` a folder, under the path that it is given; when it ends, that is
    what `path` holds. What else it puts beside it, files that the first one names, goes with it.

    `replace`: whether something may stand under the name already. `marker`: the name of a file that every such
    folder has, so that no other folder is ever replaced. A link is followed: its target is replaced.
    SettingError where the path cannot be written, or holds what is not to be replaced: before the body runs,
    except for what comes up meanwhile.
    """
    path = expanded(path)
    if "\0" in str(path):
        raise SettingError(f"{path}: cannot be written (a path holds no NUL)")
    with writing(path):
        target = Path(os.path.realpath(path))
        _check(path, target, replace, marker)
        made = _make_parents(target.parent)
    try:
        with writing_into(target.parent):
            stage = target.parent / f"{PARTIAL_PREFIX}{uuid4().hex}"
            try:
                with writing(path):
                    stage.mkdir()
                yield stage / target.name
                _check(path, target, replace, marker)
                with writing(path):
                    _place(stage, target)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # somebody may have put something there meanwhile
                folder.rmdir()
        raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the body, which writes for `path`, into a SettingError that names it."""
    try:
        yield
    except OSError as error:
        raise SettingError(f"{path}: cannot be written ({error.strerror or error})") from error


def _check(path: Path, target: Path, replace: bool, marker: str) -> None:
    try:
        mode = target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(mode):
        if not marker:
            raise SettingError(f"{path}: cannot be written (it is a folder); expected the path of a file")
        if next(target.iterdir(), None) is None:
            return
        if not (target / marker).is_file():
            raise SettingError(
                f"{path}: is a folder of something else, without {marker}, and is kept as it is; expected a "
                "folder that is empty or is not there"
            )
    elif marker or not stat.S_ISREG(mode):
        there, expected = ("a file", "folder") if stat.S_ISREG(mode) else ("no file", "file")
        raise SettingError(f"{path}: cannot be written (it is {there}); expected the path of a {expected}")
    if not replace:
        raise SettingError(f"{path}: is there already, and kept as it is; replace=True (--replace) replaces it")


def _make_parents(folder: Path) -> list[Path]:
    """The folders that had to be made, the innermost first."""
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = folder.parent
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
    return missing


def _place(stage: Path, target: Path) -> None:
    """Give what is in the stage its names, that of the target last."""
    for folder, _, names in os.walk(stage):
        for name in names:
            _sync_file(Path(folder, name))
        sync_folder(Path(folder))
    for entry in sorted(stage.iterdir()):
        if entry.name != target.name:
            os.replace(entry, target.parent / entry.name)  # noqa: PTH105 - as in `files`
    made = stage / target.name
    if target.is_dir():
        # No system replaces a folder that holds something at once. The one of before is moved aside, under a name
        # that nobody clears away, should this be killed before the new one is there.
        before = target.with_name(f"{target.name}.before-{uuid4().hex[:8]}")
        target.rename(before)
        try:
            made.rename(target)
        except BaseException:
            before.rename(target)
            raise
        shutil.rmtree(before, ignore_errors=True)
    else:
        made.replace(target)
    sync_folder(target.parent)


def _sync_file(path: Path) -> None:
    # As `files` writes: the bytes must be on the disk before the name is.
    handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
