"""Which nodes of a frozen graph are computed by one call: nothing that is wanted is left out or written over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from headstart.graph import Graph, Node
from headstart.graph.fuse import fused_steps

pytestmark = pytest.mark.neutral


def conv(name: str, x: str, **attrs: Any) -> Node:
    window = {"kernel": (3, 3), "padding": ((1, 1), (1, 1)), "in_channels": 3, "out_channels": 3}
    return Node(name, "conv", (x,), {**window, **attrs})


def plan(nodes: Sequence[Node], *outputs: str) -> list[tuple[str, str | None, bool, str | None]]:
    graph = Graph((Node("x", "input"), *nodes), nodes[-1].name)
    steps = fused_steps(graph, outputs or [graph.output], {"conv": ["relu", "silu"]}, ["relu"])
    have = {"x"}
    for step in steps:
        assert {*step.inputs, *([step.other] if step.other else [])} <= have
        have = (have | {step.output}) - set(step.done)
    assert have >= set(outputs)
    return [(step.output, step.other, step.in_place, step.activation) for step in steps]


def test_what_is_one_call() -> None:
    body = [conv("a", "x"), Node("r", "relu", ("a",)), conv("b", "r")]
    block = [*body, Node("s", "add", ("b", "r")), Node("out", "relu", ("s",))]
    # `r` goes into the convolution whose output it is added to: the sum is not written over it
    assert plan(block) == [("r", None, False, "relu"), ("out", "r", False, "relu")]
    skip = [*body, conv("c", "r"), Node("s", "add", ("b", "c")), Node("out", "relu", ("s",))]
    assert plan(skip) == [("r", None, False, "relu"), ("c", None, False, None), ("out", "c", True, "relu")]
    # two convolutions are added, and nothing stands behind: one of them stands for itself
    assert plan(skip[:-1]) == [("r", None, False, "relu"), ("c", None, False, None), ("s", "c", True, None)]
    # what is wanted itself is neither swallowed nor written over
    assert plan(skip, "c", "out")[-1] == ("out", "c", False, "relu")
    assert plan(skip, "b", "out")[-1] == ("out", "b", False, "relu")
    assert plan(skip, "s", "out")[-2:] == [("s", "c", True, None), ("out", None, False, None)]
    # nor the images
    assert plan([conv("a", "x"), Node("s", "add", ("x", "a"))]) == [("s", "x", False, None)]
    assert plan([*body, Node("s", "add", ("b", "x"))])[-1] == ("s", "x", False, None)
    # twice the same, and an activation that has another user
    assert plan([conv("a", "x"), Node("s", "add", ("a", "a"))])[-1] == ("s", None, False, None)
    gate = [*body, Node("t", "sigmoid", ("a",)), Node("m", "multiply", ("b", "t"))]
    assert [step[0] for step in plan(gate)] == ["a", "r", "b", "t", "m"]
    # what can follow a convolution, and what can follow a sum
    assert plan([conv("a", "x"), Node("out", "silu", ("a",))]) == [("out", None, False, "silu")]
    late = [*body, Node("s", "add", ("b", "r")), Node("out", "silu", ("s",))]
    assert plan(late)[-2:] == [("s", "r", False, None), ("out", None, False, None)]
    # where sums are of numbers of another type, they are calls of their own
    apart = fused_steps(Graph((Node("x", "input"), *block), "out"), ["out"], {"conv": ["relu"]}, None)
    assert [(step.output, step.other, step.activation) for step in apart] == [
        ("r", None, "relu"),
        ("b", None, None),
        ("s", None, None),
        ("out", None, None),
    ]
    # dropout at rest is nothing, unless it is what is wanted
    kept = [conv("a", "x"), Node("d", "dropout", ("a",), {"rate": 0.5}), Node("out", "relu", ("d",))]
    assert plan(kept) == [("out", None, False, "relu")]
    assert plan(kept, "d", "out") == [
        ("a", None, False, None),
        ("d", None, False, None),
        ("out", None, False, None),
    ]
