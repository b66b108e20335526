"""ONNX files of wrapped modules, which a framework's own exporter writes: how they become files like ours.

Exporters write more than a graph: with every node the lines of source code that it came from, by their paths on
this machine, and names of axes that differ from one process to the next. That is left out, so that equal modules
give equal bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from typing import Any

from headstart.common.errors import ExportError
from headstart.common.version import __version__
from headstart.models.exporting.onnx_graph import BATCH, onnx_library
from headstart.models.exporting.onnx_reading import DTYPES, OPS, OPSETS
from headstart.models.exporting.onnx_runtime import PROVIDER, SILENT, onnxruntime_library

PRODUCTS = ("Gemm", "MatMul")


def halved(proto: Any, exact: bool) -> Any:
    """A copy of an `onnx.ModelProto` whose weights and arithmetic are float16, but for what ONNX has no such form
    of, its inputs and its outputs. `exact`: what is behind the last matrix product stays as it is, as numbers in
    their own units need."""
    onnxruntime_library()  # or say how it is installed
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    kept = _behind_last_product(proto.graph) if exact else []
    with warnings.catch_warnings():  # of numbers that float16 has not, which verification tells
        warnings.simplefilter("ignore", UserWarning)
        half = OnnxModel(convert_float_to_float16(proto, keep_io_types=True, node_block_list=kept))
    _unrounded(half.model.graph, kept)
    half.topological_sort(is_deterministic=True)  # it puts casts at the end
    return half.model


def _unrounded(graph: Any, kept: Collection[str]) -> None:
    """The converter has what is kept rounded to float16 where it is an output, and made float32 again: that goes
    again."""
    makers = {name: node for node in graph.node for name in node.output}
    for again in list(graph.node):
        if again.op_type != "Cast" or (rounded := makers.get(again.input[0])) is None or rounded.op_type != "Cast":
            continue
        maker = makers.get(rounded.input[0])
        if maker is not None and maker.name in kept:
            again.op_type, again.input[0] = "Identity", rounded.input[0]
            del again.attribute[:]
            graph.node.remove(rounded)


def _behind_last_product(graph: Any) -> list[str]:
    """Names of the nodes that outputs are made by, back to the first matrix products on the way, which count."""
    makers = {name: node for node in graph.node for name in node.output}
    ahead, found = [value.name for value in graph.output], list[str]()
    while ahead:
        node = makers.get(ahead.pop())
        if node is not None and node.name not in found:
            found.append(node.name)
            ahead += () if node.op_type in PRODUCTS else node.input
    return found


def made_like_ours(proto: Any) -> None:
    """Change an `onnx.ModelProto` in place: nothing about where it came from, functions in place, weights as plain
    bytes, and the number of samples called as in our own files. ExportError where it holds an op that no file of
    ours may have."""
    onnx = onnx_library()
    if len(proto.functions):
        from onnx import inliner

        proto.CopyFrom(inliner.inline_local_functions(proto))
    graph = proto.graph
    used = {node.domain for node in graph.node}
    opsets = [opset for opset in proto.opset_import if opset.domain in used | {""}]
    others = sorted({f"{node.domain}.{node.op_type}".lstrip(".") for node in graph.node if not _is_known(node)})
    if others or any(opset.version not in OPSETS for opset in opsets):
        versions = ", ".join(f"{opset.domain or 'ai.onnx'} {opset.version}" for opset in opsets)
        raise ExportError(
            f"the module needs {', '.join(others) or versions} in ONNX, which headstart writes to no file; "
            "expected one that computes arrays of arrays, without loops, draws and branches on values, or another "
            "format"
        )
    check_names([value.name for value in graph.input], [value.name for value in graph.output])
    tensors = [*graph.initializer, *(attribute.t for node in graph.node for attribute in node.attribute)]
    _check_numbers(onnx, (tensor.data_type for tensor in tensors))
    del proto.opset_import[:]
    proto.opset_import.extend(opsets)
    for named in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        named.ClearField("doc_string")
        if named is not proto and hasattr(named, "metadata_props"):
            del named.metadata_props[:]
    proto.producer_name, proto.producer_version = "headstart", __version__
    graph.name = "headstart"
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            if attribute.type == onnx.AttributeProto.TENSOR:
                _as_plain_bytes(onnx, attribute.t)
    for tensor in graph.initializer:
        _as_plain_bytes(onnx, tensor)
    _fold_constants(onnx, proto)
    _batch_named(graph.input, graph.output)


def check_names(inputs: Iterable[str], outputs: Iterable[str]) -> None:
    """Names are inputs' or outputs': in ONNX nothing may have two values. ExportError where one is both."""
    if taken := sorted({*inputs} & {*outputs}):
        raise ExportError(
            f"the module takes an array called '{taken[0]}', as an output of the file is called; expected "
            "another name of the module's argument, or another format"
        )


def _check_numbers(onnx: Any, types: Iterable[int]) -> None:
    if others := sorted({*types} - {0, *DTYPES}):  # 0: no tensor
        kinds = ", ".join(onnx.TensorProto.DataType.Name(number).lower() for number in others)
        raise ExportError(
            f"the module computes in {kinds}, which no ONNX file of ours holds; expected one of float32 "
            "before it is wrapped (module.float(), or layers of such a dtype), or another format"
        )


def _fold_constants(onnx: Any, proto: Any) -> None:
    """Compute what depends on no input, of which exporters leave what is large."""
    graph = proto.graph
    constant = {tensor.name for tensor in graph.initializer}
    nodes: list[Any] = []
    computed: list[Any] = []
    for node in graph.node:
        is_constant = constant.issuperset(filter(None, node.input))
        (computed if is_constant else nodes).append(node)
        constant |= set(node.output) if is_constant else set()
    if not computed:
        return
    needed = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
    results = sorted(needed & {name for node in computed for name in node.output if name})
    taken = {name for node in computed for name in node.input}
    alone = onnx.helper.make_graph(
        computed,
        "constants",
        [],
        [onnx.helper.make_empty_tensor_value_info(name) for name in results],
        [tensor for tensor in graph.initializer if tensor.name in taken],
    )
    program = onnx.helper.make_model(alone, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    # Before onnxruntime computes what NumPy has no numbers for.
    inferred = onnx.shape_inference.infer_shapes(program).graph.output
    _check_numbers(onnx, (value.type.tensor_type.elem_type for value in inferred))
    library = onnxruntime_library()
    options = library.SessionOptions()
    options.log_severity_level = SILENT
    session = library.InferenceSession(program.SerializeToString(), options, providers=[PROVIDER])
    made = zip(results, session.run(results, {}), strict=True)
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    tensors += [onnx.numpy_helper.from_array(value, name) for name, value in made]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)


def _is_known(node: Any) -> bool:
    return not node.domain and (node.op_type in OPS or node.op_type == "Constant")  # which will be folded


def _as_plain_bytes(onnx: Any, tensor: Any) -> None:
    if not tensor.HasField("raw_data"):
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))


def _batch_named(inputs: Iterable[Any], outputs: Iterable[Any]) -> None:
    """All values have the samples first."""
    for value in (*inputs, *outputs):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
