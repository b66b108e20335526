"""Data sets of what is in memory already: images, or a wrapped model's own inputs, with their labels.

Invariant: what comes in is checked here, once; behind this door every image is uint8 and every label a class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headstart.data.dataset import ArraySource, Dataset, ValueSource
from headstart.data.rows import ALONE, count
from headstart.errors import DataError


def arrays(
    images: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray],
    labels: Sequence[int] | np.ndarray,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Images in memory: uint8 `(n, h, w)` or `(n, h, w, c)` with 1, 3 or 4 channels, or a list of such images
    of differing sizes. Alpha is dropped. Or the inputs of a wrapped model, see `hs.wrap`: an array `(n, ...)` of
    other numbers than uint8, or a dict of arrays `(n, ...)` of any numbers, such as token ids and their mask.

    `labels` are n integers, positions in `classes` (default: "0", "1", ... up to the largest label). The
    arrays are not copied; changing a pixel later is an error when the image is next loaded. Raises
    `DataError` for anything else.
    """
    values: Any = None
    if isinstance(images, Mapping):
        values, what = _values({str(name): np.asarray(value) for name, value in images.items()}), "sample"
    elif isinstance(images, np.ndarray) and images.dtype != np.uint8:
        values, what = _values({ALONE: images})[ALONE], "sample"
    else:
        values, what = _images(images), "image"
    given = count(values)
    targets = np.asarray(labels)
    if targets.ndim != 1 or (targets.size and targets.dtype.kind not in "iu"):
        raise DataError(
            f"labels are {targets.dtype} of shape {targets.shape}; expected one integer for each {what}"
            + (" (for one-hot labels, labels.argmax(axis=1))" if targets.ndim == 2 else "")
        )
    if len(targets) != given:
        raise DataError(f"there are {given} {what}s and {len(targets)} labels; expected as many of each")
    if not given:
        raise DataError(f"there are no {what}s; expected at least one")
    if isinstance(classes, str):
        raise DataError(f"classes is the string {classes!r}; expected a list of names")
    names = [str(i) for i in range(int(targets.max()) + 1)] if classes is None else [str(c) for c in classes]
    if len(set(names)) != len(names):
        raise DataError(f"classes {names} name one twice; expected every name once")
    wrong = np.flatnonzero((targets < 0) | (targets >= len(names)))
    if wrong.size:
        raise DataError(
            f"label {targets[wrong[0]]} of {what} {wrong[0]} is out of range; allowed are "
            f"0 to {len(names) - 1} ({len(names)} classes)"
        )
    source = ArraySource if what == "image" else ValueSource
    return Dataset(source(values, targets, "arrays"), names, "arrays")


def _images(given: np.ndarray | Sequence[np.ndarray]) -> np.ndarray | list[np.ndarray]:
    """Images, checked; not copied."""
    if not isinstance(given, np.ndarray):
        images = [np.asarray(image) for image in given]
        for i, image in enumerate(images):
            _check_image(image, f"image {i}")
        return images
    if given.ndim not in (3, 4):
        raise DataError(
            f"images have the shape {given.shape}; expected (n, h, w) or (n, h, w, channels), for one image "
            "(1, h, w, channels); other inputs of a wrapped model as a dict"
        )
    if len(given):
        _check_image(given[0], "images")
    return given


def _values(named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays `(n, ...)` that are no images, checked; not copied."""
    alone = list(named) == [ALONE]
    if not named or (ALONE in named and not alone):
        raise DataError(f"the dict of inputs has the names {list(named)}; expected at least one, and none empty")
    lengths = set()
    for name, array in named.items():
        of = f" {name!r}" if name != ALONE else ""
        if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
            raise DataError(f"the inputs{of} are {array.dtype}; expected numbers or booleans (text as token ids)")
        if array.ndim < (2 if alone else 1):
            raise DataError(f"the inputs{of} have the shape {array.shape}; expected (n, ...), of n samples")
        lengths.add(len(array))
    if len(lengths) > 1:
        raise DataError(f"the inputs hold differing numbers of samples, {sorted(lengths)}; expected one number")
    return named


def _check_image(image: np.ndarray, what: str) -> None:
    if image.dtype != np.uint8:
        mend = " (floats of 0 to 1: (255 * images).round().astype('uint8'))" if image.dtype.kind == "f" else ""
        raise DataError(f"{what}: the pixels are {image.dtype}; expected uint8, 0 to 255{mend}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        first = image.ndim == 3 and image.shape[0] in (1, 3, 4)
        mend = "; the channels come last: np.moveaxis(images, -3, -1)" if first else ""
        raise DataError(f"{what}: the shape of one is {image.shape}; expected (h, w) or (h, w, 1 | 3 | 4){mend}")
    if 0 in image.shape:
        raise DataError(f"{what}: the shape of one is {image.shape}, which has no pixels")
