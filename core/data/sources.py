"""Data sets by name: what the command line calls one, scikit-learn's digits, and two published ones.

Invariant: a name means one thing. Where a folder here is called as a data set of ours, both are named and
nothing is opened. (Folders of images: `folders`; arrays: `arrays`.)
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from headstart.common.download import fetch
from headstart.common.errors import DataError, UnknownNameError
from headstart.common.places import data_root
from headstart.data import cifar
from headstart.data.annotations import single
from headstart.data.dataset import ArraySource, Dataset
from headstart.data.folders import folder
from headstart.data.frames import KINDS
from headstart.data.hub_sets import huggingface, is_saved_hub_set
from headstart.data.layouts import refuse_url
from headstart.data.listed import is_table
from headstart.data.litter import is_litter
from headstart.data.place import FILE, expanded, is_remote, place_of, suffix_of
from headstart.data.table import Columns, table
from headstart.data.tars import tar_set

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR10_NBYTES = 170_052_171
FLOWERS_URL = "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"
FLOWERS_SHA256 = "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"
FLOWERS_NBYTES = 228_813_984
MAX_UNPACKED_NBYTES = 1 << 30
MAX_MEMBERS = 100_000  # the published archive has 3,677
NAMES = ("digits", "cifar10", "flowers")
BUILTIN = "builtin:"


def open_data(
    text: str,
    on_error: str = "raise",
    classes: Sequence[str] | None = None,
    columns: Columns | None = None,
    truncated: str = "raise",
) -> Dataset:
    """The data set that the command line names: "digits", "cifar10", "flowers", or the path of a folder, a
    table, a WebDataset tar (or a pattern of such), or what the library `datasets` saved; or the URL of one of the
    first three, see `folder`.

    Where a folder is called like one of the three, "./digits" is the folder and "builtin:digits" the data set, and
    the bare name raises `DataError`. `classes`, `columns`, `truncated`: see `folder` and `table`. Else raises what
    `folder` and the data sets raise.
    """
    columns = columns or Columns()
    how = {"on_error": on_error, "truncated": truncated}
    opened = {"digits": digits, "cifar10": cifar10, "flowers": flowers}
    name = text.removeprefix(BUILTIN)
    if name in opened and (name != text or not Path(text).is_dir()):
        columns.only(kind=f"{name}, a data set of headstart's,")
    if name in opened and name != text:
        return opened[name]()
    if text in opened:
        if Path(text).is_dir():
            raise DataError(
                f"{text!r} is a data set of headstart's, and there is a folder of that name here; write "
                f"./{text} for the folder, or {BUILTIN}{text}"
            )
        return opened[text]()
    refuse_url(text)
    text = place_of(text) if text.startswith(FILE) else text
    path = expanded(text)
    if is_table(text):
        return table(text, **columns.asked(), classes=classes, **how)
    if path.suffix.lower() == ".tar":
        asked = columns.only("label", "task", "separator", kind="a tar")
        return tar_set(text, **asked, classes=classes, implied=True, **how)
    if is_saved_hub_set(path):
        asked = columns.only("image", "label", "group", "weight", "fold", "task", kind="a saved data set")
        return huggingface(path, **asked, classes=classes, **how)
    if path.suffix.lower() in KINDS and not os.path.lexists(path):
        raise DataError(f"there is no table {text} here; check the path")
    if not text or os.path.lexists(path) or os.sep in text or "/" in text:
        if path.is_dir() or is_remote(text):
            columns.only(kind="a folder of images")
        return folder(text, classes=classes, **how)
    if path.suffix:
        raise DataError(f"there is no file or folder {text}; expected a folder that holds one folder a class")
    beside = [entry.name for entry in sorted(Path().iterdir()) if entry.is_dir()]
    folders = [f"{name}/" for name in beside if not is_litter(name)]
    if near := get_close_matches(text, folders, n=1):
        raise DataError(f"there is no folder {text} here; did you mean {near[0]}?")
    raise UnknownNameError("data set", text, NAMES, hint=" (and there is no folder of that name)")


def are_photographs(text: str) -> bool:
    """Whether `open_data` gives pictures such as people take: whatever it opens but the digits, grey images of
    8 pixels. Nothing is opened."""
    return text.removeprefix(BUILTIN) != "digits"


def takes_columns(text: str) -> bool:
    """Whether what `text` names is a table, or another set in whose place columns can be named."""
    if suffix_of(text) in (*KINDS, ".tar"):
        return is_table(text) or suffix_of(text) == ".tar"
    return is_saved_hub_set(text)


def digits() -> Dataset:
    """scikit-learn's bundled digits: 1797 grey images of 8 x 8, ten classes. Needs no download."""
    levels, classes = _bundled_digits()
    images = np.floor(levels * (255 / 16) + 0.5).astype(np.uint8)  # published as 0 to 16
    return Dataset(ArraySource(images, "digits"), single(classes, [str(i) for i in range(10)]), "digits")


@cache
def _bundled_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images of float64, N x 8 x 8, and their classes, as `sklearn.datasets.load_digits` reads them. The file is
    read where it lies: importing scikit-learn takes ten times as long. Where it lies elsewhere, it is asked. Read
    once a process: nobody may change what comes back."""
    package = find_spec("sklearn")
    for folder_of_package in (package and package.submodule_search_locations) or ():
        file = Path(folder_of_package, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            rows = np.loadtxt(file, delimiter=",")
            return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(int)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target


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
    return Dataset(ArraySource(images, f"cifar10 {split}"), single(labels, cifar.CLASSES), "cifar10")


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


def _may_download(download: bool, what: str, place: Path, url: str) -> None:
    if not download:
        raise DataError(f"there is no {what} in {place}, and download=False; put the file from {url} there")
