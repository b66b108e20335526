"""Graphs: named nodes in topological order, and what can be said of them without a framework: shapes,
parameters, multiply-adds, where they may be cut, and the two halves of a cut.

Invariant: a `Graph` that exists is well formed. Names are unique, inputs stand before their users, every op
and attribute is in the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from headstart.common.errors import GraphError
from headstart.graph.cuts import Paths
from headstart.graph.native import NativePart
from headstart.graph.ops import INITIAL, OPS, REQUIRED, Shape


@dataclass(frozen=True)
class Node:
    """One application of an op."""

    name: str
    """torchvision's name of the layer or block; parameters are `name.weight` and so on"""
    op: str
    inputs: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """complete: defaults are filled in when the node is made"""

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise GraphError(f"node {self.name!r}: unknown op {self.op!r}; expected one of {', '.join(OPS)}")
        op = OPS[self.op]
        if unknown := set(self.attrs) - set(op.attributes):
            raise GraphError(f"node {self.name!r}: op {self.op!r} has no attribute {sorted(unknown)}")
        if len(self.inputs) != op.inputs if op.inputs is not None else len(self.inputs) < 2:
            wanted = "two or more" if op.inputs is None else op.inputs
            raise GraphError(
                f"node {self.name!r}: op {self.op!r} takes {wanted} inputs, received {len(self.inputs)}"
            )
        attrs = {**op.attributes, **self.attrs}
        if missing := [key for key, value in attrs.items() if value is REQUIRED]:
            raise GraphError(f"node {self.name!r}: op {self.op!r} needs the attributes {missing}")
        if isinstance(initial := attrs.get("initial"), str) and initial not in INITIAL:
            raise GraphError(f"node {self.name!r}: initial={initial!r}; expected one of {', '.join(INITIAL)}")
        object.__setattr__(self, "attrs", attrs)

    def __hash__(self) -> int:
        # attrs is a dict; frameworks that keep a graph as a static part of a model need it hashable
        return hash((self.name, self.op, self.inputs))

    def changed(self) -> dict[str, Any]:
        """The attributes that differ from the op's defaults."""
        defaults = OPS[self.op].attributes
        return {key: value for key, value in self.attrs.items() if value != defaults[key]}

    def param_shapes(self) -> dict[str, Shape]:
        """Full parameter name -> shape, in torchvision's layout."""
        return {f"{self.name}.{key}": shape for key, shape in OPS[self.op].params(self.attrs).items()}

    def buffers(self) -> frozenset[str]:
        """The full names of the parameters that are kept and not trained."""
        op = OPS[self.op]
        kept = op.buffers(self.attrs)
        return frozenset(f"{self.name}.{key}" for key in op.params(self.attrs) if key in kept)

    def fixed(self) -> frozenset[str]:
        """The full names of the parameters that the owner of a wrapped module froze."""
        part = self.attrs.get("part")
        return frozenset(f"{self.name}.{key}" for key in part.fixed) if part is not None else frozenset()


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order, the first one the only input, and the name of the output."""

    nodes: tuple[Node, ...]
    output: str
    auxiliary: tuple[tuple[str, float], ...] = ()
    """nodes with logits of their own, and the weights of their losses, which are added to the output's loss in
    training (Szegedy et al. 2014, arXiv:1409.4842); every slice of the graph leaves them out"""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen:
                raise GraphError(f"two nodes are called {node.name!r}")
            if missing := [name for name in node.inputs if name not in seen]:
                raise GraphError(f"node {node.name!r} uses {missing}, which no earlier node is called")
            if (node.op == "input") != (not seen):
                raise GraphError(f"the first node, and no other, is the input; see node {node.name!r}")
            seen.add(node.name)
        for name in self.outputs:
            if name not in seen:
                raise GraphError(f"the output {name!r} is no node")

    @cached_property
    def _index(self) -> dict[str, int]:
        return {node.name: i for i, node in enumerate(self.nodes)}

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def __getitem__(self, name: str) -> Node:
        return self.nodes[self._index[name]]

    @cached_property
    def main(self) -> Graph:
        """The graph without auxiliary outputs, and without what only they need."""
        return self.upto(self.output) if self.auxiliary else self

    @property
    def outputs(self) -> tuple[str, ...]:
        """The nodes that a loss is taken of: the output, and the auxiliary ones."""
        return (self.output, *(name for name, _ in self.auxiliary))

    @property
    def input(self) -> str:
        """The input node's name."""
        return self.nodes[0].name

    def users(self, name: str) -> list[Node]:
        """The nodes that take `name` as an input."""
        return [node for node in self.nodes if name in node.inputs]

    @cached_property
    def _paths(self) -> Paths:
        return Paths({node.name: node.inputs for node in self.nodes}, self.output)

    def resolve(self, name: str) -> str:
        """The node meant by `name`: a node, `logits` (the output), or a module such as `layer4`, which
        means its last node. Raises CutError with near names."""
        return self._paths.resolve(name)

    def cuts(self) -> tuple[str, ...]:
        """Names of the legal cuts, in order: the nodes that every path from input to output passes
        through (the output's dominators), without the input and the output themselves."""
        return self._paths.cuts

    def check_cut(self, name: str) -> str:
        """The legal cut meant by `name`. Raises CutError naming the nearest legal ones."""
        return self._paths.check(name)

    def steps(self, keep: Iterable[str] = ()) -> tuple[tuple[Node, tuple[str, ...]], ...]:
        """All nodes but the input, in order, each with the nodes whose outputs nobody needs after it; those of
        `keep` and the outputs are needed to the end. A backend that runs eagerly frees memory by it."""
        keep = frozenset(keep)
        if keep not in self._steps:
            last = {name: node.name for node in self.nodes for name in (node.name, *node.inputs)}
            done: dict[str, list[str]] = {}
            for name, node in last.items():
                if name not in keep and name not in self.outputs:
                    done.setdefault(node, []).append(name)
            self._steps[keep] = tuple((node, tuple(done.get(node.name, ()))) for node in self.nodes[1:])
        return self._steps[keep]

    @cached_property
    def _steps(self) -> dict[frozenset[str], tuple[tuple[Node, tuple[str, ...]], ...]]:
        return {}

    def upto(self, *names: str) -> Graph:
        """The sub-graph of what `names` need; its output is the last of them in order."""
        wanted = set(names)
        for node in reversed(self.nodes):
            if node.name in wanted:
                wanted.update(node.inputs)
        nodes = tuple(node for node in self.nodes if node.name in wanted)
        return Graph(nodes, nodes[-1].name)

    def after(self, cut: str, input_shape: Shape) -> Graph:
        """The head behind a legal cut of a graph that is fed with `input_shape`. Its input node carries the
        cut's name, and the shape there."""
        cut = self.check_cut(cut)
        rest = self.upto(self.output).nodes
        start = next(i for i, node in enumerate(rest) if node.name == cut)
        shape = self.shapes(input_shape)[cut]
        return Graph((Node(cut, "input", (), {"shape": shape}), *rest[start + 1 :]), self.output)

    def normalized(self, scale: Iterable[float], shift: Iterable[float], reverse: bool = False) -> Graph:
        """The same graph fed with uint8 pixels: `x * scale + shift` per channel comes first, of channels that are
        turned from RGB to BGR with `reverse`.

        The new input is called `pixels`, the normalising node keeps the old input's name."""
        first = Node(
            self.input,
            "normalize",
            ("pixels",),
            {"scale": tuple(map(float, scale)), "shift": tuple(map(float, shift)), "reverse": reverse},
        )
        pixels = Node("pixels", "input", (), self.nodes[0].attrs)
        return Graph((pixels, first, *self.nodes[1:]), self.output, self.auxiliary)

    def shapes(self, input_shape: Shape) -> dict[str, Shape]:
        """Node name -> shape of one sample's output, `(h, w, c)` or `(c,)`."""
        shapes: dict[str, Shape] = {}
        for node in self.nodes:
            given = [shapes[name] for name in node.inputs] or [tuple(input_shape)]
            try:
                shapes[node.name] = OPS[node.op].shape(node.attrs, given)
            except GraphError as error:
                raise GraphError(f"node {node.name!r}: {error}") from None
        return shapes

    def macs(self, input_shape: Shape) -> dict[str, int]:
        """Node name -> multiply-adds of one sample (a multiply-add is two FLOPs)."""
        shapes = self.shapes(input_shape)
        return {
            node.name: OPS[node.op].macs(node.attrs, [shapes[i] for i in node.inputs], shapes[node.name])
            for node in self.nodes
        }

    def work(self, input_shape: Shape) -> float:
        """What there is to do for one sample, forward: multiply-adds, and numbers that are written. Infinite where
        a native part does not say."""
        if any(node.op == "native" for node in self.nodes):
            return math.inf
        written = sum(map(math.prod, self.shapes(input_shape).values()))
        return float(sum(self.macs(input_shape).values()) + written)

    def param_shapes(self) -> dict[str, Shape]:
        """Parameter name -> shape (statistics included), in the nodes' order."""
        return {name: shape for node in self.nodes for name, shape in node.param_shapes().items()}

    def buffers(self) -> frozenset[str]:
        """The parameters that are kept and not trained: statistics, counters."""
        return frozenset(name for node in self.nodes for name in node.buffers())

    def volatile(self) -> frozenset[str]:
        """The counters of wrapped modules, which move as these run, and matter to nothing."""
        parts = {node.name: node.attrs["part"] for node in self.nodes if node.op == "native"}
        return frozenset(f"{name}.{key}" for name, part in parts.items() for key in part.volatile)

    def fixed(self) -> frozenset[str]:
        """The parameters that the owner of a wrapped module froze; `scratch` alone trains them."""
        return frozenset(name for node in self.nodes for name in node.fixed())

    @property
    def backend(self) -> str | None:
        """The only backend that can run it, where it holds a part of a user's own module."""
        return next((node.attrs["part"].backend for node in self.nodes if node.op == "native"), None)

    def spec(self) -> list[list[Any]]:
        """A JSON-able canonical form: `[name, op, inputs, attributes]` for each node. Attributes that have their
        default are left out, so that the form stays the same when an op is given a new attribute."""
        return [[n.name, n.op, list(n.inputs), _plain(n.changed())] for n in self.nodes]


def _plain(attrs: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.structure if isinstance(v, NativePart) else v for k, v in sorted(attrs.items())}


Pair = int | tuple[int, int]


def _window(kernel: Pair, stride: int, pad: Pair) -> dict[str, Any]:
    pads = (pad, pad) if isinstance(pad, int) else pad
    return {
        "kernel": (kernel, kernel) if isinstance(kernel, int) else kernel,
        "stride": (stride, stride),
        "padding": tuple((p, p) for p in pads),
    }


class Builder:
    """Appends nodes to a graph under construction; each call returns the new node's name."""

    def __init__(self) -> None:
        self.nodes: list[Node] = [Node("input", "input")]

    def add(self, name: str, op: str, *inputs: str, **attrs: Any) -> str:
        self.nodes.append(Node(name, op, inputs, attrs))
        return name

    def conv(
        self,
        name: str,
        x: str,
        cin: int,
        cout: int,
        kernel: Pair,
        stride: int = 1,
        pad: Pair = 0,
        bias: bool = False,
        groups: int = 1,
        initial: str | None = None,
    ) -> str:
        """A convolution; `kernel` and `pad` (on both sides) are one number, or height and width. `initial`: how
        its weight is drawn, where that is not the op's way."""
        return self.add(
            name,
            "conv",
            x,
            in_channels=cin,
            out_channels=cout,
            **_window(kernel, stride, pad),
            bias=bias,
            groups=groups,
            initial=initial,
        )

    def max_pool(self, name: str, x: str, kernel: int, stride: int, pad: int = 0, ceil: bool = False) -> str:
        return self.add(name, "max_pool", x, **_window(kernel, stride, pad), ceil=ceil)

    def avg_pool(self, name: str, x: str, kernel: int, stride: int, pad: int = 0, **attrs: Any) -> str:
        return self.add(name, "avg_pool", x, **_window(kernel, stride, pad), **attrs)

    def linear(self, name: str, x: str, fin: int, fout: int) -> str:
        return self.add(name, "linear", x, in_features=fin, out_features=fout)

    def graph(self, output: str, auxiliary: tuple[tuple[str, float], ...] = ()) -> Graph:
        return Graph(tuple(self.nodes), output, auxiliary)
