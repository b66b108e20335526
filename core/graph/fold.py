"""Batch norms in inference are affine, so a frozen trunk needs none of them: each one that directly follows a
convolution is folded into its weights. Done once here, every backend gains from it.

Invariant: the folded graph computes the same function, within rounding, at every node it still has. A folded
convolution takes the *batch norm's* name, because it produces the batch norm's output.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from headstart.graph.graph import Graph, Node

Params = Mapping[str, np.ndarray]


def fold(graph: Graph, params: Params, keep: Collection[str] = ()) -> tuple[Graph, dict[str, np.ndarray]]:
    """Fold every `conv -> batch_norm` pair.

    `params` maps names to float arrays in torchvision's layout and is not changed; `keep` names nodes whose
    own output is wanted, so that a convolution among them stays. Returns the new graph and its parameters,
    float32 but for those of native parts. The arithmetic is in float64: rounding happens once.
    """
    folded: dict[str, str] = {}  # convolution -> the batch norm that swallows it
    for node in graph.nodes:
        if node.op != "batch_norm":
            continue
        source = graph[node.inputs[0]]
        alone = len(graph.users(source.name)) == 1 and source.name not in {*keep, graph.output}
        if source.op == "conv" and alone:
            folded[source.name] = node.name

    nodes: list[Node] = []
    new: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if node.name in folded:
            continue
        if node.op == "batch_norm" and node.inputs[0] in folded:
            conv = graph[node.inputs[0]]
            nodes.append(Node(node.name, "conv", conv.inputs, {**conv.attrs, "bias": True}))
            weight, bias = _fold_pair(conv, node, params)
            new[f"{node.name}.weight"], new[f"{node.name}.bias"] = weight, bias
        else:
            nodes.append(node)
            dtype = None if node.op == "native" else np.float32  # a module's own dtypes are its own matter
            new |= {name: np.asarray(params[name], dtype) for name in node.param_shapes()}
    return Graph(tuple(nodes), graph.output), new


def _fold_pair(conv: Node, norm: Node, params: Params) -> tuple[np.ndarray, np.ndarray]:
    def get(node: Node, key: str) -> np.ndarray:
        return np.asarray(params[f"{node.name}.{key}"], np.float64)

    scale = get(norm, "weight") / np.sqrt(get(norm, "running_var") + norm.attrs["epsilon"])
    bias = get(conv, "bias") if conv.attrs["bias"] else 0.0
    weight = get(conv, "weight") * scale[:, None, None, None]
    shift = get(norm, "bias") + (bias - get(norm, "running_mean")) * scale
    return weight.astype(np.float32), shift.astype(np.float32)
