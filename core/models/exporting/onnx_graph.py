"""A graph of ours as an ONNX graph: its values, weights and nodes, but not what an op means, which
`headstart.models.exporting.onnx_ops` says.

ONNX has the channels of a map first and we have them last. A map keeps the order of axes that the op behind it
left it in, and is transposed where another op needs the other one: once, however many ask.

A vision transformer's classifier reads one token of the last block. What works on each token by itself (norms,
linear layers, sums) is then written for that token alone, from the last attention on: a twelfth less to compute in
a network of twelve blocks.

Invariant: the graph is a function of nodes, weights and number type. Every name comes from a node's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from headstart.common.errors import ExportError, SettingError
from headstart.graph import Graph, Node, Shape
from headstart.graph.ops import ACTIVATIONS

OPSET = 17
"""of ONNX's own ops: the first with LayerNormalization"""
IR_VERSION = 8
"""of the file format, as old as the opset"""
DTYPES: Mapping[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
FIRST, LAST, TOKEN = "nchw", "nhwc", "token"
"""in which form a node's output is there: a map with the channels first or last; tokens and vectors have the
second as well. Of tokens the third is the first one by itself, `(n, c)`"""
BY_TOKEN = frozenset({"layer_norm", "batch_norm", "linear", "scale", "add", "multiply", "concat"}) | ACTIVATIONS
"""the ops that compute each token's output from that token alone"""
BATCH = "n"
TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
OPS = frozenset(
    [
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Cast",
        "Clip",
        "Concat",
        "Conv",
        "Div",
        "Erf",
        "Flatten",
        "Gather",
        "Gemm",
        "GlobalAveragePool",
        "HardSwish",
        "Identity",
        "LayerNormalization",
        "MatMul",
        "MaxPool",
        "Mul",
        "Pad",
        "ReduceMean",
        "Relu",
        "Reshape",
        "Sigmoid",
        "Softmax",
        "Split",
        "Transpose",
    ]
)
"""those of ONNX's that our own graphs are written in; what may stand in any file says `onnx_reading`"""
NUMBERS = {"<f4": 1, "|u1": 2, "<i8": 7, "<f2": 10}
"""numpy's name of a dtype -> ONNX's number"""


def onnx_library() -> Any:
    """The package onnx. ExportError where it is not installed."""
    try:
        return importlib.import_module("onnx")
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise ExportError("ONNX files need onnx, which is not installed: pip install 'headstart[onnx]'") from None


class Emission:
    """An ONNX graph that grows node by node."""

    def __init__(
        self,
        graph: Graph,
        params: Mapping[str, np.ndarray],
        shape: Shape,
        dtype: str,
        precise: Collection[str] = (),
    ) -> None:
        """`shape`: of one sample of the graph's input. `dtype`: of weights and arithmetic; `precise`: linear
        layers that have float32 whatever that is, and give it."""
        self.onnx = onnx_library()
        self.graph, self.params, self.precise = graph, params, frozenset(precise)
        self.shapes = graph.shapes(shape)
        self.dtype = DTYPES[dtype]
        self.file = self.onnx.ModelProto(ir_version=IR_VERSION)
        opset = self.file.opset_import.add()
        opset.domain, opset.version = "", OPSET
        self.proto = self.file.graph  # which grows in its place: a graph beyond 2 GiB cannot be copied
        self.proto.name = "headstart"
        self.lone = lone_tokens(graph)
        self._constants: set[str] = set()
        self._values: dict[str, dict[str, str]] = {}
        """node -> form -> the value that has it so; the one that was made first stands first"""

    # ---- what emitters say

    def emit(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append an ONNX node with one output, and return the output's name."""
        (made,) = self.emit_several(op, inputs, [output], **attributes)
        return made

    def emit_several(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> list[str]:
        """Append an ONNX node, and return its outputs' names."""
        assert op in OPS
        made = self.onnx.helper.make_node(op, list(inputs), list(outputs), outputs[0], **attributes)
        self.proto.node.append(made)
        return list(outputs)

    def constant(self, name: str, value: Any, dtype: np.dtype[Any] | None = None) -> str:
        """An initializer; `dtype`: None for that of the arithmetic. Its name is returned."""
        if name in self._constants:
            return name
        self._constants.add(name)
        array = np.asarray(value)
        dtype = self.dtype if dtype is None else dtype
        with np.errstate(over="ignore"):
            # not ascontiguousarray, which makes a vector of a scalar
            stored = np.asarray(array, dtype, order="C")
        if stored.dtype == np.float16 and np.isfinite(array).all() and not np.isfinite(stored).all():
            raise SettingError(
                f"dtype='float16': {name!r} holds numbers up to {np.abs(array).max():.3g}, and float16 ends at "
                "65,504; use float32"
            )
        tensor = self.proto.initializer.add()
        tensor.name, tensor.data_type = name, NUMBERS[stored.dtype.str]
        tensor.dims.extend(stored.shape)
        tensor.raw_data = stored.tobytes()
        return name

    def integers(self, name: str, values: Sequence[int]) -> str:
        """An initializer of whole numbers, a shape for one."""
        return self.constant(name, values, np.dtype("<i8"))

    def param(self, node: Node, suffix: str, change: Callable[[np.ndarray], np.ndarray] | None = None) -> str:
        """A parameter of the node as an initializer, changed in layout where a function says so."""
        name = f"{node.name}.{suffix}"
        value = self.params[name]
        dtype = DTYPES["float32"] if node.name in self.precise else None
        return self.constant(name, value if change is None else change(value), dtype)

    # ---- values

    def is_map(self, name: str) -> bool:
        """Whether a sample of the node's output is `(h, w, c)`."""
        return len(self.shapes[name]) == 3

    def made(self, name: str, form: str, value: str | None = None) -> None:
        """Say in which form a node's output is there, as `value`; None: under the node's name."""
        self._values[name] = {form: name if value is None else value}

    def forms(self, name: str) -> tuple[str, ...]:
        """In which forms a node's output is there, that in which it was made first."""
        return tuple(self._values[name])

    def value(self, name: str, form: str) -> str:
        """A node's output in one of its forms."""
        values = self._values[name]
        if form not in values:
            source, output = next(iter(values.values())), f"{name}/{form}"
            if form == TOKEN:
                values[form] = self.emit("Gather", [source, self.index(0)], output, axis=1)
            else:
                values[form] = self.emit(
                    "Transpose", [source], output, perm=TO_FIRST if form == FIRST else TO_LAST
                )
        return values[form]

    def form(self, node: Node) -> str:
        """In which form a node that can be computed in any of them takes its inputs and gives its output: the one
        token that is needed; else what takes the fewest transpositions, channels first where that does not
        decide."""
        if node.name in self.lone:
            return TOKEN
        if not self.is_map(node.inputs[0]):
            return LAST
        missing = {form: sum(form not in self._values[name] for name in node.inputs) for form in (FIRST, LAST)}
        return FIRST if missing[FIRST] <= missing[LAST] else LAST

    def index(self, place: int) -> str:
        """A whole number as an initializer."""
        return self.constant(f"constant/{place}", place, np.dtype("<i8"))

    # ---- the ends

    def input(self, name: str, form: str, dtype: str) -> None:
        """Declare the graph's input by its name in the file."""
        shape = self.shapes[self.graph.input]
        sides = (shape[2], *shape[:2]) if form == FIRST else shape
        self._declare(self.proto.input.add(), name, sides, dtype)
        value = name
        if dtype == "float32" and self.dtype.str != DTYPES[dtype].str:
            value = self.cast(name, f"{name}/cast")
        self.made(self.graph.input, form, value)

    def output(self, node: str, name: str) -> str:
        """Declare a node's output as one of the file's, channels last and float32. Its name is returned."""
        value = self.value(node, LAST)
        if self.dtype != DTYPES["float32"] and node not in self.precise:
            self.cast(value, name, "float32")
        else:
            self._rename(value, name)
        self._values[node] = {LAST: name}
        return self.declared(name, self.shapes[node])

    def declared(self, name: str, shape: Shape) -> str:
        """Declare a float32 value, which is there, as an output of the file."""
        self._declare(self.proto.output.add(), name, shape, "float32")
        return name

    def cast(self, value: str, output: str, dtype: str | None = None) -> str:
        """To a number type; None: of the arithmetic."""
        kind = self.dtype if dtype is None else DTYPES[dtype]
        return self.emit("Cast", [value], output, to=NUMBERS[kind.str])

    def _declare(self, info: Any, name: str, shape: Shape, dtype: str) -> None:
        info.name = name
        tensor = info.type.tensor_type
        tensor.elem_type = NUMBERS[np.dtype(dtype).newbyteorder("<").str]
        tensor.shape.dim.add().dim_param = BATCH
        for side in shape:
            tensor.shape.dim.add().dim_value = side

    def _rename(self, old: str, new: str) -> None:
        for node in self.proto.node:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new


def lone_tokens(graph: Graph) -> frozenset[str]:
    """The nodes that give tokens of which nothing but the first one is used, and can be computed alone."""
    whole = {graph.output}
    """the nodes of which all is needed"""
    for node in reversed(graph.nodes):
        if node.op != "first_token" and (node.name in whole or node.op not in BY_TOKEN):
            whole.update(node.inputs)
    alone = BY_TOKEN | {"attention"}
    return frozenset(node.name for node in graph.nodes if node.op in alone and node.name not in whole)
