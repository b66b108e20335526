"""Running a model on arrays that are already preprocessed, for whoever wants activations and no store."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from headstart import backend as backends
from headstart.backend import Backend, Place, Trunk
from headstart.errors import SettingError
from headstart.graph import Graph, fold
from headstart.models import Model


def forward(
    model: Model,
    x: np.ndarray,
    cuts: str | Sequence[str] = "logits",
    *,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    folded: bool = True,
) -> dict[str, np.ndarray]:
    """Run `model` in inference mode.

    `x`: float32 `(n, h, w, 3)`, already preprocessed. `cuts`: node names, of any node and not only of legal
    cuts; `logits` is the output. `folded=False` keeps batch norms as layers. Returns a dict from the names
    as they were given to float32 arrays `(n, h, w, c)` or `(n, c)`.

    Raises CutError for a name that is no node, SettingError for an `x` of another shape or dtype.
    """
    x = np.asarray(x)
    if x.ndim != 4 or x.shape[3] != 3 or not np.issubdtype(x.dtype, np.floating):
        raise SettingError(
            f"forward takes preprocessed float32 images (n, h, w, 3), received {x.dtype} {x.shape}; "
            "model.preprocess.normalise turns uint8 images into such"
        )
    wanted = [cuts] if isinstance(cuts, str) else list(cuts)
    nodes = {cut: model.graph.resolve(cut) for cut in wanted}
    chosen = backends.load(backend)
    graph = model.graph.upto(*nodes.values())
    graph.shapes(x.shape[1:])  # a size that does not fit is an error of ours, not of a framework
    trunk = chosen.trunk(
        *frozen(graph, model.params, list(nodes.values()), folded),
        list(nodes.values()),
        chosen.place(device, precision),
    )
    outputs = trunk.run(x.astype(np.float32, copy=False))
    return {cut: chosen.numpy(outputs[node]) for cut, node in nodes.items()}


def frozen(
    graph: Graph, params: Mapping[str, np.ndarray], outputs: Collection[str], folded: bool = True
) -> tuple[Graph, dict[str, np.ndarray]]:
    """`graph` and its parameters as a frozen trunk runs them: folded, unless asked not to."""
    if folded:
        return fold(graph, params, outputs)
    return graph, {name: params[name] for name in graph.param_shapes()}


def pixel_trunk(model: Model, nodes: Sequence[str], backend: Backend, place: Place) -> Trunk:
    """The frozen model up to `nodes`, folded, fed with uint8 images, returning those nodes' outputs."""
    graph, params = frozen(model.graph.upto(*nodes), model.params, nodes)
    return backend.trunk(graph.normalized(*model.preprocess.affine()), params, nodes, place)
