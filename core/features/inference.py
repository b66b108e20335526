"""Running a model as it is on arrays that are already preprocessed, for whoever wants activations and no store;
and the frozen graphs that extraction and prediction run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from headstart.common.errors import SettingError, WeightsError
from headstart.contract import registry
from headstart.contract.protocol import Backend
from headstart.contract.recipe import BFLOAT16, FLOAT32, Place
from headstart.contract.running import Trunk
from headstart.data import Arrays
from headstart.data.arrays import as_array
from headstart.data.preprocess import Preprocess
from headstart.data.ranges import check_normalised
from headstart.graph import Graph, Node, fold, in_bfloat16, without_denormals, without_inert
from headstart.models import Model, check_model


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

    Raises CutError for a name that is no node, SettingError for an `x` of another shape or dtype, or that was
    clearly not preprocessed for this model.
    """
    check_model(model)
    preprocess = model.preprocess
    x = preprocess.prepared(x) if isinstance(preprocess, Arrays) else normalised(preprocess, x)
    wanted = [cuts] if isinstance(cuts, str) else list(cuts)
    nodes = {cut: model.graph.resolve(cut) for cut in wanted}
    loaded = registry.load(backend, model.home)
    graph = model.graph.upto(*nodes.values())
    # a size that does not fit is an error of ours, not of a framework
    graph.shapes(model.input_shape if isinstance(x, dict) else x.shape[1:])
    outputs = list(nodes.values())
    place = loaded.place(device, precision)
    trunk = loaded.trunk(*frozen(graph, model.params, outputs, folded, precision), outputs, place)
    made = trunk.run(x)
    return {cut: loaded.numpy(made[node]).astype(np.float32, copy=False) for cut, node in nodes.items()}


def native(model: Model, cuts: str | Sequence[str] | None = None, *, backend: str | None = None) -> Any:
    """The backend's own module of `model`, differentiable, in inference mode, on the CPU: a torch.nn.Module that
    takes preprocessed float32 `(n, 3, h, w)`, a keras.Model or a flax.nnx.Module that take `(n, h, w, 3)`.

    It returns the logits; with `cuts`, names of any nodes, a dict from node to output in the framework's layout,
    in the order given (a block such as "layer2" is there as its last node, "layer2.1": `model.graph.resolve`), and
    nothing behind the last of them is computed. Its parameters are copies.
    Raises CutError for a name that is no node.
    """
    check_model(model)
    chosen = registry.load(backend, model.home)
    if cuts is None:
        return chosen.native(model.graph, model.params)
    nodes = [model.graph.resolve(cut) for cut in ([cuts] if isinstance(cuts, str) else cuts)]
    graph = model.graph.upto(*nodes)
    return chosen.native(graph, {name: model.params[name] for name in graph.param_shapes()}, nodes)


def normalised(preprocess: Preprocess, images: Any) -> np.ndarray:
    """Images that come as preprocessed, float `(n, h, w, 3)`, as float32; SettingError where they are not that, or
    cannot have been preprocessed so."""
    x = as_array(images, "images")
    if x.ndim != 4 or x.shape[3] != 3 or not np.issubdtype(x.dtype, np.floating):
        first = x.ndim == 4 and x.shape[1] == 3
        raise SettingError(
            f"expected preprocessed float32 images (n, h, w, 3), received {x.dtype} {x.shape}; "
            + (
                "the channels come last: np.moveaxis(images, 1, -1)"
                if first
                else "model.preprocess.normalise turns uint8 images into such"
            )
        )
    check_normalised(x, preprocess.affine())
    return x.astype(np.float32, copy=False)


def frozen(
    graph: Graph,
    params: Mapping[str, np.ndarray],
    outputs: Collection[str],
    folded: bool = True,
    precision: str = FLOAT32,
) -> tuple[Graph, dict[str, np.ndarray]]:
    """What `outputs` need of `graph`, and its parameters, as a frozen trunk runs them: without what drops at
    random, and folded, unless asked not to, with 0 in place of denormal weights; in bfloat16 with those weights
    rounded of which rounding shows."""
    graph = without_inert(graph.upto(*outputs), outputs)
    if folded:
        graph, params = fold(graph, params, outputs)
    held = without_denormals(graph, params)
    return graph, in_bfloat16(graph, held) if precision == BFLOAT16 else held


def pixel_trunk(model: Model, nodes: Sequence[str], backend: Backend, place: Place) -> Trunk:
    """The frozen model up to `nodes`, folded, fed with what the loader gives, returning those nodes' outputs.

    WeightsError where a parameter is not finite, which the features would not show: a rectifier makes 0 of NaN.
    """
    part = model.graph.upto(*nodes)
    with np.errstate(over="ignore", invalid="ignore"):
        graph, params = frozen(part, model.params, nodes, precision=place.precision)
    if (found := unsound_node((part, model.params), (graph, params))) is not None:
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
    checked = [(own, "")] if folded is None else [(own, ""), (folded, ", with the norm or scale folded in,")]
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
        if (np.isnan(params[name]).any() if name in masks else not is_finite(params[name]))
    ]


def is_finite(array: np.ndarray) -> bool:
    """Whether every number is. A sum is finite only of such, and makes no array: it takes half as long as looking
    at each of them, which is done where sums overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def fed(graph: Graph, model: Model) -> Graph:
    """A graph that begins with the model's input, fed with what the loader gives instead: uint8 images are
    normalised first, other inputs come as they are."""
    if isinstance(model.preprocess, Arrays):
        return graph
    return graph.normalized(*model.preprocess.affine(), model.preprocess.reverse)
