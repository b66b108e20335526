"""The search for the node where the first NaN or infinity came up.

A batch that went wrong is run again, in inference mode, with every node's output in view. The parameters are those
of before the step. A batch norm that follows the batch (instead of its kept statistics) is given the statistics of
that very batch, so that it gives what it gave in the step.

A value that is not finite can vanish before it reaches an output: oneDNN's rectifier turns NaN into 0. So
parameters and inputs are also looked at before they are used: `unsound_parameters`, `holds_nan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.data.rows import count, pad, window
from headstart.features.inference import fed, frozen, unsound_node
from headstart.graph import Graph, Node
from headstart.models import Model

ROWS = 8  # rows of a batch that are searched at once; the outputs of all nodes are kept for them

Params = Mapping[str, np.ndarray]


def is_finite(array: Any) -> bool:
    return bool(_finite(np.asarray(array)).all())


def holds_nan(rows: Any) -> bool:
    """Whether a batch (an array, or a dict of arrays) holds NaN. Infinity is allowed: masks consist of it."""
    arrays = rows.values() if isinstance(rows, dict) else [rows]
    return any(isinstance(a, np.ndarray) and a.dtype.kind == "f" and bool(np.isnan(a).any()) for a in arrays)


def bad_rows(rows: Any) -> np.ndarray:
    """int64 `(k,)`: which samples of a batch hold NaN or infinity."""
    arrays = list(rows.values()) if isinstance(rows, dict) else [rows]
    bad = [~_finite(array).reshape(len(array), -1).all(1) for array in arrays]
    return np.flatnonzero(np.any(bad, axis=0))


def _finite(array: np.ndarray) -> np.ndarray:
    """bool, in the array's shape: where its values are finite. Integers, bools and texts are everywhere."""
    no_fraction = array.dtype.kind in "biuSU"
    finite: np.ndarray = np.ones(array.shape, bool) if no_fraction else np.isfinite(array)
    return finite


@dataclass(frozen=True)
class Finding:
    """Where the first NaN or infinity is."""

    what: str
    """"input", "output", "loss" or "update", as `NonFiniteError` has it"""
    node: Node
    rows: np.ndarray
    """int64 `(k,)`: which samples of the batch; empty where it is no matter of samples"""


@dataclass(frozen=True)
class Search:
    """A graph with its parameters, and what runs it."""

    backend: Backend
    place: Place
    graph: Graph
    params: Params

    def find(self, inputs: Any) -> Finding | None:
        """The first node, in the graph's order, whose output for this batch is not finite; None where all are."""
        bad = bad_rows(inputs)
        if len(bad):
            return Finding("input", self.graph.nodes[0], bad)
        nodes = self.graph.nodes[1:]
        trunk = self.backend.trunk(self.graph, self.params, [node.name for node in nodes], self.place)
        total = count(inputs)
        size = min(ROWS, total)
        first, rows = len(nodes), np.zeros(0, np.int64)  # the earliest such node so far, and its samples
        for start in range(0, total, size):
            part = window(inputs, start, start + size)
            outputs = trunk.run(pad(part, size))
            for i, node in enumerate(nodes[: first + 1]):
                bad = bad_rows(self.backend.numpy(outputs[node.name])[: count(part)])
                if len(bad):
                    rows = np.concatenate([rows, start + bad]) if i == first else start + bad
                    first = i
                    break
        return Finding("output", nodes[first], rows) if len(rows) else None


def with_batch_statistics(graph: Graph, before: Params, after: Params) -> dict[str, np.ndarray]:
    """The parameters of before a step in which batch norms followed the batch, with that batch's statistics in
    place of the kept ones: how the kept ones changed says what they are."""
    params = dict(before)
    for node in graph.nodes:
        if node.op != "batch_norm":
            continue
        momentum = node.attrs["momentum"]
        for key, least in (("running_mean", -np.inf), ("running_var", 0.0)):
            name = f"{node.name}.{key}"
            with np.errstate(over="ignore", invalid="ignore"):
                change = after[name].astype(np.float64) - (1 - momentum) * before[name].astype(np.float64)
                params[name] = np.maximum(change / momentum, least).astype(np.float32)
    return params


def find_in_trunk(model: Model, cut: str, backend: Backend, place: Place, images: Any) -> Finding | None:
    """The first node of the frozen trunk that is not finite for these inputs: one of the model's nodes or, where
    all of them are finite, one of those that are run, in which batch norms and scales are folded into others."""
    graph = model.graph.upto(cut)
    params = {name: model.params[name] for name in graph.param_shapes()}
    finding = Search(backend, place, fed(graph, model), params).find(images)
    if finding is None:
        graph, params = frozen(graph, model.params, [cut])
        finding = Search(backend, place, fed(graph, model), params).find(images)
    return finding


def unsound_parameters(model: Model, cut: str | None) -> tuple[Node, str] | None:
    """The first node with parameters that are not finite, and what to say of it; None where all are finite. With a
    `cut`, those of the trunk as it is run are looked at too, folded."""
    folded = None
    if cut is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            folded = frozen(model.graph.upto(cut), model.params, [cut])
    return unsound_node((model.graph, model.params), folded)
