"""Data sets of what is in memory already: images, or a wrapped model's own inputs, with their labels.

Invariant: what comes in is checked here, once; behind this door every image is uint8 and every label a class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
from PIL import Image

from headstart.common.errors import DataError
from headstart.data.annotations import MULTI, SINGLE, Annotations, single
from headstart.data.colours import mend_of
from headstart.data.columns import check_task, is_missing, labels_in
from headstart.data.dataset import ArraySource, Dataset, ValueSource
from headstart.data.decode import pixels_of
from headstart.data.further_columns import folds_in, groups_in, weights_in
from headstart.data.labels import labels_of
from headstart.data.names import class_list, normal
from headstart.data.rows import ALONE, count, ordered, unmasked, warn_of_order


def arrays(
    images: Any,
    labels: Any,
    classes: Sequence[str] | None = None,
    *,
    task: str = SINGLE,
    groups: Any = None,
    weights: Any = None,
    folds: Any = None,
) -> Dataset:
    """Images in memory: uint8 `(n, h, w)` or `(n, h, w, c)` with 1, 3 or 4 channels, or a list of such images and
    of Pillow images, of differing sizes. Alpha is dropped. A Pillow image of any mode is read as its file would
    be: in RGB, upright. Tensors of torch, TensorFlow and JAX are taken as the arrays they hold.
    Or the inputs of a wrapped model, see `hs.wrap`: an array `(n, ...)` of other numbers than uint8, or a dict of
    arrays `(n, ...)` of any numbers, such as token ids and their mask.

    `labels`: n integers, positions in `classes` (default: "0", "1", ... up to the largest label); or n names, to
    be numbered as in `classes` (default: sorted). With `task="multi"`: 0 and 1 as `(n, k)`, of the labels that
    `classes` names, or n lists of names; with `task="regression"`: numbers `(n,)` or `(n, d)`, of the targets that
    `classes` names. The columns of a frame are those of their names. `groups`: n names, of which no split cuts
    one; `weights`: n numbers of 0 or more; `folds`: n names or numbers, in which fold each is held out, -1: in
    none (see `table`). Arrays are not copied; changing a pixel later is an error when the
    image is next loaded. Raises `DataError` for anything else: what is masked or missing, bytes that are no UTF-8,
    two names that look the same. A `DataWarning` names classes such as "nan", of missing labels as text.
    """
    warn_of_order({"the images": images, "labels": labels, "groups": groups, "weights": weights, "folds": folds})
    values, what = samples_of(images)
    about = annotations_of(labels, classes, count(values), what, task, groups, weights, folds)
    source = ArraySource if what == "image" else ValueSource
    return Dataset(source(values, "arrays"), about, "arrays")


def annotations_of(
    labels: Any,
    classes: Sequence[str] | None,
    size: int,
    what: str,
    task: str,
    groups: Any = None,
    weights: Any = None,
    folds: Any = None,
) -> Annotations:
    """What is known of `size` samples, as `arrays` is told it; errors call one e.g. "image". Raises as
    `arrays`."""
    check_task(task)

    def place(i: int) -> str:
        return f"{what} {i}"

    if task == SINGLE:
        read = labels_of(labels, classes, size, what)
        about = single(read.numbers, read.classes, read.named)
    else:
        about = _of_task(labels, classes, task, place)
    columns = {
        name: as_list(values, f"the {name}")
        for name, values in (("groups", groups), ("weights", weights), ("folds", folds))
        if values is not None
    }
    for name, length in {"labels": len(about), **{name: len(values) for name, values in columns.items()}}.items():
        if length != size:
            raise DataError(f"there are {size} {what}s and {length} {name}; expected as many of each")
    if groups is not None:
        about = replace(about, groups=groups_in("groups", columns["groups"], place))
    if weights is not None:
        about = replace(about, weights=weights_in("weights", columns["weights"], place))
    if folds is not None:
        about = replace(about, folds=folds_in("folds", columns["folds"], place))
    return about


def as_list(values: Any, what: str) -> list[Any]:
    """The values of an array, a column or a list, and of arrays and tensors in it, as Python has them. DataError
    for what has no order."""
    if not hasattr(values, "tolist") and hasattr(values, "to_list"):  # a ragged tensor, too
        return list(values.to_list())
    if not hasattr(values, "tolist") and hasattr(values, "__array__"):
        values = np.asarray(values)
    if hasattr(values, "tolist"):
        return list(values.tolist())
    return [_plain(value, what) for value in ordered(values, what)]


def _plain(value: Any, what: str) -> Any:
    """Of an array or a tensor what it holds; anything else, and a scalar of NumPy, as it is."""
    is_array = hasattr(value, "__array__") and not isinstance(value, np.generic)
    return as_array(value, what).tolist() if is_array else value


def _of_task(labels: Any, classes: Sequence[str] | None, task: str, place: Any) -> Annotations:
    """Several labels a sample, or targets."""
    if labels is None or isinstance(labels, str | bytes | Mapping):
        raise DataError(
            f"labels are a {type(labels).__name__}; expected {'lists of' if task == MULTI else ''} values"
        )
    called = _columns_of(labels)
    if called and classes is not None and sorted(called) == sorted(order := list(class_list(classes))):
        labels = labels.select(order) if hasattr(labels, "column_names") else labels[order]
    values = as_list(unmasked(labels, "the labels"), "the labels")
    if bad := [i for i, value in enumerate(values) if is_missing(value)]:
        raise DataError(f"the label of {place(bad[0])} is missing; leave such samples out")
    rows = [list(value) if isinstance(value, list | tuple | np.ndarray) else [value] for value in values]
    numeric = all(isinstance(value, int | float | np.number | np.bool_) for row in rows for value in row)
    if len({len(row) for row in rows}) > 1 or not numeric or not rows:
        several = task == MULTI or any(isinstance(value, list | tuple | np.ndarray) for value in values)
        return labels_in(
            [("labels", rows if several else values)], task=task, classes=classes, separator=None, place=place
        )
    width = len(rows[0])
    numbers = [str(k) for k in range(width)]
    names = (called or numbers) if classes is None else list(class_list(classes))
    if len(names) != width:
        raise DataError(f"labels have {width} columns, and classes names {len(names)}; expected one for each")
    columns = [(name, [row[k] for row in rows]) for k, name in enumerate(names)]
    if width == 1 and task == MULTI:
        raise DataError("labels have one column, and task 'multi' is of several; expected (n, k) of 0 and 1")
    about = labels_in(columns, task=task, classes=None, separator=None, place=place)
    return replace(about, named=classes is not None or bool(called))


def _columns_of(labels: Any) -> list[str]:
    """The names of a frame's columns; [] of what is none, and where they are no different texts."""
    names: Any = getattr(labels, "column_names", None) or getattr(labels, "columns", None)
    named = [] if names is None or not hasattr(names, "__iter__") else list(names)
    texts = all(isinstance(name, str) and name == normal(name) for name in named)
    return named if texts and len(set(named)) == len(named) else []


def samples_of(images: Any) -> tuple[Any, str]:
    """Samples in memory, checked, and what one of them is called: uint8 images as an array or a list, or else an
    array or a dict of arrays. Arrays are not copied."""
    if isinstance(images, Mapping):
        named = {str(name): as_array(value, f"the inputs {name!r}") for name, value in images.items()}
        return _values(named), "sample"
    if isinstance(images, str | bytes | PathLike | Image.Image) or images is None or not _holds_many(images):
        kind = type(images).__name__
        mend = {"str": "; hs.data.folder opens a folder of images", "Image": "; of one image make a list"}
        mend["PosixPath"] = mend["WindowsPath"] = mend["str"]
        how = mend["Image"] if isinstance(images, Image.Image) else mend.get(kind, "")
        raise DataError(f"images are a {kind}; expected an array (n, h, w, c) or a list of images{how}")
    if not isinstance(images, list | tuple) and hasattr(images, "__array__"):
        array = as_array(images, "images")
        if array.dtype.kind not in "OUS":
            return (
                (_images(array), "image")
                if array.dtype == np.uint8
                else (_values({ALONE: array})[ALONE], "sample")
            )
        images = array.tolist() if array.ndim == 1 else array
    pictures = [pixels(image, f"image {i}") for i, image in enumerate(ordered(images, "images"))]
    for i, image in enumerate(pictures):
        check_image(image, f"image {i}")
    return pictures, "image"


def pixels(image: Any, what: str) -> np.ndarray:
    """One image in memory as an array, not checked yet; errors call it `what`."""
    if isinstance(image, Image.Image):
        return pixels_of(image, what)
    if isinstance(image, str | bytes | PathLike):
        raise DataError(
            f"{what} is a {type(image).__name__}; expected an array or a Pillow image (files in a folder a class: "
            "hs.data.folder)"
        )
    array = as_array(image, what)
    if array.dtype == object:
        raise DataError(f"{what} is a {type(image).__name__}; expected an array or a Pillow image")
    return array


def as_array(value: Any, what: str) -> np.ndarray:
    """The array that a tensor, column or list holds; not copied where it is in this memory. DataError where it
    cannot be had."""
    if isinstance(value, np.ndarray):
        array: np.ndarray = unmasked(value, what)
        return array
    try:
        return np.asarray(value)
    except Exception as error:  # ragged lists, a tensor on a GPU or one that needs its gradient
        raise DataError(
            f"{what}: a {type(value).__name__} that is no array ({' '.join(str(error).split())}); expected an "
            "array in the machine's memory (of a torch tensor: x.detach().cpu().numpy())"
        ) from None


def _holds_many(images: Any) -> bool:
    return hasattr(images, "__array__") or isinstance(images, Iterable)


def _images(images: np.ndarray) -> np.ndarray:
    if images.ndim not in (3, 4):
        raise DataError(
            f"images have the shape {images.shape}; expected (n, h, w) or (n, h, w, channels), for one image "
            "(1, h, w, channels); other inputs of a wrapped model as a dict"
        )
    if len(images):
        check_image(images[0], "images")
    return images


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


def check_image(image: np.ndarray, what: str) -> None:
    if image.dtype != np.uint8:
        raise DataError(f"{what}: the pixels are {image.dtype}; expected uint8, 0 to 255{mend_of(image.dtype)}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        first = image.ndim == 3 and image.shape[0] in (1, 3, 4)
        mend = "; the channels come last: np.moveaxis(images, -3, -1)" if first else ""
        raise DataError(f"{what}: the shape of one is {image.shape}; expected (h, w) or (h, w, 1 | 3 | 4){mend}")
    if 0 in image.shape:
        raise DataError(f"{what}: the shape of one is {image.shape}, which has no pixels")
