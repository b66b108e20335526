"""The framework-neutral description of a model: a closed table of ops, graphs of them, and folding."""

from headstart.graph.denormals import without_denormals
from headstart.graph.fold import fold
from headstart.graph.graph import Builder, Graph, Node
from headstart.graph.inert import without_inert
from headstart.graph.native import NativePart
from headstart.graph.ops import OPS, Shape
from headstart.graph.rounding import in_bfloat16

__all__ = [
    "OPS",
    "Builder",
    "Graph",
    "NativePart",
    "Node",
    "Shape",
    "fold",
    "in_bfloat16",
    "without_denormals",
    "without_inert",
]
