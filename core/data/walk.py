"""Which image files lie below a folder: the one walk, for training and for prediction.

* Nothing is left out silently. What cannot be read (a link to a disk that is not mounted, a folder that may not
  be opened) and what is no image raises, or with `on_error="skip"` is listed with the reason. Litter is logged at
  debug.
* Every folder is walked once, however many links lead to it. Real folders come before links to them, so a picture
  belongs where it lies; a link that leads back, or up to a folder that holds it, is cut and listed.
* A file's name is believed where it has an image's ending (`formats.BELIEVED`), as decoding looks at the content
  anyway and a hundred thousand files must not be opened; any other file is told by its first bytes.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from headstart.common.errors import DataError, ImageError
from headstart.common.log import LOG
from headstart.common.text import counted, first_few
from headstart.data.any_files import files_for
from headstart.data.file_system import BROKEN, FOLDER, LOCAL, Files, FileSystem, Key
from headstart.data.formats import BELIEVED
from headstart.data.left_out import SKIP, Skipped, Unread, check_on_error
from headstart.data.litter import is_litter
from headstart.data.place import place_of

NO_FILE = "is a pipe, socket or device, and no regular file"
IN_ICLOUD = "stands for a file that is in iCloud only; download it"
SHOWN = 5  # problems that an error names


@dataclass(frozen=True)
class Walk:
    """What lies below a folder."""

    files: tuple[str, ...]
    """paths of image files: of each folder its files, sorted, then its folders"""
    skipped: tuple[Skipped, ...]
    """what was left out and why: links that lead back; with `on_error="skip"` also what is no image, and as
    `Unread` what could not be read"""


def walk(path: str | Path, on_error: str = "raise", files: Files | None = None) -> Walk:
    """The image files below a folder, at any depth; of a file's path just that file, whatever its name.

    `files`: where it lies, with what is known of that place; None: it is opened.
    `on_error`: "raise", or "skip" for a list of what cannot be taken. No image is decoded: whether a file named
    .jpg is one shows when it is loaded.

    Raises DataError for a path that is not there, and for folders and links that cannot be read, ImageError for a
    file that is no image, UnknownNameError for another `on_error`.
    """
    check_on_error(on_error)
    top = place_of(path)
    there = (files_for([top]) if files is None else files).of(top)
    kind = there.kind(top)
    if kind is None:
        raise DataError(f"{top}: there is no such file or folder; check the path")
    if kind == BROKEN:
        if on_error == "raise":
            raise DataError(named([broken(top)]))
        return Walk((), (broken(top),))
    walker = Walker(top, there)
    if kind != FOLDER:
        return _one_file(walker, top, on_error)
    walker.add({"": top})
    walker.check(on_error)
    return Walk(tuple(walker.files(top)), tuple(walker.left_out))


def _one_file(walker: Walker, path: str, on_error: str) -> Walk:
    """A file that was named itself: its content decides alone, and a file that is no image is told at once."""
    if walker.is_image(path):
        return Walk((path,), ())
    walker.check(on_error)
    return Walk((), tuple(walker.left_out))


@dataclass
class _Folder:
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


class Walker:
    """A walk of several folders below one root, each under a label of its own: the classes of a data set."""

    def __init__(self, root: str, files: FileSystem = LOCAL) -> None:
        self._there = files
        self.left_out: list[Skipped] = []
        self.strays: list[Skipped] = []
        """of `left_out`, files that are no images"""
        self.doubles: list[Skipped] = []
        """of `left_out`, folders under two labels"""
        self._folders: dict[str, _Folder] = {}
        self._seen: dict[Key, tuple[str | None, str]] = {}  # -> label, path
        self._root = root
        for above in files.holders(root):
            self._see(above, None)

    def add(self, tops: dict[str, str]) -> None:
        """Walk these folders, label -> path: whatever is really there first, then what links lead to."""
        is_link = {label: path != self._root and self._there.is_link(path) for label, path in tops.items()}
        links = deque((label, path) for label, path in tops.items() if is_link[label])
        if self._root not in tops.values():
            self._see(self._root, None)
        for label, path in tops.items():
            if not is_link[label]:
                self._descend(label, path, links)
        while links:
            label, path = links.popleft()
            if (above := _leads_up(path)) is None:
                self._descend(label, path, links)
            else:
                self.left_out.append(Skipped(path, f"is a link that leads back to {above}, in which it lies"))

    def files(self, top: str) -> Iterator[str]:
        """The image files below a folder that was walked, in order."""
        pending = [top]
        while pending:
            folder = self._folders.get(pending.pop())
            if folder is not None:
                yield from folder.files
                pending += reversed(folder.folders)

    def was_read(self, top: str) -> bool:
        return top in self._folders

    def below(self, top: str) -> list[str]:
        """Names of the folders in a folder that was walked, if all of its images are in these; else none."""
        folder = self._folders[top]
        return [] if folder.files else [Path(path).name for path in folder.folders if path in self._folders]

    def check(self, on_error: str) -> None:
        """With "raise", raise for what has to be left out though somebody may want it."""
        if on_error == "skip":
            return
        skip = f"pass {SKIP} to go on without"
        if unread := [problem for problem in self.left_out if isinstance(problem, Unread)]:
            raise DataError(f"{named(unread)}. Mend that, or {skip}")
        if self.doubles:
            raise DataError(f"{named(self.doubles)}. Remove the link, or {skip}")
        if self.strays:
            others = len(self.strays) - 1
            more = (
                f" (and {counted(others, 'more file')} that {'is no image' if others == 1 else 'are no images'})"
                if others
                else ""
            )
            raise ImageError(
                self.strays[0].path, f"{self.strays[0].reason}{more}. Move what is no image elsewhere, or {skip}"
            )

    def _descend(self, label: str, top: str, links: deque[tuple[str, str]]) -> None:
        """Walk a folder and all real ones below; links to folders are put off."""
        pending = [top]
        while pending:
            path = pending.pop()
            if self._see(path, label):
                below = self._scan(path, label, links)
                pending += reversed(below)

    def _see(self, path: str, label: str | None) -> bool:
        """Whether the folder is new, and may be walked under this label."""
        try:
            key = self._there.identity(path)
        except OSError as error:
            if label is not None:
                self._unread(path, error)
            return False
        before = self._seen.get(key)
        if before is None:
            self._seen[key] = (label, path)
            return True
        if label is None:
            return False
        other, where = before
        if other is None:
            reason = f"leads back to {where}, which holds the data set"
        elif other == label:
            reason = f"is the same folder as {where}, which is walked already"
        else:
            reason = (
                f"is the same folder as {where}: its pictures would be there twice, as {other!r} and as {label!r}"
            )
        double = Skipped(path, reason)
        self.left_out.append(double)
        if other not in (None, label):
            self.doubles.append(double)
        return False

    def _scan(self, path: str, label: str, links: deque[tuple[str, str]]) -> list[str]:
        """List one folder; returns the real folders in it."""
        here = _Folder()
        below: list[str] = []
        try:
            entries = self._there.scan(path)
        except OSError as error:
            self._unread(path, error)
            return below
        self._folders[path] = here
        for entry in entries:
            name = entry.name
            if is_litter(name):
                if name.endswith(".icloud"):
                    self.left_out.append(Unread(entry.path, IN_ICLOUD))
                LOG.debug("ignored: %s", entry.path)
                continue
            try:
                is_folder = entry.is_dir()
                is_link = entry.is_symlink()
                is_file = not is_folder and entry.is_file()
            except OSError as error:  # a link to itself; a disk that fails
                self._unread(entry.path, error)
                continue
            if is_folder:
                here.folders.append(entry.path)
                if is_link:
                    links.append((label, entry.path))
                else:
                    below.append(entry.path)
            elif is_file:
                if name.lower().endswith(BELIEVED) or self.is_image(entry.path):
                    here.files.append(entry.path)
            elif is_link and not _is_there(entry.path):
                self.left_out.append(broken(entry.path))
            else:
                self._stray(entry.path, NO_FILE)
        return below

    def is_image(self, path: str) -> bool:
        """Look at a file's first bytes; what is no image is left out."""
        try:
            if not self._there.is_file(path):
                self._stray(path, NO_FILE)
                return False
            reason = self._there.no_image(path)
        except OSError as error:
            self._unread(path, error)
            return False
        if reason is None:
            return True
        self._stray(path, reason)
        return False

    def _stray(self, path: str, reason: str) -> None:
        self.strays.append(Skipped(path, reason))
        self.left_out.append(self.strays[-1])

    def _unread(self, path: str, error: OSError) -> None:
        self.left_out.append(unread(path, error))


def unread(path: str, error: OSError) -> Unread:
    """What to say of a file or folder that cannot be read."""
    if Path(path).is_symlink() and not _is_there(path):
        return broken(path)
    return Unread(path, f"cannot be read: {error.strerror or error}")


def broken(path: str) -> Unread:
    """What to say of a link whose target cannot be reached."""
    try:
        target = os.readlink(path)  # noqa: PTH115 - as it was written, which Path would tidy
        os.stat(path)  # noqa: PTH116
    except OSError as error:
        if error.errno == errno.ENOENT:
            return Unread(path, f"is a link to {target}, which is not there (a disk that is not mounted?)")
        if error.errno == errno.ELOOP:
            return Unread(path, f"is a link to {target}, and these links lead in a circle")
        return Unread(path, f"cannot be read: {error.strerror or error}")
    return Unread(path, f"is a link to {target}, which came and went")


def named(problems: Collection[Skipped]) -> str:
    """The first few of them in one line."""
    return first_few([f"{problem.path} {problem.reason}" for problem in problems], SHOWN, "; ")


def _leads_up(link: str) -> str | None:
    """The folder that a link leads to, if the link itself lies in it or below."""
    holder, target = os.path.realpath(Path(link).parent), os.path.realpath(link)
    return target if holder == target or holder.startswith(target.rstrip(os.sep) + os.sep) else None


def _is_there(path: str) -> bool:
    try:
        os.stat(path)  # noqa: PTH116 - Path.exists raises where a folder above may not be entered
    except OSError:
        return False
    return True
