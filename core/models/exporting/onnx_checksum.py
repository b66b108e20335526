"""A checksum of what an ONNX file computes with: a bit that was turned in its weights shows in nothing else, and
has it predict something else without a word.

It is over the nodes and the weights as they are in the file, and not over the metadata, which may be added to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from blake3 import blake3

from headstart.models.exporting.onnx_reading import DTYPES, Contents
from headstart.store.keys import canonical_json

CHECKSUM = "checksum"
"""the entry of the metadata"""


def of_proto(proto: Any) -> str:
    """Of an `onnx.ModelProto` whose weights are plain bytes."""
    tensors = (
        (tensor.name, str(DTYPES.get(tensor.data_type)), tensor.dims, tensor.raw_data)
        for tensor in proto.graph.initializer
    )
    return _checksum((node.SerializeToString(deterministic=True) for node in proto.graph.node), tensors)


def of_file(content: bytes, contents: Contents, outside: Mapping[str, np.ndarray]) -> str:
    """Of a file. `outside`: the weights that lie beside it."""
    view = memoryview(content)
    tensors = (
        (
            tensor.name,
            str(tensor.dtype),
            tensor.shape,
            view[tensor.start : tensor.start + tensor.nbytes]
            if tensor.file is None
            else outside[tensor.name].reshape(-1).view(np.uint8).data,
        )
        for tensor in contents.tensors
    )
    return _checksum((view[start:end] for start, end in contents.nodes), tensors)


def _checksum(nodes: Iterable[Any], tensors: Iterable[tuple[str, str, Sequence[int], Any]]) -> str:
    digest = blake3()
    for node in nodes:
        digest.update(f"{len(node)}\n".encode())
        digest.update(node)
    for name, dtype, shape, values in tensors:
        digest.update(canonical_json([name, dtype, list(shape)]).encode() + b"\n")
        digest.update(values)
    hexadecimal: str = digest.hexdigest(length=16)
    return hexadecimal
