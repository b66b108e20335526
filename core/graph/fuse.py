"""Which nodes of a frozen graph can be one call: a convolution, the addition behind it and the activation behind
that. For backends whose libraries have such kernels and whose compilers do not find them.

Invariant: every wanted node is some step's output, a step's inputs are outputs of earlier steps (or the graph's
input), and what a step may overwrite is needed by nobody else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headstart.graph.graph import Graph, Node
from headstart.graph.inert import without_inert

VARIABLE = "HEADSTART_FUSED"
"""the environment's: 0 has every layer computed by itself"""


@dataclass(frozen=True)
class Step:
    """One call: a node, and what is done to its output on the way."""

    node: Node
    inputs: tuple[str, ...]
    """of the node; the steps' outputs, under their names"""
    output: str
    """the last node that is computed"""
    other: str | None = None
    """what is added to the node's output"""
    activation: str | None = None
    """the op of the activation behind that"""
    done: tuple[str, ...] = ()
    """the outputs that no later step needs"""
    in_place: bool = False
    """whether the sum may be written over `other`"""


def allowed() -> bool:
    """Whether the user has not forbidden such calls."""
    return os.environ.get(VARIABLE, "1") != "0"


def fused_steps(
    graph: Graph,
    outputs: Sequence[str],
    activations: Mapping[str, Collection[str]],
    behind_sum: Collection[str] | None,
) -> tuple[Step, ...]:
    """The steps that compute `outputs`, in order.

    `activations`: op -> the activations that can follow it in one call. A convolution among these ops takes an
    addition as well, and behind that one of `behind_sum`; with None it takes none.
    """
    kept = {*outputs, graph.output}
    nodes = without_inert(graph, outputs).nodes[1:]
    users: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)

    def follower(name: str) -> Node | None:
        """The only node that takes this one's output, which is wanted nowhere else."""
        found = users.get(name, [])
        return found[0] if len(found) == 1 and name not in kept else None

    # By the last node of each, in whose place it stands: whatever else it needs has been computed by then.
    at: dict[str, Step] = {}
    swallowed: set[str] = set()
    sums: set[str] = set()
    for node in nodes:
        if node.op not in activations:
            continue
        path, other, possible = [node.name], None, activations[node.op]
        after = follower(node.name)
        if (
            behind_sum is not None
            and node.op == "conv"
            and after is not None
            and after.op == "add"
            and after.name not in sums
        ):
            sums.add(after.name)  # if the other summand is a convolution as well, it stands for itself
            other = next(name for name in after.inputs if name != node.name)
            path.append(after.name)
            possible, after = behind_sum, follower(after.name)
        activation = None
        if after is not None and after.op in possible:
            path.append(after.name)
            activation = after.op
        at[path[-1]] = Step(node, node.inputs, path[-1], other, activation)
        swallowed.update(path[:-1])
    rest = [node for node in nodes if node.name not in swallowed]
    steps = [at.get(node.name) or Step(node, node.inputs, node.name) for node in rest]
    return _with_lifetimes(steps, kept)


def run_steps(
    calls: Iterable[tuple[Step, Callable[..., Any]]], values: dict[str, Any], outputs: Sequence[str]
) -> dict[str, Any]:
    """Node -> its output, for `outputs`. Each step's call is given its inputs, and then what is added. `values`:
    of the graph's input; what no later step needs is taken out of it."""
    for step, call in calls:
        names = step.inputs if step.other is None else (*step.inputs, step.other)
        values[step.output] = call(*(values[name] for name in names))
        for name in step.done:
            del values[name]
    return {name: values[name] for name in outputs}


def _with_lifetimes(steps: Sequence[Step], kept: Collection[str]) -> tuple[Step, ...]:
    final: dict[str, int] = {}
    for i, step in enumerate(steps):
        for name in (*step.inputs, *([] if step.other is None else [step.other])):
            final[name] = i
        final.setdefault(step.output, i)
    made = {step.output for step in steps}
    result = []
    for i, step in enumerate(steps):
        done = tuple(name for name, at in final.items() if at == i and name not in kept)
        in_place = step.other in done and step.other in made and step.other not in step.inputs
        result.append(replace(step, done=done, in_place=in_place))
    return tuple(result)
