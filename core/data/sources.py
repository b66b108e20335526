"""Where data sets come from: a folder a class, scikit-learn's digits, and two published ones (arrays: `arrays`).

Invariant: nothing is left out silently. A file that is not an image is an error, or with `on_error="skip"` a
line in `Dataset.skipped`; a data set that cannot be trained on is refused when it is opened, not later.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from headstart.data import cifar
from headstart.data.dataset import ArraySource, Dataset, FileSource, Skipped
from headstart.data.download import fetch
from headstart.errors import DataError, ImageError, UnknownNameError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LITTER = ("thumbs.db", "desktop.ini", "__macosx")  # what operating systems leave behind; dotfiles too
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR10_NBYTES = 170_052_171
FLOWERS_URL = "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"
FLOWERS_SHA256 = "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"
FLOWERS_NBYTES = 228_813_984
MAX_UNPACKED_NBYTES = 1 << 30
MAX_MEMBERS = 100_000  # the published archive has 3,677
NAMES = ("digits", "cifar10", "flowers")


def open_data(text: str, on_error: str = "raise") -> Dataset:
    """The data set that the command line names: "digits", "cifar10", "flowers", or the path of a folder."""
    if text in NAMES:
        return {"digits": digits, "cifar10": cifar10, "flowers": flowers}[text]()
    if Path(text).expanduser().exists() or os.sep in text or "/" in text:
        return folder(text, on_error)
    raise UnknownNameError("data set", text, NAMES, hint=" (and there is no folder of that name)")


def folder(path: str | Path, on_error: str = "raise") -> Dataset:
    """Images in a folder a class: `path/<class>/**/<image>`, classes sorted by name.

    JPEG, PNG, WebP and BMP; dotfiles, and files that lie beside the class folders, are ignored. Any other
    file raises `ImageError`. With `on_error="skip"`, every file is decoded once at opening, and what fails is
    left out and listed in `.skipped`. Raises `DataError` for a folder that cannot be trained on: missing, no
    or just one class, an empty class.
    """
    if on_error not in ("raise", "skip"):
        raise UnknownNameError("on_error", on_error, ("raise", "skip"))
    root = Path(path).expanduser()
    if not root.is_dir():
        found = "is a file: unpack it, or name the folder" if root.exists() else "does not exist: check the path"
        raise DataError(f"the data folder {root} {found}; expected a folder that holds one folder a class")
    try:
        classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not _litter(entry.name))
    except OSError as error:
        raise DataError(f"the data folder {root} cannot be read: {error.strerror}") from error
    if len(classes) < 2:
        count = f"only one class folder, {classes[0]!r}" if classes else "no class folders"
        raise DataError(
            f"{root} holds {count}; expected at least two, each with the images of one class. Is this the "
            "folder above or below the right one?"
        )
    paths: list[str] = []
    labels: list[int] = []
    skipped: list[Skipped] = []
    for label, name in enumerate(classes):
        for file in _files(root / name):
            if file.lower().endswith(SUFFIXES):
                paths.append(file)
                labels.append(label)
                continue
            reason = f"is not an image by its name; expected one of {' '.join(SUFFIXES)}"
            if on_error == "raise":
                raise ImageError(file, f'{reason}. Move it elsewhere, or pass on_error="skip"')
            skipped.append(Skipped(file, reason))
    _no_empty_class(root, classes, labels, skipped)
    source = FileSource(paths, np.array(labels))
    if on_error == "raise":
        return Dataset(source, classes, root.resolve().name)
    errors = source.errors()
    sound = np.array([i for i in range(len(paths)) if i not in errors], np.int64)
    skipped += [Skipped(error.source, error.reason) for error in errors.values()]
    _no_empty_class(root, classes, source.labels[sound].tolist(), skipped)
    return Dataset(source, classes, root.resolve().name, sound, skipped)


def digits() -> Dataset:
    """scikit-learn's bundled digits: 1797 grey images of 8 x 8, ten classes. Needs no download."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.floor(bunch.images * (255 / 16) + 0.5).astype(np.uint8)  # published as 0 to 16
    return Dataset(ArraySource(images, bunch.target, "digits"), [str(i) for i in range(10)], "digits")


def cifar10(root: str | Path | None = None, split: str = "train", download: bool = True) -> Dataset:
    """CIFAR-10, 50,000 training and 10,000 test images of 32 x 32; `split` is "train", "test" or "all".

    Taken from the published archive, binary or Python, packed or unpacked, that lies in `root` (default:
    `HEADSTART_DATA`, else the user's cache directory); else downloaded there. Raises `DataError`.
    """
    if split not in cifar.PARTS:
        raise UnknownNameError("split", split, cifar.PARTS)
    place = data_root(root)
    found = cifar.find(place)
    if found is None:
        _may_download(download, "CIFAR-10", place, CIFAR10_URL)
        found = fetch(CIFAR10_URL, place / CIFAR10_URL.rsplit("/", 1)[-1], CIFAR10_SHA256, CIFAR10_NBYTES)
    images, labels = cifar.read(found, split)
    return Dataset(ArraySource(images, labels, f"cifar10 {split}"), cifar.CLASSES, "cifar10")


def flowers(root: str | Path | None = None, download: bool = True) -> Dataset:
    """TensorFlow's flower photos, 3,670 JPEGs in five classes (Creative Commons BY).

    The folder `flower_photos` in `root` (default as for `cifar10`) is used, else the archive in it is
    unpacked, else it is downloaded. Raises `DataError`.
    """
    place = data_root(root)
    target = place / "flower_photos"
    if not target.is_dir():
        archive = place / FLOWERS_URL.rsplit("/", 1)[-1]
        if not archive.exists():
            _may_download(download, "flower_photos", place, FLOWERS_URL)
        unpack(fetch(FLOWERS_URL, archive, FLOWERS_SHA256, FLOWERS_NBYTES), target)
    return folder(target)


def unpack(archive: Path, target: Path) -> None:
    """Unpack the folder `target.name` of a .tar.gz to `target`: whole or not at all.

    Nothing is written outside. Raises `DataError` for an archive that is damaged, or tries to.
    """
    import tarfile

    from headstart.data.archives import checked, opened

    if not hasattr(tarfile, "data_filter"):
        raise DataError(f"this Python cannot unpack {archive} safely; update it to 3.11.4 or later")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            with opened(archive, MAX_UNPACKED_NBYTES, MAX_MEMBERS) as (tar, members):
                # Links are refused as well as filtered: that filter has let some through (CVE-2025-4517).
                tar.extractall(scratch, map(checked, members), filter="data")
            inner = Path(scratch, target.name)
            if not inner.is_dir():
                raise DataError(f"{archive} does not hold a folder {target.name}; remove it to download it again")
            try:
                inner.rename(target)
            except OSError:
                if not target.is_dir():  # else another process was first
                    raise
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked: {error}") from error


def _litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def _files(folder: Path) -> Iterator[str]:
    """The paths of all files below, sorted. Links to folders are followed, each folder once, as they may go in
    circles."""
    seen: set[tuple[int, int]] = set()
    pending = [str(folder)]
    while pending:
        here = pending.pop()
        try:
            stat = os.stat(here)  # noqa: PTH116 - with scandir, half the time of Path's on large folders
            with os.scandir(here) as scan:
                entries = sorted((e.name, e.path, e.is_dir()) for e in scan if not _litter(e.name))
        except OSError as error:
            raise DataError(f"{here} cannot be read: {error.strerror}") from error
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        yield from (path for _, path, is_folder in entries if not is_folder)
        pending += [path for _, path, is_folder in reversed(entries) if is_folder]


def _no_empty_class(root: Path, classes: list[str], labels: list[int], skipped: list[Skipped]) -> None:
    present = set(labels)
    if empty := [name for label, name in enumerate(classes) if label not in present]:
        left_out = f" {len(skipped)} files were skipped, the first: {skipped[0]}." if skipped else ""
        raise DataError(
            f"{root} has no usable image in {', '.join(map(repr, empty))}.{left_out} Expected at least one "
            f"({' '.join(SUFFIXES)}) in every class folder; add images or remove the folder"
        )


def data_root(root: str | Path | None = None) -> Path:
    """Where downloads are kept: `root`, else `HEADSTART_DATA`, else in the user's cache directory."""
    if root is None:
        root = os.environ.get("HEADSTART_DATA") or None
    if root is not None:
        return Path(root).expanduser()
    from platformdirs import user_cache_path

    return Path(user_cache_path("headstart", appauthor=False)) / "data"


def _may_download(download: bool, what: str, place: Path, url: str) -> None:
    if not download:
        raise DataError(f"there is no {what} in {place}, and download=False; put the file from {url} there")
