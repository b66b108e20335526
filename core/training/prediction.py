"""Prediction on whatever form images come in: paths, folders, opened pictures, arrays, data sets, features.

Invariant: row i of the logits belongs to input i, and a picture gives the same logits in whatever form it comes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from PIL import Image

from headstart.common.errors import DataWarning, DivergedWarning, ImageError, SettingError
from headstart.contract import registry
from headstart.contract.recipe import BFLOAT16, FLOAT16
from headstart.data import Arrays, Dataset
from headstart.data.annotations import REGRESSION
from headstart.data.arrays import as_array
from headstart.data.door import is_frame
from headstart.data.left_out import check_on_error
from headstart.data.loader import batches
from headstart.data.pictures import pictures_of
from headstart.data.preprocess import Preprocess
from headstart.data.rows import count, nbytes, pad, window
from headstart.features.batch_sizes import USUAL, check_batch_size, samples_at_once
from headstart.features.feature_set import FeatureSet
from headstart.features.inference import fed, frozen, normalised, unsound_node
from headstart.models import Model, check_model
from headstart.training.checks import features_at
from headstart.training.objective import unscaled
from headstart.training.prediction_columns import Reading

SHOWN = 3
MOST_NBYTES = 1 << 28
"""of a batch of pictures for an exported file, which may come from anywhere and name any size"""


@runtime_checkable
class Exported(Protocol):
    """A model in a file of its own, opened by what runs it, without a backend."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def task(self) -> str: ...
    @property
    def threshold(self) -> float: ...
    @property
    def preprocess(self) -> Preprocess | Arrays | None:
        """how pictures are brought to what it takes"""

    def check(self) -> None:
        """SettingError where it is a part of a model, which takes no pictures, or gives no logits."""

    def logits(self, feed: Feed) -> LogitBatches:
        """Its outputs of what it is fed. Raises SettingError where that is of a kind that it does not take."""


Predictor: TypeAlias = Model | Exported


def predict(
    model: Predictor,
    images: Any,
    *,
    backend: str | None = None,
    batch_size: int | str = 64,
    device: str = "auto",
    precision: str = "float32",
    workers: int | None = None,
    on_error: str = "raise",
) -> np.ndarray:
    """float32 logits `(n, classes)` of `model` as it is; `model.classes` names their columns.

    `images`: a path, a URL (`hs.data.folder`), or a pattern such as "photos/*.jpg"; a folder, whose images are
    taken as training takes them, in the order of the walk (see `headstart.data.walk`); WebDataset's tars; a table
    of images, or a frame, whose other columns are not looked at; a Pillow image; the bytes of an image file; a
    list of paths, or of Pillow images, bytes and uint8 arrays `(h, w, 3)` of any size; uint8 `(n, h, w, 3)`; a
    data set, also of another library. All are preprocessed as the model needs, and Pillow images are read as their
    files are. Or float32 `(n, h, w, 3)`, taken as preprocessed already. Tensors of torch, TensorFlow and JAX are
    taken as arrays. Or features of this model's trunk, at the cut before its classifier. For a wrapped model
    without preprocessing: a data set, or the arrays it takes. `model` may be an opened file, see `hs.OnnxModel`,
    too, for which `backend`, `device` and `precision` stay as they are.

    `batch_size`: as of `extract`. `precision`: of the arithmetic, "float32", "tf32", "bfloat16" or "float16"; see
    `fit`. `on_error`: "skip" has
    rows of NaN for images that cannot be read, and a DataWarning that names them.

    Raises ImageError for a file that cannot be decoded, DataError for arrays that are no images and for a folder
    that holds none, SettingError for anything else, and for floats that cannot have been preprocessed for this
    model (pixels from 0 to 255 or from 0 to 1, NaN).
    """
    check_predictor(model, backend, device, precision)
    check_batch_size(batch_size)
    check_on_error(on_error)
    if isinstance(images, FeatureSet):
        model = with_trunk(model)
        features = features_at(model, images, model.default_cut)
        settings: dict[str, Any] = {"backend": backend, "batch_size": batch_size}
        return predict_features(model, features, features.cuts[0], **settings, device=device, precision=precision)
    made = logits_of(
        model,
        prepared(model, images, on_error),
        backend=backend,
        batch_size=batch_size,
        device=device,
        precision=precision,
        workers=workers,
        on_error=on_error,
    )
    return told(model, _joined(model, made), made)


def check_predictor(model: Any, backend: str | None, device: str, precision: str) -> None:
    """SettingError for what does not predict, and for a place that it cannot predict in."""
    if isinstance(model, Model) or not isinstance(model, Exported):
        check_model(model)
        registry.check_place(device, precision)
        return
    asked = {"backend": (backend, None), "device": (device, "auto", "cpu"), "precision": (precision, "float32")}
    for name, (value, *allowed) in asked.items():
        if value not in allowed:
            raise SettingError(
                f"{name}={value!r} (--{name}) is about a run or a model, and {model.name} is an exported file, "
                "which says itself how it is computed, on the CPU; leave it out, or name the run's folder"
            )
    model.check()


def with_trunk(model: Predictor) -> Model:
    """A model whose features can be told from another's. SettingError for an exported file, which has no keys."""
    if not isinstance(model, Model):
        raise SettingError(
            f"images are features, and {model.name} is an exported file; expected pictures, or the run"
        )
    return model


class Feed(NamedTuple):
    """Samples on their way into a network."""

    total: int
    size: int
    """samples a batch; the last one may have fewer"""
    batches: Iterator[Any]
    """as the network itself takes them; uint8 images of the right size, if they came as a data set"""
    unread: dict[int, ImageError]
    """of those that have come: which of them cannot be read, by position, and why. They come as zeros"""

    def logits(
        self,
        outputs: Iterator[np.ndarray],
        unsound: str | None = None,
        finished: Callable[[np.ndarray], np.ndarray] = lambda outputs: outputs,
    ) -> LogitBatches:
        """`outputs`: what a network has made of each of the batches, which may have been filled up to `size`."""

        def made() -> Iterator[np.ndarray]:
            for start, batch in zip(range(0, self.total, self.size), outputs, strict=True):
                logits = batch[: self.total - start]
                # Asked for one by one: threads that are ahead add to it.
                if lost := [i for i in range(len(logits)) if self.unread and start + i in self.unread]:
                    logits = np.array(logits)
                    logits[lost] = np.nan
                yield finished(logits)

        return LogitBatches(self.total, made() if self.total else iter(()), unsound, self.unread)


class LogitBatches(NamedTuple):
    """A model's logits, batch by batch."""

    total: int
    """samples"""
    batches: Iterator[np.ndarray]
    """float32 `(b, classes)`, in the order of the samples"""
    unsound: str | None
    """which parameters are not finite, in words"""
    unread: dict[int, ImageError]
    """of those that have come: which of them cannot be read, by position, and why. Their logits are NaN"""


def feed_of(
    preprocess: Preprocess | Arrays, ready: Any, batch_size: int, workers: int | None, on_error: str = "raise"
) -> Feed:
    """What `prepared` made, a batch at a time, in bounded memory. `on_error`: "skip" has images that cannot be
    read come as zeros, and be listed."""
    unread: dict[int, ImageError] = {}
    if isinstance(ready, Dataset):
        total, size = len(ready), min(batch_size, max(1, len(ready)))
        told_of = unread if on_error == "skip" else None
        decoded = batches(ready, preprocess, np.arange(total), size, workers=workers, unread=told_of)
        return Feed(total, size, (batch.images for batch in decoded), unread)
    total = count(ready)
    size = min(batch_size, max(1, total))
    return Feed(total, size, (window(ready, start, start + size) for start in range(0, total, size)), unread)


def logits_of(
    model: Predictor,
    ready: Any,
    *,
    backend: str | None,
    batch_size: int | str,
    device: str,
    precision: str,
    workers: int | None,
    on_error: str = "raise",
) -> LogitBatches:
    """What `predict` gives of what `prepared` made, a batch at a time, in bounded memory. `on_error`: "skip" has
    images that cannot be read go on as rows of NaN."""
    if not isinstance(model, Model):
        assert model.preprocess is not None  # or `prepared` has made nothing
        most = max(1, MOST_NBYTES // max(1, nbytes(model.preprocess.allocate(1))))
        size = min(USUAL if isinstance(batch_size, str) else batch_size, most)
        return model.logits(feed_of(model.preprocess, ready, size, workers, on_error))
    if not (len(ready) if isinstance(ready, Dataset) else count(ready)):
        return LogitBatches(0, iter(()), None, {})
    loaded = registry.load(backend, model.home)
    model, finished = _without_units(model, precision)
    output = model.graph.output
    with np.errstate(over="ignore", invalid="ignore"):
        graph, params = frozen(model.graph.upto(output), model.params, [output], precision=precision)
    if isinstance(ready, Dataset):
        graph = fed(graph, model)
    unsound = unsound_node((model.graph.upto(output), model.params), (graph, params))
    place = loaded.place(device, precision)
    trunk = loaded.trunk(graph, params, [output], place)
    size = samples_at_once(batch_size, graph, model.input_shape, [output], loaded, place)
    feed = feed_of(model.preprocess, ready, size, workers, on_error)
    stream = trunk.stream((pad(rows, feed.size) for rows in feed.batches), {output: np.dtype(np.float32)})
    return feed.logits((rows[output] for rows in stream), unsound and unsound[1], finished)


def told(model: Predictor, logits: np.ndarray, made: LogitBatches) -> np.ndarray:
    """The logits `(n, classes)`, unchanged. A DataWarning for images that could not be read; DivergedWarning where
    others' are not finite, or parameters are not: logits of such may look sound, since a rectifier makes 0 of
    NaN."""
    if made.unread:
        first = "; ".join(map(str, list(made.unread.values())[:SHOWN]))
        text = f"{len(made.unread):,} of {made.total:,} images could not be read, and their rows are NaN: {first}"
        warnings.warn(text, DataWarning, stacklevel=3)
    there = np.delete(logits, list(made.unread), axis=0) if made.unread else logits
    sure = Reading(tuple(model.classes), model.task).sure(there)
    warn_of_lost(model, int((~sure).sum()), len(there), made.unsound)
    return logits


def warn_of_lost(model: Predictor, lost: int, total: int, unsound: str | None) -> None:
    """A DivergedWarning where `lost` of `total` samples have logits that name no class, or parameters are not
    finite."""
    if lost or unsound is not None:
        numbers = "numbers that are not finite: they say nothing"
        outputs = numbers if model.task == REGRESSION else "logits that are not finite: they name no class"
        what = (
            f"gives {lost} of {total} samples {outputs}"
            if lost or unsound is None
            else f"gives logits that mean nothing: {unsound}"
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
    batch_size: int | str = 512,
    device: str = "auto",
    precision: str = "float32",
) -> np.ndarray:
    """float32 logits `(n, classes)` of what stands behind `cut`, a node of the model, from features there: no
    image is needed, and no trunk. Read in bounded memory. Raises SettingError for features of another cut."""
    place: dict[str, Any] = {"backend": backend, "device": device, "precision": precision}
    made = logits_of_features(model, features, cut, batch_size=batch_size, **place)
    return told(model, _joined(model, made), made)


def logits_of_features(
    model: Model,
    features: FeatureSet,
    cut: str,
    *,
    backend: str | None,
    batch_size: int | str,
    device: str,
    precision: str,
) -> LogitBatches:
    """What `predict_features` gives, a batch at a time."""
    loaded = registry.load(backend, model.home)
    model, finished = _without_units(model, precision)
    graph = model.graph.main.after(cut, model.input_shape)
    params = {name: model.params[name] for name in graph.param_shapes()}
    total = len(features)
    if not total:
        return LogitBatches(0, iter(()), None, {})
    place = loaded.place(device, precision)
    trunk = loaded.trunk(graph, params, [graph.output], place)
    shape = graph.nodes[0].attrs["shape"]
    size = min(samples_at_once(batch_size, graph, shape, [graph.output], loaded, place), total)
    folder = features.folder(cut)
    read = (pad(folder.read(features.ids[start : start + size]), size) for start in range(0, total, size))
    outputs = trunk.stream(read, {graph.output: np.dtype(np.float32)})
    starts = range(0, total, size)
    made = (finished(rows[graph.output][: total - start]) for start, rows in zip(starts, outputs, strict=True))
    unsound = unsound_node((graph, params))
    return LogitBatches(total, made, unsound and unsound[1], {})


def _without_units(model: Model, precision: str) -> tuple[Model, Callable[[np.ndarray], np.ndarray]]:
    """What is computed in this precision, and what makes the model's outputs of it."""
    if model.task != REGRESSION or precision not in (BFLOAT16, FLOAT16):
        return model, lambda outputs: outputs
    model, scale = unscaled(model)
    return model, scale.in_units


def _joined(model: Predictor, made: LogitBatches) -> np.ndarray:
    """All logits as one array, which is made once: it may be large."""
    logits, start = np.empty((made.total, len(model.classes)), np.float32), 0
    for batch in made.batches:
        logits[start : start + len(batch)] = batch
        start += len(batch)
    return logits


def prepared(model: Predictor, images: Any, on_error: str = "raise") -> Any:
    """A data set of what has to be loaded first, or the samples as the model itself takes them. `on_error`: see
    `pictures_of`."""
    if isinstance(images, Dataset):
        return images
    assert model.preprocess is not None  # see `check_predictor`
    if isinstance(model.preprocess, Arrays):
        return model.preprocess.prepared(images)
    if _is_tensor(images):
        images = as_array(images, "images")
        if np.issubdtype(images.dtype, np.floating):
            return normalised(model.preprocess, images)
    return pictures_of(images, on_error)


def _is_tensor(images: Any) -> bool:
    """Whether it is an array, or a tensor or column that holds one."""
    is_array = hasattr(images, "__array__") and not isinstance(images, str | list | tuple | Image.Image)
    return is_array and not is_frame(images)
