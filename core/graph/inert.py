"""What drops at random in training does nothing in inference, and is no node of a graph that is only run: most
frameworks would still compute something for it, a multiplication of whole maps by ones.

Invariant: the shorter graph computes the same, bit by bit, at every node that it still has.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from headstart.graph.graph import Graph
from headstart.graph.ops import INERT


def without_inert(graph: Graph, keep: Collection[str] = ()) -> Graph:
    """The graph without the nodes that give in inference what they are given, such as dropout; those named in
    `keep`, and the output, stay."""
    kept = {*keep, *graph.outputs}
    given: dict[str, str] = {}  # node -> the node whose output that of this one is
    for node in graph.nodes:
        same = node.op in INERT and node.name not in kept
        given[node.name] = given[node.inputs[0]] if same else node.name
    nodes = [
        replace(node, inputs=tuple(given[name] for name in node.inputs))
        for node in graph.nodes
        if given[node.name] == node.name
    ]
    return replace(graph, nodes=tuple(nodes))
