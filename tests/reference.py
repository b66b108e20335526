"""The op table once more, in plain numpy and float64, as literally as it can be written: what the graph's
transformations and the backends are compared with. It shares no code with either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headstart.graph import Graph, Node


def run(graph: Graph, params: Mapping[str, np.ndarray], x: np.ndarray) -> dict[str, np.ndarray]:
    """Node name -> float64 output, in inference mode, for `x` of shape `(n, h, w, c)` or `(n, c)`."""
    values = {graph.nodes[0].name: np.asarray(x, np.float64)}
    for node in graph.nodes[1:]:
        weights = {
            name.removeprefix(f"{node.name}."): np.asarray(params[name], np.float64)
            for name in node.param_shapes()
        }
        values[node.name] = _apply(node, weights, [values[name] for name in node.inputs])
    return values


def random_params(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Float32 parameters with which no op is the identity, and activations neither vanish nor explode."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in graph.param_shapes().items():
        if name.endswith("running_var"):
            value = rng.uniform(0.5, 2.0, shape)
        elif name.endswith(("running_mean", "bias")):
            value = rng.normal(0, 0.2, shape)
        elif len(shape) == 1:  # a batch norm's scale
            value = rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)
        else:
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        params[name] = value.astype(np.float32)
    return params


def _apply(node: Node, w: dict[str, np.ndarray], xs: list[np.ndarray]) -> np.ndarray:
    a, x = node.attrs, xs[0]
    match node.op:
        case "normalize":
            return x * np.asarray(a["scale"], np.float64) + np.asarray(a["shift"], np.float64)
        case "conv":
            return _conv(a, w, x)
        case "batch_norm":
            return (x - w["running_mean"]) / np.sqrt(w["running_var"] + a["epsilon"]) * w["weight"] + w["bias"]
        case "relu":
            return np.where(x > 0, x, 0.0)
        case "max_pool":
            return _windows(a, x, -np.inf, lambda window: window.max((1, 2)))
        case "global_avg_pool":
            return x.sum((1, 2)) / (x.shape[1] * x.shape[2])
        case "add":
            return x + xs[1]
        case "flatten":
            return np.stack([image.transpose(2, 0, 1).ravel() for image in x])
        case "linear":
            return np.stack([w["weight"] @ row for row in x]) + w.get("bias", 0.0)
        case "dropout":
            return x
    raise AssertionError(f"the reference has no op {node.op!r}")


def _conv(a: Mapping[str, Any], w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    groups = []
    for inputs, weight in zip(
        np.split(x, a["groups"], axis=3), np.split(w["weight"], a["groups"], axis=0), strict=True
    ):
        groups.append(_windows(a, inputs, 0.0, lambda p, k=weight: np.einsum("nhwc,ochw->no", p, k)))
    return np.concatenate(groups, axis=3) + w.get("bias", 0.0)


def _windows(a: Mapping[str, Any], x: np.ndarray, fill: float, of: Any) -> np.ndarray:
    """`of` each window `(n, kh, kw, c)` of the padded maps, set out as a map again."""
    (kh, kw), (sh, sw) = a["kernel"], a["stride"]
    x = np.pad(x, ((0, 0), *a["padding"], (0, 0)), constant_values=fill)
    tops, lefts = range(0, x.shape[1] - kh + 1, sh), range(0, x.shape[2] - kw + 1, sw)
    rows = [np.stack([of(x[:, t : t + kh, i : i + kw]) for i in lefts], axis=1) for t in tops]
    return np.stack(rows, axis=1)
