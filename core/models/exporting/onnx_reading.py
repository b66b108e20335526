"""What an ONNX file holds, found out before a library sees it: only files as `onnx_model` writes them pass.

A stranger's file may ask for 2^60 bytes, name weights outside of its folder, go round in a circle, or hold layers
that make gigabytes of nothing as it is opened. The checker of the package onnx believes all sizes, and needs onnx,
which whoever runs a file does not. A file of ours is a part of what ONNX allows: ops that compute arrays of such,
no graphs inside of graphs, nodes in the order in which they are run, weights as plain bytes. So we look for just
that, a few bytes at a time.

Invariant: of what is returned, every part lies inside of the file, or of a file beside it, and every node computes
something of the input.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from headstart.common.errors import ModelFileError
from headstart.common.text import shortened
from headstart.data.signatures import what_is
from headstart.models.exporting.onnx_graph import NUMBERS, OPSET
from headstart.models.exporting.wire import NUMBER, Field, Wire

LARGEST_NBYTES = 1 << 31
"""of an ONNX file: protobuf's own limit"""
LONGEST_NAME = 1 << 12
LONGEST_TEXT = 1 << 24
"""bytes of an entry of the metadata: a hundred times ImageNet's classes"""
MOST_ENTRIES = 100
MOST_NODES = 20_000
"""the largest network of the zoo has a thousand"""
MOST_AXES = 8
LARGEST_NUMBER = 1 << 31
"""of an attribute, in size"""
PREFIX_NBYTES = 512
"""by which a file that is something else is recognised"""
OURS = "an ONNX file that headstart wrote"
NEEDED = ("part", "task", "classes", "preprocess")
"""of the metadata, in every file of ours"""
OPSETS = range(OPSET, 27)
"""versions of ONNX's own ops that files may be written in"""
OPS = frozenset(  # as a list it would be pages
    """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
    BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu
    CenterCropPad Clip Col2Im Compress Concat ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum
    DFT DeformConv DepthToSpace DequantizeLinear Det Div DynamicQuantizeLinear Einsum Elu Equal Erf Exp
    Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax
    Identity InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxUnpool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QLinearConv
    QLinearMatMul QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence RoiAlign RotaryEmbedding Round STFT ScatterElements ScatterND Selu Shape Shrink Sigmoid
    Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan
    Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
    """.split()  # noqa: SIM905
)
"""Ops that compute arrays of arrays, and the same whenever they are run: nothing that draws numbers, holds a graph
of its own, or takes texts and sequences"""
_TERM = r"[A-Za-z ]*(\.{3}[A-Za-z ]*)?"
PLAIN_TEXT = re.compile(rf"\w*|{_TERM}(,{_TERM})*(->{_TERM})?", re.ASCII)
"""An attribute's text: a name of ONNX's, or an equation of Einsum's. onnxruntime 1.32 reads one with further dots
behind an ellipsis for ever."""
OTHER_NUMBERS = {"|i1": 3, "<u2": 4, "<i2": 5, "<i4": 6, "|b1": 9, "<f8": 11, "<u4": 12, "<u8": 13}
"""of files of wrapped modules"""
DTYPES: Mapping[int, np.dtype[Any]] = {
    number: np.dtype(name) for name, number in {**NUMBERS, **OTHER_NUMBERS}.items()
}

# ---- fields of ONNX's messages, by their numbers in onnx.proto
_PRODUCER, _PRODUCER_VERSION, _GRAPH, _OPSET, _METADATA = 2, 3, 7, 8, 14
_MODEL = {1: "ir_version", _PRODUCER: "", _PRODUCER_VERSION: "", _GRAPH: "", _OPSET: "", _METADATA: ""}
_NODES, _TENSORS, _INPUTS, _OUTPUTS = 1, 5, 11, 12
_NODE = {1: "input", 2: "output", 3: "name", 4: "op_type", 5: "attribute", 7: "domain"}
_ATTRIBUTE = {1: "name", 2: "f", 3: "i", 4: "s", 5: "t", 7: "floats", 8: "ints", 20: "type"}
_TENSOR = {1: "dims", 2: "data_type", 8: "name", 9: "raw_data", 13: "external_data", 14: "data_location"}


@dataclass(frozen=True)
class Tensor:
    """Weights, and where their bytes lie."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    nbytes: int
    file: str | None = None
    """the name of the file beside that has them; None: the ONNX file itself"""


@dataclass(frozen=True)
class Value:
    """An input or output."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]
    """names stand for sides of any length"""


@dataclass
class Contents:
    """What a file holds."""

    producer: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    nodes: list[tuple[int, int]] = field(default_factory=list)
    """where each begins in the file, and where it ends"""


def read_contents(file: IO[bytes], path: Path) -> Contents:
    """What an opened ONNX file holds. ModelFileError for what is none, or none that headstart wrote."""
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise ModelFileError(f"{path}: is empty; expected {OURS}")
    if size > LARGEST_NBYTES:
        raise ModelFileError(f"{path}: has {size:,} bytes, and an ONNX file ends at 2 GiB")
    try:
        contents, graph = _model(Wire(file, size))
    except ValueError as reason:
        file.seek(0)
        what, _ = what_is(file.read(PREFIX_NBYTES))
        said = f"is {what}" if what else f"cannot be read as an ONNX file ({reason})"
        raise ModelFileError(f"{path}: {said}; expected {OURS}") from None
    if missing := [name for name in NEEDED if name not in contents.metadata]:
        raise ModelFileError(
            f"{path}: is not a file that headstart wrote (its producer is "
            f"'{shortened(contents.producer or 'unknown', 40)}', and its metadata lack {', '.join(missing)}); "
            f"write one with `headstart export RUN {path.name}`, or run this one with onnxruntime itself"
        )
    try:
        _Graph(Wire(file, size), contents).read(graph)
    except ValueError as reason:
        raise ModelFileError(f"{path}: is not as headstart writes its ONNX files ({reason})") from None
    return contents


def _model(wire: Wire) -> tuple[Contents, Field]:
    """All but the graph, and where that is."""
    contents, graph = Contents(), None
    opsets: list[tuple[str, int]] = []
    for entry in wire.fields(0, wire.size):
        if entry.number == _METADATA:
            if len(contents.metadata) >= MOST_ENTRIES:
                raise ValueError(f"its metadata have more than {MOST_ENTRIES} entries")
            key, value = _pair(wire, entry, "an entry of its metadata", LONGEST_TEXT)
            contents.metadata[key] = value
        elif entry.number == _GRAPH:
            if graph is not None:
                raise ValueError("it holds two graphs")
            graph = entry
        elif entry.number == _PRODUCER:
            contents.producer = wire.text(entry, LONGEST_NAME, "the name of its producer")
        elif entry.number == _OPSET:
            domain, version = "", 0
            for part in wire.fields(entry.start, entry.end):
                if part.number == 1:
                    domain = wire.text(part, LONGEST_NAME, "the domain of an opset")
                else:
                    version = part.value
            opsets.append((domain, version))
    if graph is None:
        raise ValueError("there is no graph in it")
    if not all(name in contents.metadata for name in NEEDED):
        return contents, graph  # somebody else's, which is said first
    if len(opsets) != 1 or opsets[0][0] or opsets[0][1] not in OPSETS:
        texts = ", ".join(f"{shortened(domain, 40) or 'ai.onnx'} {version}" for domain, version in opsets)
        raise ValueError(f"its opset is {texts or 'missing'}; expected ai.onnx {OPSETS[0]} to {OPSETS[-1]}")
    _only(wire, 0, wire.size, _MODEL, "the file")
    return contents, graph


def _only(wire: Wire, start: int, end: int, allowed: Mapping[int, Any], what: str) -> None:
    for entry in wire.fields(start, end):
        _expect(entry, allowed, what)


def _expect(entry: Field, allowed: Mapping[int, Any], what: str) -> None:
    if entry.number not in allowed:
        raise ValueError(f"{what} has a field of number {entry.number}, which is none of ours")


def _pair(wire: Wire, message: Field, what: str, limit: int) -> tuple[str, str]:
    """The two texts of a key and a value."""
    texts = {1: "", 2: ""}
    for entry in wire.fields(message.start, message.end):
        _expect(entry, texts, what)
        texts[entry.number] = wire.text(entry, LONGEST_NAME if entry.number == 1 else limit, what)
    return texts[1], texts[2]


class _Graph:
    """A graph that is looked through once."""

    def __init__(self, wire: Wire, contents: Contents) -> None:
        self._wire, self._contents = wire, contents
        self._nodes: list[tuple[str, list[str], list[str]]] = []
        """op, inputs, outputs"""

    def read(self, graph: Field) -> None:
        readers: dict[int, Callable[[Field], object]] = {
            _NODES: self._node,
            2: lambda name: self._name(name, "the graph's name"),
            _TENSORS: lambda tensor: self._contents.tensors.append(self._tensor(tensor)),
            _INPUTS: lambda value: self._contents.inputs.append(self._value(value)),
            _OUTPUTS: lambda value: self._contents.outputs.append(self._value(value)),
        }
        for entry in self._wire.fields(graph.start, graph.end):
            _expect(entry, readers, "its graph")
            readers[entry.number](entry)
        self._check_order()

    def _check_order(self) -> None:
        """Every node takes what is there before it, and something of the input."""
        taken = [value.name for value in self._contents.inputs]
        weights = [tensor.name for tensor in self._contents.tensors]
        constant, computed = set(weights), set(taken)
        if not taken or len(computed) < len(taken):
            raise ValueError("two inputs have one name" if taken else "it has no input")
        if len(constant) < len(weights) or constant & computed or "" in constant | computed:
            raise ValueError("two weights have one name, or none")
        for op, inputs, outputs in self._nodes:
            for name in inputs:
                if name and name not in computed and name not in constant:  # "": an input that is left out
                    raise ValueError(
                        f"a node {op} takes '{shortened(name, 40)}', which none before it gives: nodes are out of "
                        "order, go round in a circle, or lack one"
                    )
            if computed.isdisjoint(inputs):
                raise ValueError(f"a node {op} computes nothing of the input")
            for name in filter(None, outputs):
                if name in computed or name in constant:
                    raise ValueError(f"two nodes give '{shortened(name, 40)}'")
                computed.add(name)
        for value in self._contents.outputs:
            if value.name not in computed:
                raise ValueError(f"no node gives its output '{shortened(value.name, 40)}'")

    def _name(self, entry: Field, what: str) -> str:
        return self._wire.text(entry, LONGEST_NAME, what)

    def _node(self, message: Field) -> None:
        if len(self._nodes) >= MOST_NODES:
            raise ValueError(f"it has more than {MOST_NODES:,} nodes")
        op = ""
        ends: tuple[list[str], list[str]] = ([], [])
        for entry in self._wire.fields(message.start, message.end):
            _expect(entry, _NODE, "a node")
            if entry.number in (1, 2):
                ends[entry.number - 1].append(self._name(entry, "the name of a node's input or output"))
            elif entry.number == 4:
                op = self._name(entry, "the op of a node")
            elif entry.number == 5:
                self._attribute(entry)
            elif entry.number == 7 and (domain := self._name(entry, "the domain of a node")):
                raise ValueError(f"a node's op is of the domain '{shortened(domain, 40)}'")
        if op not in OPS:
            raise ValueError(f"a node's op is '{shortened(op, 40)}'")
        if not all(ends):
            raise ValueError(f"a node {op} has {len(ends[0])} inputs and {len(ends[1])} outputs")
        self._nodes.append((op, *ends))
        self._contents.nodes.append((message.start, message.end))

    def _attribute(self, message: Field) -> None:
        what = "an attribute"
        for entry in self._wire.fields(message.start, message.end):
            _expect(entry, _ATTRIBUTE, what)
            if entry.number == 1:
                self._name(entry, "the name of an attribute")
            elif entry.number in (3, 8):
                for number in self._wire.numbers(entry):
                    if abs(number) > LARGEST_NUMBER:
                        raise ValueError(f"{what} is {number:,}")
            elif entry.number == 4:
                if not PLAIN_TEXT.fullmatch(text := self._name(entry, what)):
                    raise ValueError(f"{what} is '{shortened(text, 40)}'")
            elif entry.number == 5:
                self._tensor(entry)

    def _tensor(self, message: Field) -> Tensor:
        name, number, outside = "", 0, False
        shape: list[int] = []
        raw: Field | None = None
        place: dict[str, str] = {}
        for entry in self._wire.fields(message.start, message.end):
            _expect(entry, _TENSOR, "a weight")
            if entry.number == 1:
                shape += self._wire.numbers(entry)
            elif entry.number == 2:
                number = entry.value
            elif entry.number == 8:
                name = self._name(entry, "the name of a weight")
            elif entry.number == 9 and entry.kind != NUMBER:
                raw = entry
            elif entry.number == 13 and len(place) < MOST_AXES:
                key, value = _pair(self._wire, entry, "the place of a weight", LONGEST_NAME)
                place[key] = value
            elif entry.number == 14:
                outside = entry.value == 1
        what = f"the weight '{shortened(name, 40)}'"
        dtype = self._dtype(number, what)
        if len(shape) > MOST_AXES or any(not 0 <= side <= LARGEST_NUMBER for side in shape):
            raise ValueError(f"{what} has the shape {shortened(str(shape))}")
        nbytes = math.prod(shape) * dtype.itemsize
        if outside is (raw is not None):
            raise ValueError(f"{what} has no bytes, or bytes in two places")
        if raw is not None:
            if raw.end - raw.start != nbytes:
                raise ValueError(
                    f"{what} has the shape {shape}, {nbytes:,} bytes, and {raw.end - raw.start:,} are there"
                )
            return Tensor(name, dtype, tuple(shape), raw.start, nbytes)
        offset, length = place.get("offset", "0"), place.get("length", str(nbytes))
        if not (offset.isdecimal() and length == str(nbytes) and len(offset) < 20):
            raise ValueError(
                f"{what} is said to be {shortened(length)} bytes at {shortened(offset)}, and has {nbytes:,}"
            )
        return Tensor(name, dtype, tuple(shape), int(offset), nbytes, place.get("location", ""))

    def _value(self, message: Field) -> Value:
        wire, name, number = self._wire, "", 0
        shape: list[int | str] = []
        for entry in wire.fields(message.start, message.end):
            _expect(entry, {1: "name", 2: "type"}, "an input or output")
            if entry.number == 1:
                name = self._name(entry, "the name of an input or output")
                continue
            for kind in wire.fields(entry.start, entry.end):
                _expect(kind, {1: "tensor_type"}, "the type of an input or output")
                for part in wire.fields(kind.start, kind.end):
                    if part.number == 1:
                        number = part.value
                        continue
                    for axis in wire.fields(part.start, part.end):
                        shape.append(self._side(axis))
        return Value(name, self._dtype(number, f"'{shortened(name, 40)}'"), tuple(shape))

    def _side(self, axis: Field) -> int | str:
        side: int | str = ""
        for entry in self._wire.fields(axis.start, axis.end):
            side = entry.value if entry.number == 1 else self._name(entry, "the name of an axis")
        return side

    def _dtype(self, number: int, what: str) -> np.dtype[Any]:
        if number not in DTYPES:
            raise ValueError(f"{what} is of ONNX's number type {number}")
        return DTYPES[number]


def file_beside(path: Path, name: str) -> Path:
    """The file of weights that the ONNX file `path` calls `name`. ModelFileError unless it lies beside it, links
    followed."""
    plain = name and name not in (".", "..") and not any(mark in name for mark in ("/", "\\", "\0", ":"))
    if plain:
        beside = path.parent / name
        try:
            real, model = beside.resolve(strict=True), path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            said = getattr(error, "strerror", None) or "its links go round in a circle"
            raise ModelFileError(
                f"{path}: its weights are in '{shortened(name)}' beside it, and {said}"
            ) from error
        # A link may lead beside the file that the model itself is a link to, as in a hub's cache.
        if real.is_file() and real.parent in (model.parent, path.parent.resolve()):
            return real
    raise ModelFileError(f"{path}: its weights are said to be in '{shortened(name)}'; expected a file beside it")
