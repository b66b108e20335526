"""Tensors of a file that torch saved before version 1.6, read without torch.

Such a file is a pickle, which may call whatever it names. Here it may name five things: the ordered dict and the
function that a state dict is made of, and the classes of numbers; each stands for code of this module. Anything
else ends the reading. So the worst that a hostile file can do is to be refused.

Invariant: what is returned owns its memory, and every tensor lies within the numbers that the file has.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from headstart.common.errors import WeightsError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# torch's classes of storages -> dtype; what it was written with is little-endian, as the file itself says
STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}
MOST_TENSORS = 100_000


class _Storage:
    """Numbers that several tensors may share; they come behind the pickle."""

    def __init__(self, dtype: np.dtype[Any], size: int) -> None:
        self.dtype, self.size = dtype, size
        self.numbers: np.ndarray | None = None


class _Tensor:
    """A view of a storage, to be taken when its numbers are there."""

    def __init__(self, storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        if not isinstance(storage, _Storage) or not all(
            isinstance(n, int) and n >= 0 for n in (offset, *shape, *strides)
        ):
            raise pickle.UnpicklingError("a tensor is not described as torch describes one")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self) -> np.ndarray:
        numbers, size = self.storage.numbers, math.prod(self.shape)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)) if size else 0
        if numbers is None or last >= len(numbers) + (not size):
            raise pickle.UnpicklingError("a tensor reaches beyond its numbers")
        view = np.lib.stride_tricks.as_strided(
            numbers[self.offset :], self.shape, [s * numbers.itemsize for s in self.strides], writeable=False
        )
        return np.ascontiguousarray(view).copy()


def _rebuilt(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Reader(pickle.Unpickler):
    """Finds nothing but what a state dict is made of."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no weights are made of")

    def persistent_load(self, reference: Any) -> _Storage:
        kind, dtype, key, _device, size, *view = reference
        if kind != "storage" or not isinstance(dtype, np.dtype) or view not in ([], [None]):
            raise pickle.UnpicklingError("a storage is not described as torch describes one")
        if len(self.storages) > MOST_TENSORS:
            raise pickle.UnpicklingError(f"it has more than {MOST_TENSORS:,} tensors")
        return self.storages.setdefault(str(key), _Storage(dtype, int(size)))


def read_pickled_tensors(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """Name -> array, of a state dict in `content`, the bytes of the file at `path`. WeightsError for anything
    else."""
    file = io.BytesIO(content)
    try:
        plain = [_Reader(file).load() for _ in range(3)]
        if plain[0] != MAGIC or plain[1] != PROTOCOL or not plain[2].get("little_endian"):
            raise pickle.UnpicklingError("it is not in the format that torch had before 1.6")
        reader = _Reader(file)
        state = reader.load()
        for key in _Reader(file).load():
            _fill(reader.storages[key], file)
        if not isinstance(state, dict) or not all(isinstance(value, _Tensor) for value in state.values()):
            raise pickle.UnpicklingError("it holds something else than a dict of tensors")
        return {str(name): tensor.array() for name, tensor in state.items()}
    except Exception as error:  # what a broken pickle raises is anything
        raise WeightsError(
            f"{path}: not a state dict that torch saved ({error or type(error).__name__})"
        ) from error


def _fill(storage: _Storage, file: BinaryIO) -> None:
    """The numbers of a storage, which follow their count."""
    count = int.from_bytes(file.read(8), "little")
    content = file.read(count * storage.dtype.itemsize) if count == storage.size else b""
    if count != storage.size or len(content) != count * storage.dtype.itemsize:
        raise pickle.UnpicklingError("it is cut short")
    storage.numbers = np.frombuffer(content, storage.dtype)
