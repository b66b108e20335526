"""A graph of ours as an ONNX graph: its values, weights and nodes, but not what an op means, which
`headstart.models.exporting.onnx_ops` says.

ONNX has the channels of a map first and we have them last. A map keeps the order that the op behind it left it in,
and is transposed where another op needs the other one: once, however many ask.

Invariant: the graph is a function of nodes, weights and number type. Every name comes from a node's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from headstart.common.errors import ExportError, SettingError
from headstart.graph import Graph, Node, Shape

OPSET = 17
"""of ONNX's own ops: the first with LayerNormalization"""
IR_VERSION = 8
"""of the file format, as old as the opset"""
DTYPES: Mapping[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
FIRST, LAST = "nchw", "nhwc"
"""the orders of a map's axes; tokens and vectors have the second, channels last"""
BATCH = "n"
TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
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

    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], shape: Shape, dtype: str) -> None:
        """`shape`: of one sample of the graph's input. `dtype`: of weights and arithmetic."""
        self.onnx = onnx_library()
        self.graph, self.params = graph, params
        self.shapes = graph.shapes(shape)
        self.dtype = DTYPES[dtype]
        self.file = self.onnx.ModelProto(ir_version=IR_VERSION)
        opset = self.file.opset_import.add()
        opset.domain, opset.version = "", OPSET
        self.proto = self.file.graph  # which grows in its place: a graph beyond 2 GiB cannot be copied
        self.proto.name = "headstart"
        self._constants: set[str] = set()
        self._values: dict[str, dict[str, str]] = {}
        """node -> order of axes -> the value that has it so; the one that was made first stands first"""

    # ---- what emitters say

    def emit(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append an ONNX node with one output, and return the output's name."""
        made = self.onnx.helper.make_node(op, list(inputs), [output], output, **attributes)
        self.proto.node.append(made)
        return output

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
        return self.constant(name, value if change is None else change(value))

    # ---- values

    def is_map(self, name: str) -> bool:
        """Whether a sample of the node's output is `(h, w, c)`."""
        return len(self.shapes[name]) == 3

    def made(self, name: str, layout: str, value: str | None = None) -> None:
        """Say in which order of axes a node's output is there, as `value`; None: under the node's name."""
        self._values[name] = {layout: name if value is None else value}

    def layout(self, name: str) -> str:
        """The order in which the node's output was made."""
        return next(iter(self._values[name]))

    def value(self, name: str, layout: str) -> str:
        """A node's output in an order of axes. What is no map has one only."""
        values = self._values[name]
        if layout not in values:
            perm = TO_FIRST if layout == FIRST else TO_LAST
            source = next(iter(values.values()))
            values[layout] = self.emit("Transpose", [source], f"{name}/{layout}", perm=perm)
        return values[layout]

    def common(self, names: Sequence[str]) -> str:
        """The order that takes the fewest transpositions of these nodes' outputs; channels first where that does
        not decide."""
        if not self.is_map(names[0]):
            return LAST
        missing = {order: sum(order not in self._values[name] for name in names) for order in (FIRST, LAST)}
        return FIRST if missing[FIRST] <= missing[LAST] else LAST

    # ---- the ends

    def input(self, name: str, layout: str, dtype: str) -> None:
        """Declare the graph's input by its name in the file."""
        shape = self.shapes[self.graph.input]
        sides = (shape[2], *shape[:2]) if layout == FIRST else shape
        self._declare(self.proto.input.add(), name, sides, dtype)
        value = name
        if dtype == "float32" and self.dtype.str != DTYPES[dtype].str:
            value = self.cast(name, f"{name}/cast")
        self.made(self.graph.input, layout, value)

    def output(self, node: str, name: str) -> str:
        """Declare a node's output as one of the file's, channels last and float32. Its name is returned."""
        value = self.value(node, LAST)
        if self.dtype != DTYPES["float32"]:
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
