"""Safetensors files are read here, and only here: regular files, whole, of number types that mean what they say.

Invariants: whatever a file holds, its reader gets arrays that numpy can compute with, or one WeightsError; and
equal tensors and metadata are written as equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from headstart.common.errors import WeightsError
from headstart.common.reading import check_regular

SUFFIX = ".safetensors"
OF_OTHER_KINDS = (
    f"expected a {SUFFIX} file: `headstart weights import` makes one of a .pth, and hs.wrap a model of a module "
    "that its framework has opened"
)


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Name -> array as it is stored, and the file's metadata. WeightsError for what cannot be read."""
    check_regular(path, WeightsError)
    name = ""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            tensors = {}
            for name in file.keys():  # noqa: SIM118
                tensors[name] = file.get_tensor(name)
    except (
        AttributeError
    ) as error:  # numpy has no such type: eight bits, mostly, with a scale that stands elsewhere
        kind = str(error).rpartition("attribute ")[2].strip("'")
        raise WeightsError(
            f"{path}: {name} is stored as {kind}, which cannot be computed with as it is; save the weights as "
            "float32, float16 or bfloat16"
        ) from error
    except (SafetensorError, OSError, TypeError, KeyError, ValueError, OverflowError, MemoryError) as error:
        mend = "is it complete?" if path.suffix.lower() == SUFFIX else OF_OTHER_KINDS
        raise WeightsError(f"{path}: cannot be read as safetensors ({error}); {mend}") from error
    return tensors, metadata


def tensor_chunks(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """A safetensors file, in pieces to be written one after the other. The library itself puts metadata down in
    another order in each call; here they stand in the order of their names, in front of the tensors."""
    content = memoryview(save(dict(tensors)))
    begin = 8 + int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(bytes(content[8:begin]))}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the numbers behind it begin at a multiple of eight
    return [len(text).to_bytes(8, "little") + text, content[begin:]]


def as_float32(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """A parameter as float32. WeightsError for weights of whole or complex numbers: those are quantized, and their
    scale is not known."""
    if array.dtype.kind in "iubc" and name.rpartition(".")[2] in ("weight", "bias"):
        raise WeightsError(
            f"{path}: {name} is stored as {array.dtype}, so it is quantized or no weight at all; save the weights "
            "as float32, float16 or bfloat16"
        )
    return np.real(array).astype(np.float32, copy=False)
