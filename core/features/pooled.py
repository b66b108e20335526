"""Features of a cut in few numbers: maps averaged over their places, tokens by their class token.

Of a map of 14 x 14 places the average is one number in 196, so that several cuts can be looked at where the maps
themselves would fill the disk. The average is a node of the graph's own behind the cut, so its features have a key
of their own in the store, and the maps' keys stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from headstart.graph import Graph, Node
from headstart.models import Model

POOLS = {3: "global_avg_pool", 2: "first_token"}
"""dimensions of a sample's features -> the op that makes a vector of them"""


def with_pools(model: Model, nodes: Mapping[str, str]) -> tuple[Model, dict[str, str]]:
    """The model with a pooling node behind each of `nodes` that gives no vector, and the node to take in its
    place.

    `nodes`: cut, as somebody wrote it -> node. What the graph itself pools a node by is taken where it has that,
    so that its features are those of a cut there. Tokens are left as they are in a graph that takes no class
    token.
    """
    shapes = model.graph.shapes(model.input_shape)
    pools: dict[str, Node] = {}
    for node in nodes.values():
        if (op := _pool_of(model.graph, len(shapes.get(node, ())))) is not None:
            pools[node] = next(
                (user for user in model.graph.users(node) if user.op == op), Node(f"pooled_{node}", op, (node,))
            )
    added = []
    for own in model.graph.nodes:
        added.append(own)
        if (pool := pools.get(own.name)) is not None and pool.name not in model.graph:
            added.append(pool)
    graph = Graph(tuple(added), model.graph.output, model.graph.auxiliary)
    taken = {cut: pools[node].name if node in pools else node for cut, node in nodes.items()}
    return replace(model, graph=graph), taken


def _pool_of(graph: Graph, dimensions: int) -> str | None:
    op = POOLS.get(dimensions)
    if op == "first_token" and not any(node.op == op for node in graph.nodes):
        return None
    return op
