"""A model as an ONNX file: pixels in, probabilities out, and in its metadata all that a program needs to serve it.

What most exported files get wrong is what they leave to the reader: resized pictures still have to be normalised,
the batch is as large as the example's, classes have numbers. So normalisation is inside, the batch is free, and
classes, preprocessing and task stand in the file.

Invariant: equal models give equal bytes, whichever backend trained them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from headstart.common.errors import SettingError, UnknownNameError
from headstart.common.version import __version__
from headstart.contract.programs import FEATURES, IMAGES, PIXEL_VALUES, SIGMOID, SOFTMAX
from headstart.data.annotations import REGRESSION
from headstart.data.inputs import Arrays
from headstart.graph import Graph
from headstart.models.exporting.onnx_graph import (
    DTYPES,
    FIRST,
    LAST,
    Emission,
)
from headstart.models.exporting.onnx_ops import emit_graph, emitter_of
from headstart.models.exporting.parts import (
    HEAD,
    OUTPUTS,
    TRUNK,
    WHOLE,
    Outputs,
    folded,
    part_of,
    taking_pixels,
    texts_of,
)
from headstart.models.model import Model

OPS = {SOFTMAX: "Softmax", SIGMOID: "Sigmoid"}
MOST_NBYTES = (1 << 31) - (1 << 24)
"""of a file's weights: what holds them all ends at 2 GiB, names and nodes included"""


SMALL_NBYTES = 1024
"""weights below that stay in the graph's own file"""
PAGE_NBYTES = 4096
"""where weights begin in a file of their own, so that they can be mapped"""
EXTERNAL = 1
"""ONNX's number for a tensor whose bytes lie in another file"""


def onnx_model(
    model: Model, *, part: str = WHOLE, cut: str | None = None, pixels: bool = True, dtype: str = "float32"
) -> Any:
    """The model, or a part of it, as an `onnx.ModelProto` for any number of samples at once. `onnx_bytes` and
    `write_onnx` make a file of it.

    `part`: "whole"; "trunk", from pictures to `features` at the cut; "head", from `features` to the outputs.
    `cut`: a legal cut; None: the model's own. `pixels`: whether the input is `images`, uint8 `(n, h, w, 3)` in RGB
    of the model's size, which are normalised inside; otherwise `pixel_values`, float32 `(n, 3, h, w)`, already
    preprocessed. `dtype`: "float32" or "float16", of weights and arithmetic; outputs are float32, and so is the
    last layer of a regression.

    `parts.OUTPUTS` has the outputs' names. The metadata are `parts.texts_of` it; `set_metadata` changes them.

    Raises ExportError where the package onnx is missing, UnsupportedOpError for layers of a wrapped module,
    CutError, and SettingError for a setting that is not allowed or weights that float16 does not hold.
    """
    if dtype not in DTYPES:
        raise UnknownNameError("dtype of an ONNX file", dtype, DTYPES)
    taken = part_of(model, part, cut, pixels)
    for node in taken.graph.nodes[1:]:
        emitter_of(node)  # what cannot be written is said before anything is built
    graph, params = folded(taken)
    if part != HEAD and pixels and not isinstance(model.preprocess, Arrays):
        graph = taking_pixels(graph, model)
    # The layer that gives numbers in the targets' own units: float16 would round years to whole ones.
    exact = part != TRUNK and model.task == REGRESSION and graph[graph.output].op == "linear"
    e = Emission(graph, params, taken.shape, dtype, (graph.output,) if exact else ())
    if part == HEAD:
        e.input(FEATURES, LAST, "float32")
    elif pixels:
        e.input(IMAGES, LAST, "uint8")
    else:
        e.input(PIXEL_VALUES, FIRST, "float32")
    emit_graph(e, graph)
    _outputs(e, graph, None if part == TRUNK else OUTPUTS[model.task])
    e.file.producer_name, e.file.producer_version = "headstart", __version__
    set_metadata(e.file, texts_of(model, part, taken, dtype))
    return e.file


def _outputs(e: Emission, graph: Graph, outputs: Outputs | None) -> None:
    """Declare what the file gives; None: features."""
    plain = e.output(graph.output, FEATURES if outputs is None else outputs.plain)
    if outputs is not None and outputs.makes is not None and outputs.probable is not None:
        axis = {"axis": -1} if outputs.makes == SOFTMAX else {}
        e.emit(OPS[outputs.makes], [plain], outputs.probable, **axis)
        e.declared(outputs.probable, e.shapes[graph.output])


def set_metadata(proto: Any, about: Mapping[str, str]) -> None:
    """Add texts to a file's metadata, or replace those that are there. They stay in the order of their names."""
    texts = metadata(proto) | dict(about)
    del proto.metadata_props[:]
    for key in sorted(texts):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, texts[key]


def metadata(proto: Any) -> dict[str, str]:
    """A file's metadata by their names."""
    return {entry.key: entry.value for entry in proto.metadata_props}


def onnx_bytes(proto: Any) -> bytes:
    """The file's bytes: equal ones for equal models. SettingError where they are too many for one file, which
    `write_onnx` makes two of."""
    if needs_data_file(proto):
        raise SettingError(
            f"the weights have {weights_nbytes(proto):,} bytes, and an ONNX file by itself ends at 2 GiB; "
            "write it to a path, beside which a second file holds them"
        )
    written: bytes = proto.SerializeToString(deterministic=True)
    return written


def weights_nbytes(proto: Any) -> int:
    """How many bytes the weights have."""
    return sum(len(tensor.raw_data) for tensor in proto.graph.initializer)


def needs_data_file(proto: Any) -> bool:
    """Whether the weights need a file of their own beside the graph's."""
    return weights_nbytes(proto) > MOST_NBYTES


def write_onnx(proto: Any, path: Path, data_name: str | None = None) -> tuple[Path, ...]:
    """Write the file, and return the paths of what was written: `path`, and beside it, where the weights are too
    large for one file, a second one called `data_name` (None: `path`'s name and ".data"), which the first names.
    What is there is replaced. Raises OSError."""
    if not needs_data_file(proto):
        path.write_bytes(onnx_bytes(proto))
        return (path,)
    data = path.with_name(data_name or f"{path.name}.data")
    with data.open("wb") as file:
        graph_only = _without_weights(proto, file, data.name)
    path.write_bytes(graph_only.SerializeToString(deterministic=True))
    return (path, data)


def _without_weights(proto: Any, file: IO[bytes], name: str) -> Any:
    """A copy of which the larger weights are written to `file`, which it calls `name`."""
    copy = type(proto)(
        ir_version=proto.ir_version, producer_name=proto.producer_name, producer_version=proto.producer_version
    )
    copy.opset_import.extend(proto.opset_import)
    copy.metadata_props.extend(proto.metadata_props)
    copy.graph.name = proto.graph.name
    for field in ("node", "input", "output"):
        getattr(copy.graph, field).extend(getattr(proto.graph, field))
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) < SMALL_NBYTES:
            copy.graph.initializer.append(tensor)
            continue
        file.write(b"\0" * (-file.tell() % PAGE_NBYTES))
        place = {"location": name, "offset": str(file.tell()), "length": str(len(tensor.raw_data))}
        file.write(tensor.raw_data)
        outside = copy.graph.initializer.add()
        outside.name, outside.data_type, outside.data_location = tensor.name, tensor.data_type, EXTERNAL
        outside.dims.extend(tensor.dims)
        for key, value in place.items():
            entry = outside.external_data.add()
            entry.key, entry.value = key, value
    return copy
