"""Other libraries' map-style sets of (image, label), and lists of such pairs.

Invariant: a picture that lies in a file is read from it, so that it is the same sample as in a folder; images that
are in memory are those of `arrays`. No transform of another library is applied: preprocessing is the model's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from headstart.common.errors import DataError, ImageError
from headstart.common.progress import track
from headstart.data.annotations import Annotations, single
from headstart.data.arrays import check_image, pixels
from headstart.data.dataset import ArraySource, Dataset, FileSource
from headstart.data.encoded import EncodedSource, sound
from headstart.data.labels import labels_of
from headstart.data.walk import check_on_error, expanded


def wrap(
    source: Any, classes: Sequence[str] | None = None, on_error: str = "raise", truncated: str = "raise"
) -> Dataset:
    """A map-style set of (image, label), as other libraries have them, or a list of such pairs. Images are paths,
    bytes of image files, Pillow images or uint8 arrays `(h, w, 3)`; labels are class numbers or names, as in
    `arrays`.

    A set that lists its files (`.samples`, as an image folder of another library) is read from them, without its
    transforms. Of others the images come from the set when they are asked for, and so must be uint8 or Pillow: a
    transform to floats is refused. `classes`: default the set's own `.classes`. `on_error`, `truncated`: of files
    and encoded bytes, as of `folder`. Raises DataError for what is no
    such set.
    """
    check_on_error(on_error)
    if _lists_files(source):
        names = list(source.classes) if classes is None else list(classes)
        about = _labels([label for _, label in source.samples], names, len(source.samples))
        files = FileSource([str(path) for path, _ in source.samples], truncated)
        return sound(files, about, _name(source), (), on_error)
    if not hasattr(source, "__len__") or not hasattr(source, "__getitem__") or isinstance(source, str | Mapping):
        raise DataError(
            f"the set is a {type(source).__name__}; expected one with a length and (image, label) at each position"
        )
    count = len(source)
    if not count:
        raise DataError("the set has no samples")
    first = _pair(source, 0)[0]
    labels = _own_labels(source, count)
    if labels is None:
        labels = []
        with track("reading labels", count) as advance:
            for i in range(count):
                labels.append(_pair(source, i)[1])
                advance()
    about = _labels(labels, classes if classes is not None else _own_classes(source), count)
    name = _name(source)
    if isinstance(first, str | os.PathLike):
        files = FileSource([str(expanded(_pair(source, i)[0])) for i in range(count)], truncated)
        return sound(files, about, name, (), on_error)
    if isinstance(first, bytes | bytearray | memoryview):
        encoded = EncodedSource(
            count, lambda i: bytes(_pair(source, i)[0]), lambda i: f"sample {i} of {name}", truncated
        )
        return sound(encoded, about, name, (), on_error)
    images = _Images(source, name)
    _ = images[0]
    return Dataset(ArraySource(images, name), about, name)


class _Images(Sequence[np.ndarray]):
    """The images of a set as uint8 arrays, each made when it is asked for."""

    def __init__(self, source: Any, name: str) -> None:
        self._source = source
        self._name = name

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        what = f"image {index} of {self._name}"
        image = pixels(_pair(self._source, int(index))[0], what)
        check_image(image, what)
        return image


def _pair(source: Any, index: int) -> tuple[Any, Any]:
    try:
        item = source[index]
    except (Image.DecompressionBombError, UnidentifiedImageError) as error:
        raise ImageError(f"sample {index} of the set", " ".join(str(error).split())) from error
    if (
        isinstance(item, Mapping)
        or not isinstance(item, Sequence)
        or len(item) != 2
        or isinstance(item, str | bytes)
    ):
        raise DataError(
            f"sample {index} of the set is a {type(item).__name__}; expected a pair (image, label). "
            "hs.data.arrays takes images and labels apart, hs.data.huggingface data sets of that library"
        )
    image, label = item
    if isinstance(label, Image.Image):
        raise DataError(f"the label of sample {index} is an image; expected a class, as a number or a name")
    return image, label


def _lists_files(source: Any) -> bool:
    samples, classes = getattr(source, "samples", None), getattr(source, "classes", None)
    if not isinstance(samples, list) or not samples or not isinstance(classes, list | tuple):
        return False
    return all(isinstance(pair, tuple) and len(pair) == 2 for pair in samples[:10]) and isinstance(
        samples[0][0], str | os.PathLike
    )


def _own_labels(source: Any, count: int) -> list[Any] | None:
    """What the set lists of its labels, so that no image is read for them."""
    for name in ("targets", "labels", "_labels"):
        values = getattr(source, name, None)
        if values is not None and not callable(values):
            values = values.tolist() if hasattr(values, "tolist") else values
            if isinstance(values, list) and len(values) == count:
                transform = getattr(source, "target_transform", None)
                return [transform(value) for value in values] if callable(transform) else values
    return None


def _own_classes(source: Any) -> list[str] | None:
    classes = getattr(source, "classes", None)
    sound_names = isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes)
    return list(classes) if sound_names and classes else None


def _labels(labels: list[Any], classes: Sequence[str] | None, count: int) -> Annotations:
    labels = [int(label) if hasattr(label, "item") and not isinstance(label, str) else label for label in labels]
    read = labels_of(labels, classes, count, "sample")
    return single(read.numbers, read.classes, read.named)


def _name(source: Any) -> str:
    return "pairs" if isinstance(source, list | tuple) else type(source).__name__.lower()
