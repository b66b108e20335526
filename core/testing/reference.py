"""The op table once more, in plain numpy and float64, as literally as it can be written: what the graph's
transformations and the backends are compared with. It shares no code with either."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headstart.graph import Graph, Node


def run(graph: Graph, params: Mapping[str, np.ndarray], x: np.ndarray) -> dict[str, np.ndarray]:
    """Node name -> float64 output, in inference mode, for `x` of shape `(n, h, w, c)`, `(n, t, c)` or `(n, c)`."""
    values = {graph.nodes[0].name: np.asarray(x, np.float64)}
    for node in graph.nodes[1:]:
        weights = {
            name.removeprefix(f"{node.name}."): np.asarray(params[name], np.float64)
            for name in node.param_shapes()
        }
        values[node.name] = apply(node, weights, [values[name] for name in node.inputs])
    return values


def random_params(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    """Float32 parameters with which no op is the identity, and activations neither vanish nor explode."""
    rng = np.random.default_rng(seed)
    params = {}
    positions = {f"{node.name}.weight" for node in graph.nodes if node.op == "position"}
    for name, shape in graph.param_shapes().items():
        if name.endswith("running_var"):
            value = rng.uniform(0.5, 2.0, shape)
        elif name.endswith(("running_mean", "bias")):
            value = rng.normal(0, 0.2, shape)
        elif name in positions:
            value = rng.normal(0, 0.5, shape)
        elif len(shape) == 1:  # the factors of a norm or a scale, a class token
            value = rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)
        else:
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        params[name] = value.astype(np.float32)
    return params


def apply(node: Node, w: Mapping[str, np.ndarray], xs: Sequence[np.ndarray]) -> np.ndarray:
    """One node's output; `w`: its parameters by the last part of their names."""
    output: np.ndarray = _computed(node, w, xs)
    return output


def _computed(node: Node, w: Mapping[str, np.ndarray], xs: Sequence[np.ndarray]) -> Any:
    a, x = node.attrs, xs[0]
    match node.op:
        case "normalize":
            x = x[..., ::-1] if a["reverse"] else x
            return x * np.asarray(a["scale"], np.float64) + np.asarray(a["shift"], np.float64)
        case "conv":
            return _conv(a, w, x)
        case "batch_norm":
            return (x - w["running_mean"]) / np.sqrt(w["running_var"] + a["epsilon"]) * w["weight"] + w["bias"]
        case "relu":
            return np.where(x > 0, x, 0.0)
        case "relu6":
            return np.minimum(np.maximum(x, 0.0), 6.0)
        case "sigmoid":
            return 1 / (1 + np.exp(-x))
        case "silu":
            return x / (1 + np.exp(-x))
        case "gelu":
            return x * (1 + ERF(x / math.sqrt(2))) / 2
        case "quick_gelu":
            return x / (1 + np.exp(-1.702 * x))
        case "hard_swish":
            return x * np.clip(x + 3, 0.0, 6.0) / 6
        case "layer_norm":
            mean = x.mean(-1, keepdims=True)
            variance = ((x - mean) ** 2).mean(-1, keepdims=True)
            return (x - mean) / np.sqrt(variance + a["epsilon"]) * w["weight"] + w["bias"]
        case "max_pool":
            return _windows(a, x, -np.inf, lambda window: window.max((1, 2)))
        case "avg_pool":

            def total(window: np.ndarray) -> Any:
                return window.sum((1, 2))

            return _windows(a, x, 0.0, total) / _windows(a, np.ones_like(x), float(a["count_padding"]), total)
        case "adaptive_avg_pool":
            rows, columns = (_bounds(side, size) for side, size in zip(x.shape[1:3], a["size"], strict=True))
            return np.stack(
                [np.stack([x[:, t:b, i:j].mean((1, 2)) for i, j in columns], axis=1) for t, b in rows], axis=1
            )
        case "global_avg_pool":
            return x.sum((1, 2)) / (x.shape[1] * x.shape[2])
        case "add":
            return x + xs[1]
        case "multiply":
            return x * xs[1]
        case "concat":
            return np.concatenate(xs, axis=-1)
        case "flatten":
            return np.stack([image.transpose(2, 0, 1).ravel() for image in x])
        case "linear":
            return x @ w["weight"].T + w.get("bias", 0.0)
        case "scale":
            return x * w["weight"]
        case "tokens":
            return np.stack([np.concatenate(list(image)) for image in x])
        case "class_token":
            return np.stack([np.concatenate([w["weight"][None], tokens]) for tokens in x])
        case "position":
            return x + w["weight"]
        case "attention":
            return np.stack([_attention(tokens, a["heads"]) for tokens in x])
        case "first_token":
            return x[:, 0]
        case "mean_tokens":
            return np.stack([sum(tokens) / len(tokens) for tokens in x])
        case "dropout" | "drop_path":
            return x
    raise AssertionError(f"the reference has no op {node.op!r}")


ERF = np.vectorize(math.erf, otypes=[float])


def _attention(qkv: np.ndarray, heads: int) -> np.ndarray:
    """`(t, 3 c)` -> `(t, c)` of one sample, head by head."""
    outputs = []
    for q, k, v in zip(*(np.split(part, heads, axis=1) for part in np.split(qkv, 3, axis=1)), strict=True):
        scores = q @ k.T / math.sqrt(q.shape[1])
        weights = np.exp(scores - scores.max(1, keepdims=True))
        outputs.append(weights / weights.sum(1, keepdims=True) @ v)
    return np.concatenate(outputs, axis=1)


def _bounds(side: int, size: int) -> list[tuple[int, int]]:
    return [(math.floor(i * side / size), math.ceil((i + 1) * side / size)) for i in range(size)]


def _conv(a: Mapping[str, Any], w: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    groups = []
    for inputs, weight in zip(
        np.split(x, a["groups"], axis=3), np.split(w["weight"], a["groups"], axis=0), strict=True
    ):
        groups.append(_windows(a, inputs, 0.0, lambda p, k=weight: np.einsum("nhwc,ochw->no", p, k)))
    return np.concatenate(groups, axis=3) + w.get("bias", 0.0)


def _windows(a: Mapping[str, Any], x: np.ndarray, fill: float, of: Any) -> np.ndarray:
    """`of` each window `(n, kh, kw, c)` of the maps padded with `fill`, set out as a map again. With `ceil` a last
    window may be cut off by the end of the padding, if it starts before the padding behind the map."""
    (kh, kw), (sh, sw) = a["kernel"], a["stride"]
    x = np.pad(x, ((0, 0), *a["padding"], (0, 0)), constant_values=fill)
    tops, lefts = list(range(0, x.shape[1] - kh + 1, sh)), list(range(0, x.shape[2] - kw + 1, sw))
    if a.get("ceil"):
        for starts, k, s, side, (_, after) in zip(
            (tops, lefts), (kh, kw), (sh, sw), x.shape[1:3], a["padding"], strict=True
        ):
            if starts[-1] + k < side and starts[-1] + s < side - after:
                starts.append(starts[-1] + s)
    rows = [np.stack([of(x[:, t : t + kh, i : i + kw]) for i in lefts], axis=1) for t in tops]
    return np.stack(rows, axis=1)
