"""Prediction on whatever form images come in: paths, folders, opened pictures, arrays, data sets, features.

Invariant: row i of the logits belongs to input i, and a picture gives the same logits in whatever form it comes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from headstart.common.errors import DivergedWarning, SettingError
from headstart.contract import registry
from headstart.data import Arrays, Dataset, arrays, images_at
from headstart.data.annotations import unlabelled
from headstart.data.arrays import as_array, pixels
from headstart.data.dataset import FileSource
from headstart.data.decode import decode, read_file
from headstart.data.door import as_data_set, described
from headstart.data.loader import batches
from headstart.data.rows import count, pad, window
from headstart.data.summary import say
from headstart.data.walk import expanded
from headstart.data.workers import check_counts
from headstart.features.feature_set import FeatureSet
from headstart.features.inference import fed, frozen, normalised, unsound_node
from headstart.graph import Node
from headstart.models import Model, check_model
from headstart.training.checks import features_at

IMAGES = (
    "a path, a folder, a Pillow image, the bytes of an image file, a list of such or of uint8 arrays (h, w, 3), "
    "a uint8 array (n, h, w, 3), a data set or features"
)


def predict(
    model: Model,
    images: Any,
    *,
    backend: str | None = None,
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "float32",
    workers: int | None = None,
) -> np.ndarray:
    """float32 logits `(n, classes)` of `model` as it is; `model.classes` names their columns.

    `images`: a path, or a pattern such as "photos/*.jpg"; a folder, whose images are taken as training takes them,
    in the order of the walk (see `headstart.data.walk`); a Pillow image; the bytes of an image file; a list of any
    of these but folders, and of uint8 arrays `(h, w, 3)` of any size; uint8 `(n, h, w, 3)`; a data set. All are
    preprocessed as the model needs, and Pillow images are read as their files are. Or float32 `(n, h, w, 3)`,
    taken as preprocessed already. Tensors of torch, TensorFlow and JAX are taken as arrays. Or features of this
    model's trunk, at the cut before its classifier. For a wrapped model without preprocessing: a data set, or the
    arrays it takes.

    `precision`: of the arithmetic, "float32", "tf32", "bfloat16" or "float16"; see `fit`.

    Raises ImageError for a file that cannot be decoded, DataError for arrays that are no images and for a folder
    that holds none, SettingError for anything else, and for floats that cannot have been preprocessed for this
    model (pixels from 0 to 255 or from 0 to 1, NaN).
    """
    check_model(model)
    check_counts(batch_size=batch_size)
    registry.check_place(device, precision)
    if isinstance(images, FeatureSet):
        features = features_at(model, images, model.default_cut)
        settings: dict[str, Any] = {"backend": backend, "batch_size": batch_size}
        return predict_features(model, features, features.cuts[0], **settings, device=device, precision=precision)
    batches_of_logits = logits_of(
        model,
        images,
        backend=backend,
        batch_size=batch_size,
        device=device,
        precision=precision,
        workers=workers,
    )
    logits, start = (
        np.empty((batches_of_logits.total, len(model.classes)), np.float32),
        0,
    )  # one array: it may be large
    for batch in batches_of_logits.batches:
        logits[start : start + len(batch)] = batch
        start += len(batch)
    return told(model, logits, batches_of_logits.unsound)


class LogitBatches(NamedTuple):
    """A model's logits, batch by batch."""

    total: int
    """samples"""
    batches: Iterator[np.ndarray]
    """float32 `(b, classes)`, in the order of the samples"""
    unsound: tuple[Node, str] | None
    """a node whose parameters are not finite, and what is wrong with them"""


def logits_of(
    model: Model,
    images: Any,
    *,
    backend: str | None,
    batch_size: int,
    device: str,
    precision: str,
    workers: int | None,
) -> LogitBatches:
    """What `predict` gives, a batch at a time, in bounded memory; its arguments and errors, but no features."""
    loaded = registry.load(backend, model.home)
    output = model.graph.output
    with np.errstate(over="ignore", invalid="ignore"):
        graph, params = frozen(model.graph.upto(output), model.params, [output])
    ready = _prepared(model, images)
    if isinstance(ready, Dataset):
        total, size = len(ready), min(batch_size, max(1, len(ready)))
        graph = fed(graph, model)
        decoded = batches(ready, model.preprocess, np.arange(total), size, workers=workers)
        source = (batch.images for batch in decoded)
    else:
        total = count(ready)
        size = min(batch_size, max(1, total))
        source = (window(ready, start, start + size) for start in range(0, total, size))
    if not total:
        return LogitBatches(0, iter(()), None)
    unsound = unsound_node((model.graph.upto(output), model.params), (graph, params))
    trunk = loaded.trunk(graph, params, [output], loaded.place(device, precision))
    stream = trunk.stream((pad(rows, size) for rows in source), {output: np.dtype(np.float32)})
    starts = range(0, total, size)
    made = (rows[output][: total - start] for start, rows in zip(starts, stream, strict=True))
    return LogitBatches(total, made, unsound)


def told(model: Model, logits: np.ndarray, unsound: tuple[Node, str] | None) -> np.ndarray:
    """The logits `(n, classes)`, unchanged; DivergedWarning where some are not finite, or where parameters are
    not. Logits of the latter may look sound, since a rectifier makes 0 of NaN."""
    warn_of_lost(model, int((~np.isfinite(logits.max(1, initial=-np.inf))).sum()), len(logits), unsound)
    return logits


def warn_of_lost(model: Model, lost: int, total: int, unsound: tuple[Node, str] | None) -> None:
    """A DivergedWarning where `lost` of `total` samples have logits that name no class, or parameters are not
    finite."""
    if lost or unsound is not None:
        what = (
            f"gives {lost} of {total} samples logits that are not finite: they name no class"
            if lost or unsound is None
            else f"gives logits that mean nothing: {unsound[1]}"
        )
        warnings.warn(
            f"{model.name} {what}. Its training has diverged (a lower learning rate mends that), or its weights "
            "are damaged",
            DivergedWarning,
            stacklevel=4,
        )


def predict_features(
    model: Model,
    features: FeatureSet,
    cut: str,
    *,
    backend: str | None = None,
    batch_size: int = 512,
    device: str = "auto",
    precision: str = "float32",
) -> np.ndarray:
    """float32 logits `(n, classes)` of what stands behind `cut`, a node of the model, from features there: no
    image is needed, and no trunk. Read in bounded memory. Raises SettingError for features of another cut."""
    loaded = registry.load(backend, model.home)
    graph = model.graph.main.after(cut, model.input_shape)
    params = {name: model.params[name] for name in graph.param_shapes()}
    if not len(features):
        return np.zeros((0, len(model.classes)), np.float32)
    size = min(batch_size, len(features))
    trunk = loaded.trunk(graph, params, [graph.output], loaded.place(device, precision))
    folder = features.folder(cut)
    logits = np.empty((len(features), len(model.classes)), np.float32)
    starts = range(0, len(features), size)
    read = (pad(folder.read(features.ids[start : start + size]), size) for start in starts)
    outputs = trunk.stream(read, {graph.output: np.dtype(np.float32)})
    for start, rows in zip(starts, outputs, strict=True):
        n = min(size, len(features) - start)
        logits[start : start + n] = rows[graph.output][:n]
    return told(model, logits, unsound_node((graph, params)))


def _prepared(model: Model, images: Any) -> Any:
    """A data set of what has to be loaded first, or the samples as the model itself takes them."""
    if isinstance(images, Dataset):
        return images
    if isinstance(model.preprocess, Arrays):
        return model.preprocess.prepared(images)
    if _is_tensor(images):
        images = as_array(images, "images")
        if np.issubdtype(images.dtype, np.floating):
            return normalised(model, images)
    return as_dataset(images)


def _is_tensor(images: Any) -> bool:
    """Whether it is an array, or a tensor or column that holds one."""
    return hasattr(images, "__array__") and not isinstance(images, str | list | tuple | Image.Image)


def as_dataset(images: Any) -> Dataset:
    """Images of any accepted kind as a data set without meaningful labels."""
    if isinstance(images, Dataset):
        return images
    if isinstance(images, str | os.PathLike):
        data = images_at(_path(images))
        if len(data) != 1 or data.skipped:
            say(data)
        return data
    if hasattr(images, "read") and not isinstance(images, Image.Image):
        raise SettingError(f"images is an open file ({type(images).__name__}); pass its bytes: images.read()")
    if isinstance(images, Image.Image | bytes | bytearray | memoryview):
        images = [images]
    elif isinstance(images, np.ndarray) and images.dtype.kind not in "OUS":
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
            wide = ": (images / 257).round().astype('uint8')" if images.dtype == np.uint16 else ""
            raise SettingError(f"the pixels are {images.dtype}; expected uint8, 0 to 255{wide}")
        return arrays(images, np.zeros(len(images), np.int64)) if len(images) else _of_files([])
    elif isinstance(images, np.ndarray):
        images = images.reshape(-1).tolist()
    elif isinstance(images, list | tuple | Iterator) or type(images).__name__ == "Column":
        images = list(images)
    elif isinstance(opened := as_data_set(images), Dataset):
        return opened
    else:
        what, mend = described(images, "images")
        raise SettingError(f"images is {what}; expected {IMAGES}{mend and ': ' + mend}")
    if all(isinstance(item, str | os.PathLike) for item in images):
        return _of_files([_path(item) for item in images])
    loaded = [_loaded(item, f"image {i}") for i, item in enumerate(images)]
    return arrays(loaded, np.zeros(len(loaded), np.int64))


def _of_files(paths: Sequence[str]) -> Dataset:
    """Files, left where they are, to be decoded in threads, a batch at a time."""
    return Dataset(FileSource(paths), unlabelled(len(paths)), "files")


def _path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not text:
        raise SettingError('images is "", which names no file; expected the path of an image or of a folder')
    if isinstance(path, str) and "://" in text:
        raise SettingError(f"images is the address {text!r}; expected a path: nothing is downloaded here")
    return str(expanded(text))


def _loaded(item: Any, what: str) -> np.ndarray:
    if isinstance(item, str | os.PathLike):
        return np.asarray(decode(read_file(_path(item)), _path(item)))
    if isinstance(item, bytes | bytearray | memoryview):
        return np.asarray(decode(bytes(item), what))
    return pixels(item, what)
