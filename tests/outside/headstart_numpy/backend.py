"""A backend in plain numpy: slow, and all that a backend owes. It has none of the optional abilities.

An op is a function that gives its output, and the function that takes the gradient back: of the output, to those
of the inputs and the parameters. Ops that no small network trains have none; the suite's reference computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from headstart.common.errors import UnsupportedOpError
from headstart.contract.losses import mean, per_sample, right
from headstart.contract.masks import DROPS, factors
from headstart.contract.optimizers import SGD
from headstart.contract.recipe import Place, Recipe
from headstart.graph import OPS, Graph
from headstart.graph.ops import window_padding
from headstart.testing import reference
from headstart.testing.known import slope

Params = Mapping[str, np.ndarray]
Gradients = tuple[list[np.ndarray], dict[str, np.ndarray]]
"""of the inputs, and of the parameters by the last part of their names"""
Step = tuple[np.ndarray, Callable[[np.ndarray], Gradients]]


@dataclass
class Training:
    """What ops do otherwise in training."""

    seed: int
    statistics: bool
    steps: int = 0
    """those before this one"""


def _windows(x: np.ndarray, a: Mapping[str, Any], fill: float) -> tuple[np.ndarray, Callable[..., np.ndarray]]:
    """The windows `(n, oh, ow, c, kh, kw)`, and what adds such gradients up to those of `x`."""
    (kh, kw), (sh, sw), pads = a["kernel"], a["stride"], window_padding(a)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=fill)
    windows = sliding_window_view(padded, (kh, kw), axis=(1, 2))[:, ::sh, ::sw]

    def back(part: Callable[[int, int], np.ndarray]) -> np.ndarray:
        total = np.zeros_like(padded)
        oh, ow = windows.shape[1:3]
        for i in range(kh):
            for j in range(kw):
                total[:, i : i + sh * oh : sh, j : j + sw * ow : sw] += part(i, j)
        return total[:, pads[0][0] : pads[0][0] + x.shape[1], pads[1][0] : pads[1][0] + x.shape[2]]

    return windows, back


def conv(a: Any, w: Params, x: np.ndarray, t: Training | None) -> Step:
    windows, back = _windows(x, a, 0.0)
    n, oh, ow, c, kh, kw = windows.shape
    groups = a["groups"]
    windows = windows.reshape(n, oh, ow, groups, c // groups, kh, kw)
    weight = w["weight"].reshape(groups, -1, c // groups, kh, kw)
    y = np.einsum("nhwgcij,gocij->nhwgo", windows, weight, optimize=True).reshape(n, oh, ow, -1)

    def gradients(dy: np.ndarray) -> Gradients:
        split = dy.reshape(n, oh, ow, groups, -1)
        dw = np.einsum("nhwgcij,nhwgo->gocij", windows, split, optimize=True).reshape(w["weight"].shape)
        dx = back(lambda i, j: np.einsum("nhwgo,goc->nhwgc", split, weight[..., i, j]).reshape(n, oh, ow, c))
        return [dx], {"weight": dw, "bias": dy.sum((0, 1, 2))}

    return y + w.get("bias", 0), gradients


def max_pool(a: Any, w: Params, x: np.ndarray, t: Training | None) -> Step:
    windows, back = _windows(x, a, -np.inf)
    y = windows.max((4, 5))

    def gradients(dy: np.ndarray) -> Gradients:
        free = np.ones(y.shape, bool)

        def part(i: int, j: int) -> np.ndarray:
            nonlocal free
            first = free & (windows[..., i, j] == y)
            free = free & ~first
            return np.where(first, dy, 0)

        return [back(part)], {}

    return y, gradients


def batch_norm(a: Any, w: Params, x: np.ndarray, t: Training | None) -> Step:
    axes = tuple(range(x.ndim - 1))
    by_batch = t is not None and t.statistics
    mean, variance = (x.mean(axes), x.var(axes)) if by_batch else (w["running_mean"], w["running_var"])
    if by_batch:  # the running variance follows the unbiased one
        unbiased = variance * (x.size // x.shape[-1]) / max(1, x.size // x.shape[-1] - 1)
        for name, value in (("running_mean", mean), ("running_var", unbiased)):
            w[name][...] = (1 - a["momentum"]) * w[name] + a["momentum"] * value
    deviation = np.sqrt(variance + a["epsilon"])
    z = (x - mean) / deviation

    def gradients(dy: np.ndarray) -> Gradients:
        dx = dy - dy.mean(axes) - z * (dy * z).mean(axes) if by_batch else dy
        return [dx * w["weight"] / deviation], {"weight": (dy * z).sum(axes), "bias": dy.sum(axes)}

    return z * w["weight"] + w["bias"], gradients


def linear(a: Any, w: Params, x: np.ndarray, t: Training | None) -> Step:
    def gradients(dy: np.ndarray) -> Gradients:
        flat = dy.reshape(-1, dy.shape[-1])
        return [dy @ w["weight"]], {"weight": flat.T @ x.reshape(-1, x.shape[-1]), "bias": flat.sum(0)}

    return x @ w["weight"].T + w.get("bias", 0), gradients


def flatten(a: Any, w: Params, x: np.ndarray, t: Training | None) -> Step:
    n, h, wide, c = x.shape
    return x.transpose(0, 3, 1, 2).reshape(n, -1), lambda dy: (
        [dy.reshape(n, c, h, wide).transpose(0, 2, 3, 1)],
        {},
    )


def global_avg_pool(a: Any, w: Params, x: np.ndarray, t: Training | None) -> Step:
    area = x.shape[1] * x.shape[2]
    return x.mean((1, 2)), lambda dy: ([np.broadcast_to(dy[:, None, None] / area, x.shape)], {})


LAYERS: Mapping[str, Callable[..., Step]] = {
    "conv": conv,
    "max_pool": max_pool,
    "batch_norm": batch_norm,
    "linear": linear,
    "flatten": flatten,
    "global_avg_pool": global_avg_pool,
    "relu": lambda a, w, x, t: (np.maximum(x, 0), lambda dy: ([dy * (x > 0)], {})),
    "add": lambda a, w, x, y, t: (x + y, lambda dy: ([dy, dy], {})),
}
OTHERS = OPS.keys() - LAYERS.keys() - {"input", "native"}


class Network:
    """A graph with parameters of its own. Called, it gives the output, or a dict of `outputs`."""

    def __init__(
        self, graph: Graph, params: Params, outputs: Sequence[str] = (), precision: str = "float32"
    ) -> None:
        for node in graph.nodes[1:]:
            if node.op not in LAYERS and node.op not in OTHERS:
                raise UnsupportedOpError(f"the numpy backend has no layer for op {node.op!r} ({node.name!r})")
        self.graph, self.outputs = graph.upto(*outputs) if outputs else graph, tuple(outputs)
        self.params = {name: np.array(params[name]) for name in self.graph.param_shapes()}
        self.low = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}.get(precision)
        self.weights = {
            node.name: {name.removeprefix(f"{node.name}."): self.params[name] for name in node.param_shapes()}
            for node in self.graph.nodes
        }

    def __call__(self, x: Any) -> Any:
        values, _ = self.run(x, None)
        return {name: values[name] for name in self.outputs} if self.outputs else values[self.graph.output]

    def run(self, x: Any, training: Training | None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All nodes' outputs, and what takes gradients back through them."""
        values = {self.graph.input: x if x.dtype == np.uint8 else x.astype(np.float32)}
        backs = {}
        for node in self.graph.nodes[1:]:
            inputs = [self._rounded(values[name]) for name in node.inputs]
            weights = {key: self._rounded(value) for key, value in self.weights[node.name].items()}
            if node.op == "batch_norm":  # which writes to its statistics
                weights = self.weights[node.name]
            if node.op in DROPS and training is not None:
                a, seed, (features,) = node.attrs, training.seed, inputs
                kept = factors(node.op, a["rate"], seed, node.name, training.steps, features.shape)
                value, backs[node.name] = features * kept, lambda dy, kept=kept: ([dy * kept], {})
            elif node.op in LAYERS:
                value, backs[node.name] = LAYERS[node.op](node.attrs, weights, *inputs, training)
            else:
                value = reference.apply(node, weights, inputs)
            values[node.name] = self._rounded(np.asarray(value, np.float32))
        return values, backs

    def _rounded(self, x: np.ndarray) -> np.ndarray:
        if self.low is None or x.dtype != np.float32:
            return x
        with np.errstate(over="ignore"):
            return x.astype(self.low).astype(np.float32)


class NumpyTrunk:
    def __init__(self, graph: Graph, params: Params, outputs: Sequence[str], place: Place) -> None:
        self.network = Network(graph, params, outputs, place.precision)

    def run(self, images: Any) -> dict[str, np.ndarray]:
        return self.network(images)

    def params(self) -> dict[str, np.ndarray]:
        return {name: value.copy() for name, value in self.network.params.items()}


class NumpyTrainer:
    def __init__(self, graph: Graph, params: Params, recipe: Recipe, place: Place) -> None:
        self.graph, self.recipe = graph, recipe
        self.network = Network(graph, params, (), place.precision)
        self.training = Training(recipe.seed, recipe.train_statistics)
        trained = params.keys() - graph.buffers()
        self.multiples = {n: m for n in trained if (m := recipe.rates.get(n, 1.0))}
        self.moments = {name: (np.zeros_like(params[name]), np.zeros_like(params[name])) for name in trained}

    def put(self, rows: np.ndarray) -> np.ndarray:
        return rows

    def epoch(
        self,
        rows: np.ndarray,
        targets: np.ndarray,
        order: np.ndarray | None,
        rates: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> tuple[np.ndarray, int]:
        order = np.arange(len(targets)).reshape(len(rates), -1) if order is None else order
        weights = np.ones(len(targets), np.float32) if weights is None else weights
        results = [self.step(rows[i], targets[i], rate, weights[i]) for i, rate in zip(order, rates, strict=True)]
        return np.stack([losses for losses, _ in results]), sum(right for _, right in results)

    def step(
        self, inputs: np.ndarray, targets: np.ndarray, rate: float, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        values, backs = self.network.run(inputs, self.training)
        gradients: dict[str, np.ndarray] = {}
        losses = []
        for name, weight in ((self.graph.output, 1.0), *self.graph.auxiliary):
            losses.append(mean(per_sample(self.recipe.loss, values[name], targets), weights))
            error = slope(self.recipe.loss, values[name], targets, weights).astype(np.float32)
            gradients[name] = gradients.get(name, 0) + weight * error
        self.training.steps += 1
        for node in reversed(self.graph.nodes[1:]):
            if node.name not in gradients or node.name not in backs:
                continue  # an auxiliary output's, or the pixels'
            inward, for_params = backs[node.name](gradients[node.name])
            for name, gradient in zip(node.inputs, inward, strict=True):
                gradients[name] = gradients.get(name, 0) + gradient
            for key, gradient in for_params.items():
                if (name := f"{node.name}.{key}") in self.multiples:
                    self._update(name, gradient, float(rate) * self.multiples[name])
        hits = int(right(self.recipe.loss, values[self.graph.output], targets).sum())
        return np.array(losses, np.float32), hits if np.isfinite(losses[0]) else 0

    def logits(self, inputs: np.ndarray, start: int, stop: int) -> np.ndarray:
        return self.network(inputs[start:stop])

    def params(self) -> dict[str, np.ndarray]:
        return {name: value.copy() for name, value in self.network.params.items()}

    def _update(self, name: str, g: np.ndarray, rate: float) -> None:
        o, p = self.recipe.optimizer, self.network.params[name]
        m, v = self.moments[name]
        if isinstance(o, SGD):
            g = g + o.weight_decay * p
            m[...] = o.momentum * m + g
            p -= rate * (g + o.momentum * m if o.nesterov else m)
            return
        m[...] = o.beta1 * m + (1 - o.beta1) * g
        v[...] = o.beta2 * v + (1 - o.beta2) * g**2
        m_hat, v_hat = m / (1 - o.beta1**self.training.steps), v / (1 - o.beta2**self.training.steps)
        p -= rate * (m_hat / (np.sqrt(v_hat) + o.epsilon) + o.weight_decay * p)


class NumpyBackend:
    name = "numpy"

    def place(self, device: str, precision: str) -> Place:
        return Place("cpu", precision)

    def threads(self) -> int:
        return 1

    def trunk(self, graph: Graph, params: Params, outputs: Sequence[str], place: Place) -> NumpyTrunk:
        return NumpyTrunk(graph, params, outputs, place)

    def trainer(self, graph: Graph, params: Params, recipe: Recipe, place: Place) -> NumpyTrainer:
        return NumpyTrainer(graph, params, recipe, place)

    def native(self, graph: Graph, params: Params, outputs: Sequence[str] = ()) -> Network:
        return Network(graph, params, outputs)

    def call(self, native: Network, images: np.ndarray) -> np.ndarray:
        return native(images)

    def numpy(self, array: np.ndarray) -> np.ndarray:
        return array


BACKEND = NumpyBackend()
