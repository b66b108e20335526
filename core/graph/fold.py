"""Batch norms in inference are affine, so a frozen trunk needs none of them: each one that directly follows a
convolution is folded into its weights. So is a layer scale behind a linear layer or a convolution. Done once here,
every backend gains from it.

Invariant: the folded graph computes the same function, within rounding, at every node it still has. A folded
layer takes the name of *what was folded into it*, because it produces that node's output.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from headstart.graph.graph import Graph, Node

Params = Mapping[str, np.ndarray]
INTO = {"batch_norm": ("conv",), "scale": ("conv", "linear")}
"""op -> the ops in front of it whose weights it can be folded into"""


def fold(graph: Graph, params: Params, keep: Collection[str] = ()) -> tuple[Graph, dict[str, np.ndarray]]:
    """Fold every `conv -> batch_norm`, `conv -> scale` and `linear -> scale` pair.

    `params` maps names to float arrays in torchvision's layout and is not changed; `keep` names nodes whose
    own output is wanted, so that a layer among them stays. Returns the new graph and its parameters, float32 but
    for those of native parts. The arithmetic is in float64: rounding happens once.
    """
    folded: dict[str, str] = {}  # layer -> the node that is folded into it
    for node in graph.nodes:
        if node.op not in INTO:
            continue
        source = graph[node.inputs[0]]
        alone = len(graph.users(source.name)) == 1 and source.name not in {*keep, graph.output}
        if source.op in INTO[node.op] and alone:
            folded[source.name] = node.name

    nodes: list[Node] = []
    new: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if node.name in folded:
            continue
        if node.op in INTO and node.inputs[0] in folded:
            layer = graph[node.inputs[0]]
            pair = _fold_pair(layer, node, params)
            nodes.append(Node(node.name, layer.op, layer.inputs, {**layer.attrs, "bias": "bias" in pair}))
            new |= {f"{node.name}.{key}": value.astype(np.float32) for key, value in pair.items()}
        else:
            nodes.append(node)
            dtype = None if node.op == "native" else np.float32  # a module's own dtypes are its own matter
            new |= {name: np.asarray(params[name], dtype) for name in node.param_shapes()}
    return Graph(tuple(nodes), graph.output), new


def _fold_pair(layer: Node, node: Node, params: Params) -> dict[str, np.ndarray]:
    """The weight and, where there is one, the bias of the layer with the node behind it."""

    def get(owner: Node, key: str) -> np.ndarray:
        return np.asarray(params[f"{owner.name}.{key}"], np.float64)

    scale, weight = get(node, "weight"), get(layer, "weight")
    shift = get(layer, "bias") if layer.attrs["bias"] else None
    if node.op == "batch_norm":
        scale = scale / np.sqrt(get(node, "running_var") + node.attrs["epsilon"])
        shift = get(node, "bias") + ((0.0 if shift is None else shift) - get(node, "running_mean")) * scale
    elif shift is not None:
        shift = shift * scale
    pair = {"weight": weight * scale.reshape(-1, *[1] * (weight.ndim - 1))}
    return pair if shift is None else {**pair, "bias": shift}
