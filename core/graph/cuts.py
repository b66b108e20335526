"""Where something made of named nodes may be cut: a graph of ours, a traced torch module, a Keras model. What a
name means, which cuts are legal and what a wrong one is answered with is the same for all, and stands here.

Invariant: a legal cut is a node that every path from the input to the output passes through.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from headstart.common.errors import CutError
from headstart.common.text import first_few

LOGITS = "logits"
LISTED = 60
INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True)
class Paths:
    """Nodes in topological order, the first one the input."""

    inputs: Mapping[str, Sequence[str]]
    """node -> the nodes it takes"""
    output: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    """further names -> the nodes they mean"""

    @classmethod
    def in_a_row(cls, names: Sequence[str]) -> Paths:
        """Of what runs one after the other, between an input and an output."""
        first, last = ends_beside(names)
        row = (first, *names, last)
        return cls({first: (), **{name: (before,) for before, name in pairwise(row)}}, last)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.inputs)}

    @property
    def input(self) -> str:
        return next(iter(self.inputs))

    @cached_property
    def cuts(self) -> tuple[str, ...]:
        """The legal cuts, in order: the output's dominators, without the input and the output themselves."""
        needed = {self.output}
        for name in reversed(list(self.inputs)):
            if name in needed:
                needed.update(self.inputs[name])
        nodes = [name for name in self.inputs if name in needed]
        position = {name: i for i, name in enumerate(nodes)}
        last_use = dict(position)
        for name in nodes:
            for given in self.inputs[name]:
                last_use[given] = max(last_use[given], position[name])
        legal = []
        reach = 0  # the furthest node that takes something from before the node in hand
        for i, name in enumerate(nodes):
            if 0 < i < len(nodes) - 1 and reach <= i:
                legal.append(name)
            reach = max(reach, last_use[name])
        return tuple(legal)

    def resolve(self, name: str) -> str:
        """The node meant by `name`: a node, an alias, `logits` (the output), or a module such as `layer4`, which
        means its last node. Raises CutError with near names."""
        if name in self.inputs:
            return name
        if name in self.aliases:
            return self.aliases[name]
        if name == LOGITS:
            return self.output
        inside = [node for node in self.inputs if node.startswith(f"{name}.")]
        if inside:
            return inside[-1]
        near = difflib.get_close_matches(str(name), self.cuts, n=3, cutoff=0.4)
        raise CutError(
            f"there is no node {name!r} to cut at; "
            + (f"the nearest are {', '.join(near)}; " if near else "")
            + f"legal cuts are {listed(self.cuts)}"
        )

    def check(self, name: str) -> str:
        """The legal cut meant by `name`. Raises CutError naming the nearest legal ones."""
        node, legal = self.resolve(name), self.cuts
        if node in legal:
            return node
        if not legal:
            raise CutError(f"{name!r} cannot be cut at: no node of this graph can")
        if node == self.output:
            raise CutError(f"a cut at the output {name!r} leaves nothing to train; the last cut is {legal[-1]!r}")
        if node == self.input:
            raise CutError(f"a cut at the input {name!r} leaves no trunk to run; the first cut is {legal[0]!r}")
        raise in_a_branch(name, [*self.inputs], legal, node)


def ends_beside(names: Collection[str]) -> tuple[str, str]:
    """What the input and the output are called beside nodes of these names: people call layers so, too."""
    first, last = (f"its {end}" if end in names else end for end in (INPUT, OUTPUT))
    return first, last


def distinct_names(names: Sequence[str], others: Collection[str] = ()) -> list[str]:
    """Names for as many nodes, no two of them the same: one that comes again has the number of its time behind it,
    or the next that no other node's name has. So a name means the first node that has it, whatever is numbered.
    `others`: names that mean something else."""
    used, times = {*names, *others}, dict.fromkeys(others, 1)
    distinct = []
    for name in names:
        number, called = times.get(name, 0), name
        while number and (called := f"{name}_{number}") in used:
            number += 1
        times[name] = number + 1
        used.add(called)
        distinct.append(called)
    return distinct


BOTH_SIDES = (
    "{} {!r} is used on both sides of the cut {!r}, so it cannot be frozen on one and trained on the other; cut "
    "elsewhere"
)


def in_a_branch(name: str, nodes: Sequence[str], legal: Sequence[str], node: str = "") -> CutError:
    """That something goes around a cut, with the nearest that nothing does. `nodes`: in their order; `node`: which
    of them is meant by the name, if it is none itself."""
    place = {each: i for i, each in enumerate(nodes)}
    here = place[node or name]
    before = [cut for cut in legal if place[cut] < here]
    after = [cut for cut in legal if place[cut] > here]
    near = " and ".join(repr(cut) for cut in (*before[-1:], *after[:1]))
    return CutError(
        f"{name!r} is inside a branch: not every path passes through it, so it cannot be cut at; "
        + (f"the nearest legal cuts are {near}" if near else "no submodule can")
    )


def listed(names: Sequence[str]) -> str:
    """The names, so many of them that a message stays readable."""
    return first_few(names, LISTED)
