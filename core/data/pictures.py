"""Pictures without labels, as predictions take them: whatever somebody names, in the order in which it is named.

Invariant: folders are walked as for training, and a picture is the same sample however it comes. One that cannot
be read is an error; or with `on_error="skip"` it is left out and listed, or, not examined at opening, keeps its
place until it is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.common.errors import DataError, SettingError
from headstart.data.annotations import unlabelled
from headstart.data.any_files import files_for
from headstart.data.arrays import arrays, pixels
from headstart.data.colours import mend_of
from headstart.data.dataset import Dataset, FileSource
from headstart.data.decode import decode
from headstart.data.door import as_data_set, described, is_frame, is_hub_set
from headstart.data.encoded import sound
from headstart.data.file_system import BROKEN, FILE, Files
from headstart.data.formats import BELIEVED
from headstart.data.hub_sets import hub_pictures, is_saved_hub_set
from headstart.data.layouts import refuse_url
from headstart.data.left_out import Skipped, check_on_error
from headstart.data.listed import images_listed, is_table
from headstart.data.patterns import is_pattern, without_patterns
from headstart.data.place import FILE as FILE_URL
from headstart.data.place import is_remote, place_of
from headstart.data.summary import say
from headstart.data.tars import is_tar, tar_pictures
from headstart.data.walk import named, walk
from headstart.data.workers import FETCHES, in_threads

PICTURES = (
    "a path, a folder, a Pillow image, the bytes of an image file, a list of such or of uint8 arrays (h, w, 3), "
    "a uint8 array (n, h, w, 3), a data set or features"
)


def images_at(
    paths: str | Path | Sequence[str | Path],
    on_error: str = "raise",
    image: str | None = None,
    root: str | Path | None = None,
    *,
    examine: bool = True,
    truncated: str = "raise",
) -> Dataset:
    """Image files without labels: files, folders and patterns, one or more, walked as `folder` walks a class; or
    WebDataset's tars; or one table that lists them, of which `image` and `root` are said as in `images_listed`; or
    one folder that the library `datasets` saved.

    Every label is 0, of the one class "0". A file that is named itself is taken whatever its name says. With
    `on_error="skip"` every image is decoded once, and what fails is left out and listed in `.skipped`; with
    `examine=False` as well, nothing is decoded now, and images and rows of a table keep their places: what cannot
    be read shows when it is loaded. `truncated`: as of `folder`. Raises `DataError` for a path that is not there,
    and where no image is left, and what `walk` raises.
    """
    check_on_error(on_error)
    decoding = on_error if examine else "raise"
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    for path in paths:
        refuse_url(path)
    asked = paths
    paths = without_patterns([place_of(path) if str(path).startswith(FILE_URL) else path for path in paths])
    if len(paths) == 1 and is_table(paths[0]):
        return images_listed(paths[0], on_error, image, root, examine=examine, truncated=truncated)
    if len(paths) == 1 and is_saved_hub_set(paths[0]) and root is None:
        return hub_pictures(paths[0], image, decoding, truncated)
    if image is not None or root is not None:
        raise DataError(
            "image= and root= (--image, --root) are about a table of images; expected one, and no other path"
        )
    if paths and all(map(is_tar, paths)):
        return tar_pictures(paths, on_error, truncated, examine=examine)
    files: list[str] = []
    left_out: list[Skipped] = []
    places = files_for(map(place_of, paths))
    _look_up([place for place in map(place_of, paths) if is_remote(place)], places)
    for path in paths:
        if is_tar(path) or is_table(path):
            raise DataError(f"{path} is named among other paths; expected tars alone, one table alone, or images")
        if on_error == "skip" and not examine and _is_file(path, places):
            files.append(place_of(path))
            continue
        below = walk(path, on_error, places)
        files += below.files
        left_out += below.skipped
    source = FileSource(files, truncated, places)
    data = sound(source, unlabelled(len(files)), _called(asked, places), left_out, decoding)
    if not len(data):
        left = f"; left out: {named(data.skipped)}" if data.skipped else ""
        raise DataError(f"no image files in {', '.join(map(str, paths))}{left}")
    return data


def _called(paths: Sequence[str | Path], places: Files) -> str:
    """What the images of these paths are called together: as the folder, or the pattern, where there is one."""
    if len(paths) > 1:
        return "files"
    place = place_of(paths[0])
    return str(paths[0]) if is_pattern(paths[0]) else places.of(place).full_name(place)


def pictures_of(images: Any, on_error: str = "raise") -> Dataset:
    """Images of any accepted kind as a data set, whose labels mean nothing where they were not among them. With
    `on_error="skip"`, files that cannot be read keep their places (see `images_at`, not examined)."""
    if isinstance(images, Dataset):
        return images
    if isinstance(images, str | os.PathLike):
        data = images_at(_path(images), on_error, examine=False)
        if len(data) != 1 or data.skipped:
            say(data)
        return data
    if hasattr(images, "read") and not isinstance(images, Image.Image):
        raise SettingError(f"images is an open file ({type(images).__name__}); pass its bytes: images.read()")
    if is_frame(images):
        return images_listed(images, on_error, examine=False)
    if is_hub_set(images):
        return hub_pictures(images)
    if isinstance(images, Image.Image | bytes | bytearray | memoryview):
        images = [images]
    elif isinstance(images, np.ndarray) and images.dtype.kind not in "OUS":
        return _of_array(images)
    elif isinstance(images, np.ndarray):
        images = images.reshape(-1).tolist()
    elif isinstance(images, list | tuple | Iterator) or type(images).__name__ == "Column":
        images = list(images)
    elif isinstance(opened := as_data_set(images), Dataset):
        return opened
    else:
        what, mend = described(images, "images")
        raise SettingError(f"images is {what}; expected {PICTURES}{mend and ': ' + mend}")
    if all(isinstance(item, str | os.PathLike) for item in images):
        return _of_files([_path(item) for item in images], on_error)
    loaded = [_loaded(item, f"image {i}") for i, item in enumerate(images)]
    return arrays(loaded, np.zeros(len(loaded), np.int64))


def _of_array(images: np.ndarray) -> Dataset:
    if images.ndim < 3:
        raise SettingError(f"images are {images.dtype} of shape {images.shape}; expected (n, h, w, 3)")
    if images.ndim == 3 and images.shape[2] in (1, 3, 4):
        raise SettingError(
            f"expected a batch of images (n, h, w, 3), received one of shape {images.shape}: images[None]"
        )
    if images.ndim == 3 and images.shape[0] == 3:
        raise SettingError(
            f"images of shape {images.shape} could be one with its channels first, or three grey ones: of one "
            "np.moveaxis(images, 0, -1)[None], of grey ones images[..., None]"
        )
    if images.dtype != np.uint8:
        raise SettingError(f"the pixels are {images.dtype}; expected uint8, 0 to 255{mend_of(images.dtype)}")
    return arrays(images, np.zeros(len(images), np.int64)) if len(images) else _files([])


def _of_files(paths: list[str], on_error: str) -> Dataset:
    """Files as they are; with folders, patterns, tables or tars among them, what these mean."""
    if any(is_pattern(path) or is_tar(path) or is_table(path) or _may_be_folder(path) for path in paths):
        data = images_at(paths, on_error, examine=False)
        say(data)
        return data
    return _files(paths)


def _files(paths: Sequence[str]) -> Dataset:
    """Files, left where they are, to be decoded in threads, a batch at a time."""
    return Dataset(FileSource(paths), unlabelled(len(paths)), "files")


def _may_be_folder(path: str) -> bool:
    """Whether it is one; of a URL, which is not looked up for that, whether it is not called as an image is."""
    return not path.lower().endswith(BELIEVED) if is_remote(path) else Path(path).is_dir()


def _look_up(urls: list[str], places: Files) -> None:
    """Ask for many URLs of pictures at once, so that the walk need not, one by one."""
    pictures = [url for url in urls if url.lower().endswith(BELIEVED)]
    if len(pictures) > 1:
        in_threads(
            lambda url: places.of(url).is_file(url), pictures, "looking for images", lambda *_: None, 1, FETCHES
        )


def _is_there(places: Files, url: str) -> bool:
    return places.of(url).is_file(url)


def _is_file(path: str | Path, places: Files) -> bool:
    """Whether it is there and no folder: a file, a pipe, a link that leads nowhere."""
    place = place_of(path)
    return places.of(place).kind(place) in (FILE, BROKEN)


def _path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not text:
        raise SettingError('images is "", which names no file; expected the path of an image or of a folder')
    refuse_url(path)
    return place_of(path)


def _loaded(item: Any, what: str) -> np.ndarray:
    if isinstance(item, str | os.PathLike):
        place = _path(item)
        return np.asarray(decode(files_for([place]).read(place), place))
    if isinstance(item, bytes | bytearray | memoryview):
        return np.asarray(decode(bytes(item), what))
    return pixels(item, what)
