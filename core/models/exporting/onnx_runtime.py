"""ONNX files of ours in onnxruntime, which is all that running one takes: no framework, not even the package onnx.

* What is opened has passed `onnx_reading`, and onnxruntime gets bytes, never a path: it opens no file.
* It takes its memory from a pool that ends where the machine's does. A graph that asks for more is an error, and
  does not have the process killed.
* Its threads sleep while they wait (see `headstart.common.environment`).
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import ExportError, ModelFileError
from headstart.common.machine import available_memory, cpus
from headstart.common.reading import check_regular
from headstart.common.text import shortened
from headstart.models.exporting.onnx_checksum import CHECKSUM, of_file
from headstart.models.exporting.onnx_reading import Contents, Tensor, file_beside, read_contents

PROVIDER = "CPUExecutionProvider"
SILENT = 4
"""onnxruntime's own log: what is wrong is raised as well"""
POOL_SHARE = 0.75
"""of the memory that is free as the first file is opened"""
SAID_LENGTH = 200
CODE = re.compile(r"^\d+ : [A-Z_]+ : ")
"""onnxruntime's own, before what it says"""
SOURCE = re.compile(r"^/onnxruntime_src/.*[)\]] ")
"""a place in its sources, with the signature of the function"""


def onnxruntime_library() -> Any:
    """The package onnxruntime. ExportError where it is not installed."""
    try:
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise ExportError(
            "ONNX files are run by onnxruntime, which is not installed: pip install 'headstart[onnx]'"
        ) from None


class OnnxSession:
    """An opened file. It may be run by several threads at once."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """`threads`: that compute one batch together; None: as many as there are CPUs. Raises ExportError where
        onnxruntime is missing, ModelFileError for whatever is wrong with the file."""
        library = onnxruntime_library()
        check_regular(path, ModelFileError)
        self._path = path
        try:
            with path.open("rb") as file:
                self.contents: Contents = read_contents(file, path)
                file.seek(0)
                content = file.read()
            outside = {
                tensor.name: _array(file_beside(path, tensor.file), tensor)
                for tensor in self.contents.tensors
                if tensor.file is not None
            }
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read ({error.strerror or error})") from error
        except MemoryError:
            raise ModelFileError(f"{path}: does not fit into memory") from None
        self.unsound = _unsound(content, self.contents.tensors, outside)
        """what weights are not finite, in words; None: they all are"""
        stated = self.contents.metadata.get(CHECKSUM)
        self.changed = stated is not None and stated != of_file(content, self.contents, outside)
        """whether it computes with something else than was written"""
        _share_a_pool(library)
        options = library.SessionOptions()
        options.intra_op_num_threads = cpus() if threads is None else threads
        options.log_severity_level = SILENT
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if outside:
            # They stay where they are, and so have to be kept.
            self._outside = [library.OrtValue.ortvalue_from_numpy(array) for array in outside.values()]
            options.add_external_initializers(list(outside), self._outside)
        try:
            self._session = library.InferenceSession(content, options, providers=[PROVIDER])
        except Exception as error:  # onnxruntime has a class for each of its codes, below no common one
            raise ModelFileError(f"{path}: cannot be run ({said_by(error)})") from error

    def run(self, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """These outputs of a batch. ModelFileError where the graph cannot be computed."""
        try:
            made: list[np.ndarray] = self._session.run(list(outputs), dict(inputs))
        except Exception as error:
            raise ModelFileError(f"{self._path}: cannot be run ({said_by(error)})") from error
        return made


def said_by(error: BaseException) -> str:
    """What onnxruntime says, as one line without the places in its own sources."""
    text = " ".join(str(error).split())
    for mark in ("Status Message: ", "[ONNXRuntimeError] : ", "Exception during initialization: "):
        text = text.rpartition(mark)[2]
    text = SOURCE.sub("", CODE.sub("", text))
    return shortened(text or type(error).__name__, SAID_LENGTH)


def _array(path: Path, tensor: Tensor) -> np.ndarray:
    count = math.prod(tensor.shape)
    if path.stat().st_size < tensor.start + tensor.nbytes:
        raise ModelFileError(f"{path}: breaks off: weights of {tensor.nbytes:,} bytes begin at {tensor.start:,}")
    with path.open("rb") as file:
        values = np.fromfile(file, tensor.dtype, count, offset=tensor.start)
    if len(values) != count:
        raise ModelFileError(f"{path}: breaks off: weights of {tensor.nbytes:,} bytes begin at {tensor.start:,}")
    return values.reshape(tensor.shape)


def _unsound(content: bytes, tensors: Sequence[Tensor], outside: dict[str, np.ndarray]) -> str | None:
    """The first weight that is not finite. Outputs would not show it: a rectifier makes 0 of NaN."""
    for tensor in tensors:
        if tensor.dtype.kind != "f":
            continue
        values = outside.get(tensor.name)
        if values is None:
            values = np.frombuffer(content, tensor.dtype, math.prod(tensor.shape), tensor.start)
        if not np.isfinite(values).all() and not _masks(values):
            return f"{shortened(tensor.name)} holds NaN or infinity"
    return None


def _masks(values: np.ndarray) -> bool:
    """Whether it is what wrapped modules hide with from attention: minus infinity by itself, or in places where
    else there is one other number."""
    lowest, *others = np.unique(values)
    return lowest == -np.inf and (values.size == 1 or (len(others) == 1 and bool(np.isfinite(others[0]))))


@cache
def _share_a_pool(library: Any) -> None:
    """Have onnxruntime take memory from a pool of a limited size. One for the process; only sessions that ask for
    it use it."""
    place = library.OrtMemoryInfo(
        "Cpu", library.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, library.OrtMemType.DEFAULT
    )
    limit = int(POOL_SHARE * available_memory())
    as_requested = 1  # what it grows by; the other way is to double each time
    pool = library.OrtArenaCfg({"max_mem": limit, "arena_extend_strategy": as_requested})
    library.create_and_register_allocator(place, pool)
