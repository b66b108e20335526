"""Running a model as it is: on images, for their classes, and on arrays that are already preprocessed, for whoever
wants activations and no store."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from headstart import backend as backends
from headstart.backend import Backend, Place, Trunk
from headstart.data import Arrays, Dataset, arrays
from headstart.data.dataset import FileSource
from headstart.data.decode import decode, read_file
from headstart.data.loader import batches
from headstart.data.rows import count, pad, window
from headstart.errors import DivergedWarning, SettingError, WeightsError
from headstart.features.feature_set import FeatureSet
from headstart.graph import Graph, Node, fold
from headstart.models import Model


def predict(
    model: Model,
    images: Dataset | np.ndarray | Sequence[Any],
    *,
    backend: str | None = None,
    batch_size: int = 64,
    device: str = "auto",
    workers: int | None = None,
) -> np.ndarray:
    """float32 logits `(n, classes)` of `model` as it is; `model.classes` names their columns.

    `images`: a data set; uint8 `(n, h, w, 3)`; a list of paths, Pillow images or uint8 arrays of any size, all
    of which are preprocessed as the model needs; or float32 `(n, h, w, 3)`, taken as preprocessed already. For a
    wrapped model without preprocessing: a data set, or the arrays it takes. Raises ImageError for a file that
    cannot be decoded, SettingError for anything else.
    """
    chosen = backends.load(backend, model.home)
    output = model.graph.output
    graph, params = frozen(model.graph.upto(output), model.params, [output])
    ready = _prepared(model, images)
    if ready is not None:
        total = count(ready)
        size = min(batch_size, max(1, total))
        source = (window(ready, start, start + size) for start in range(0, total, size))
    else:
        if not len(images):
            return np.zeros((0, len(model.classes)), np.float32)
        data = as_dataset(images)
        total, size = len(data), min(batch_size, max(1, len(data)))
        graph = fed(graph, model)
        loaded = batches(data, model.preprocess, np.arange(total), size, workers=workers)
        source = (batch.images for batch in loaded)
    if not total:
        return np.zeros((0, len(model.classes)), np.float32)
    trunk = chosen.trunk(graph, params, [output], chosen.place(device, "float32"))
    parts = [chosen.numpy(trunk.run(pad(rows, size))[output])[: count(rows)] for rows in source]
    return told(model, np.concatenate(parts).astype(np.float32, copy=False))


def told(model: Model, logits: np.ndarray) -> np.ndarray:
    """The logits `(n, classes)`, after a DivergedWarning where they name no class."""
    if lost := int((~np.isfinite(logits.max(1, initial=-np.inf))).sum()):
        warnings.warn(
            f"{model.name} gives {lost} of {len(logits)} samples logits that are not finite: they name no class. "
            "Its training has diverged (a lower learning rate mends that), or its weights are damaged",
            DivergedWarning,
            stacklevel=3,
        )
    return logits


def _prepared(model: Model, images: Any) -> Any:
    """The samples, if they come as the model itself takes them; None where they have to be loaded."""
    if isinstance(model.preprocess, Arrays):
        return None if isinstance(images, Dataset) else model.preprocess.prepared(images)
    if not isinstance(images, np.ndarray) or not np.issubdtype(images.dtype, np.floating):
        return None
    if images.ndim != 4 or images.shape[3] != 3:
        raise SettingError(f"expected float32 images (n, h, w, 3), received {images.dtype} {images.shape}")
    return images.astype(np.float32, copy=False)


def predict_features(
    model: Model,
    features: FeatureSet,
    cut: str,
    *,
    backend: str | None = None,
    batch_size: int = 512,
    device: str = "auto",
) -> np.ndarray:
    """float32 logits `(n, classes)` of what stands behind `cut`, a node of the model, from features there: no
    image is needed, and no trunk. Read in bounded memory. Raises SettingError for features of another cut."""
    chosen = backends.load(backend, model.home)
    graph = model.graph.main.after(cut, model.input_shape)
    params = {name: model.params[name] for name in graph.param_shapes()}
    if not len(features):
        return np.zeros((0, len(model.classes)), np.float32)
    size = min(batch_size, len(features))
    trunk = chosen.trunk(graph, params, [graph.output], chosen.place(device, "float32"))
    folder = features.folder(cut)
    parts = []
    for start in range(0, len(features), size):
        rows = folder.read(features.ids[start : start + size])
        parts.append(chosen.numpy(trunk.run(pad(rows, size))[graph.output])[: len(rows)])
    return told(model, np.concatenate(parts).astype(np.float32, copy=False))


def forward(
    model: Model,
    x: Any,
    cuts: str | Sequence[str] = "logits",
    *,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    folded: bool = True,
) -> dict[str, np.ndarray]:
    """Run `model` in inference mode.

    `x`: float32 `(n, h, w, 3)`, already preprocessed; for a wrapped model without preprocessing the arrays it
    takes. `cuts`: node names, of any node and not only of legal
    cuts; `logits` is the output. `folded=False` keeps batch norms as layers. Returns a dict from the names
    as they were given to float32 arrays `(n, h, w, c)` or `(n, c)`.

    Raises CutError for a name that is no node, SettingError for an `x` of another shape or dtype.
    """
    if isinstance(model.preprocess, Arrays):
        x = model.preprocess.prepared(x)
    else:
        x = np.asarray(x)
        if x.ndim != 4 or x.shape[3] != 3 or not np.issubdtype(x.dtype, np.floating):
            raise SettingError(
                f"forward takes preprocessed float32 images (n, h, w, 3), received {x.dtype} {x.shape}; "
                "model.preprocess.normalise turns uint8 images into such"
            )
        x = x.astype(np.float32, copy=False)
    wanted = [cuts] if isinstance(cuts, str) else list(cuts)
    nodes = {cut: model.graph.resolve(cut) for cut in wanted}
    chosen = backends.load(backend, model.home)
    graph = model.graph.upto(*nodes.values())
    # a size that does not fit is an error of ours, not of a framework
    graph.shapes(model.input_shape if isinstance(x, dict) else x.shape[1:])
    trunk = chosen.trunk(
        *frozen(graph, model.params, list(nodes.values()), folded),
        list(nodes.values()),
        chosen.place(device, precision),
    )
    outputs = trunk.run(x)
    return {cut: chosen.numpy(outputs[node]) for cut, node in nodes.items()}


def native(model: Model, cuts: str | Sequence[str] | None = None, *, backend: str | None = None) -> Any:
    """The backend's own module of `model`, differentiable, in inference mode, on the CPU: a torch.nn.Module that
    takes preprocessed float32 `(n, 3, h, w)`, a keras.Model or a flax.nnx.Module that take `(n, h, w, 3)`.

    It returns the logits; with `cuts`, names of any nodes, a dict from node to output in the framework's layout,
    in the order given (a block such as "layer2" is there as its last node, "layer2.1": `model.graph.resolve`), and
    nothing behind the last of them is computed. Its parameters are copies.
    Raises CutError for a name that is no node.
    """
    chosen = backends.load(backend, model.home)
    if cuts is None:
        return chosen.native(model.graph, model.params)
    nodes = [model.graph.resolve(cut) for cut in ([cuts] if isinstance(cuts, str) else cuts)]
    graph = model.graph.upto(*nodes)
    return chosen.native(graph, {name: model.params[name] for name in graph.param_shapes()}, nodes)


def frozen(
    graph: Graph, params: Mapping[str, np.ndarray], outputs: Collection[str], folded: bool = True
) -> tuple[Graph, dict[str, np.ndarray]]:
    """What `outputs` need of `graph`, and its parameters, as a frozen trunk runs them: folded, unless asked not
    to."""
    graph = graph.upto(*outputs)
    if folded:
        return fold(graph, params, outputs)
    return graph, {name: params[name] for name in graph.param_shapes()}


def pixel_trunk(model: Model, nodes: Sequence[str], backend: Backend, place: Place) -> Trunk:
    """The frozen model up to `nodes`, folded, fed with what the loader gives, returning those nodes' outputs.

    WeightsError where a parameter is not finite, which the features would not show: a rectifier makes 0 of NaN.
    """
    trunk = model.graph.upto(*nodes)
    with np.errstate(over="ignore", invalid="ignore"):
        graph, params = frozen(trunk, model.params, nodes)
    if (found := unsound_node((trunk, model.params), (graph, params))) is not None:
        weights = model.weights or "random"
        raise WeightsError(
            f"the frozen trunk of {model.name} (weights: {weights}): {found[1]}, and its features would mean "
            "nothing. Load other weights"
        )
    return backend.trunk(fed(graph, model), params, nodes, place)


Weighted = tuple[Graph, Mapping[str, np.ndarray]]


def unsound_node(own: Weighted, folded: Weighted | None = None) -> tuple[Node, str] | None:
    """The first node with parameters that are not finite, and what to say of it: of a graph as the model has it
    or, where all of that is finite, `folded`, as it is run."""
    checked = [(own, "")] if folded is None else [(own, ""), (folded, ", with the batch norm folded in,")]
    for (graph, params), how in checked:
        for node in graph.nodes:
            if names := unsound(node, params):
                verb = "hold" if len(names) > 1 else "holds"
                return node, f"{' and '.join(names)} of node {node.name!r} ({node.op}){how} {verb} NaN or infinity"
    return None


def unsound(node: Node, params: Mapping[str, np.ndarray]) -> list[str]:
    """The node's parameters that are not finite. In what a wrapped module keeps and does not train infinity may be
    meant: masks are made of it."""
    masks = node.buffers() if node.op == "native" else frozenset()
    return [
        name
        for name in node.param_shapes()
        if (np.isnan(params[name]) if name in masks else ~np.isfinite(params[name])).any()
    ]


def fed(graph: Graph, model: Model) -> Graph:
    """A graph that begins with the model's input, fed with what the loader gives instead: uint8 images are
    normalised first, other inputs come as they are."""
    affine = model.preprocess.affine()
    return graph if affine is None else graph.normalized(*affine)


def as_dataset(images: Dataset | np.ndarray | Sequence[Any]) -> Dataset:
    """Images of any accepted kind as a data set without meaningful labels."""
    if isinstance(images, Dataset):
        return images
    if isinstance(images, np.ndarray):
        if images.ndim == 3 and images.shape[2] in (1, 3, 4):
            raise SettingError(f"expected a batch of images (n, h, w, 3), received one of shape {images.shape}")
        return arrays(images, np.zeros(len(images), np.int64))
    labels = np.zeros(len(images), np.int64)
    if all(isinstance(item, str | os.PathLike) for item in images):
        # left where they are, to be decoded in threads, a batch at a time
        return Dataset(FileSource([str(item) for item in images], labels), ("0",), "files")
    loaded = [
        np.asarray(decode(read_file(str(item)), str(item)))
        if isinstance(item, str | os.PathLike)
        else np.asarray(item)
        if isinstance(item, np.ndarray)
        else np.asarray(item.convert("RGB"))
        for item in images
    ]
    return arrays(loaded, labels)
