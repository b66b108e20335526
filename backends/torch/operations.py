"""What operations of torch are called, whichever way a graph has them: as functions, methods and modules, or as
those of ATen that an exported module is made of.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

from torch import fx

SOFTMAX, LOG_SOFTMAX, SIGMOID = "softmax", "log_softmax", "sigmoid"
# torch's modules, functions and methods -> the ending
ENDINGS: Mapping[str, str] = {
    **dict.fromkeys(("Softmax", "Softmax2d", "softmax", "_softmax", "special_softmax"), SOFTMAX),
    **dict.fromkeys(("LogSoftmax", "log_softmax", "special_log_softmax"), LOG_SOFTMAX),
    **dict.fromkeys(("Sigmoid", "sigmoid", "sigmoid_", "special_expit", "expit"), SIGMOID),
}
RESHAPING = frozenset((
    "Flatten", "Unflatten", "Identity", "Dropout", "flatten", "squeeze", "squeeze_", "reshape",
    "view", "view_as", "reshape_as", "contiguous", "float", "to", "getitem", "dropout", "double",
    "type", "type_as", "clone", "detach",
))  # fmt: skip

IN_PLACE = (
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow, operator.setitem,
)  # fmt: skip


def spelled(node: fx.Node) -> str:
    """The name of the method or function that a node calls, as it has it; "" for what has no name."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def function_name(node: fx.Node) -> str:
    """The same, of an operation of ATen (`linear.default`, `mean.dim`) without which of several it is."""
    packet = getattr(node.target, "overloadpacket", None)
    return spelled(node) if packet is None else getattr(packet, "__name__", "")
