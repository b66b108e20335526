"""CIFAR-10 as its authors publish it: binary or Python batches, in the archive or unpacked.

The Python batches are pickles, and a pickle is a program. Here it runs against stand-ins that only record
what they are given: none of numpy's, nor anyone else's, code can be reached from it. Archives are read member
by member, by exact name and into memory, so nothing in them can write anywhere.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32  # a record: all red, then all green, then all blue
MAX_MEMBER_BYTES = 64 << 20  # the published ones have 31 MB
MAX_ARCHIVE_BYTES = 512 << 20  # inflated; the published ones have 185 MB
MAX_MEMBERS = 1000  # the published ones have 9

# Folder inside the archive -> the archive's name, and what the batches' names end in
LAYOUTS = {
    "cifar-10-batches-bin": ("cifar-10-binary.tar.gz", ".bin"),
    "cifar-10-batches-py": ("cifar-10-python.tar.gz", ""),
}
PARTS = {
    "train": tuple(f"data_batch_{k}" for k in range(1, 6)),
    "test": ("test_batch",),
}
PARTS["all"] = PARTS["train"] + PARTS["test"]


def find(root: Path) -> Path | None:
    """The unpacked folder or the archive that lies in `root`, or `root` itself; None where there is none."""
    candidates = [root / folder for folder in LAYOUTS]
    candidates += [root / archive for archive, _ in LAYOUTS.values()]
    if root.name in LAYOUTS:
        candidates.insert(0, root)
    return next((path for path in candidates if path.exists()), None)


def read(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `(n, 32, 32, 3)` uint8 and labels `(n,)` int64 of a folder or archive that `find` found.

    `split` is "train", "test" or "all". Raises `DataError` where a batch is missing, or is not one.
    """
    folder = next(f for f, (archive, _) in LAYOUTS.items() if path.name in (f, archive))
    suffix = LAYOUTS[folder][1]
    names = [part + suffix for part in PARTS[split]]
    try:
        if path.is_dir():
            contents = {name: _read_file(path / name) for name in names if (path / name).is_file()}
        else:
            contents = dict(_members(path, {f"{folder}/{name}": name for name in names}))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}; remove it to download it again") from error
    if missing := [name for name in names if name not in contents]:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; the published files hold {', '.join(names)}. Remove it to "
            "download it again"
        )
    parse = _parse_binary if suffix else _parse_pickle
    batches = [parse(contents[name], f"{path}/{name}") for name in names]
    pixels = np.concatenate([batch[0] for batch in batches])
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))  # (n, 32, 32, 3)
    return images, np.concatenate([batch[1] for batch in batches])


def _members(archive: Path, wanted: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    from headstart.data.archives import BLOCK, opened  # only here: not everybody unpacks

    with opened(archive, MAX_ARCHIVE_BYTES, MAX_MEMBERS) as (tar, members):
        for member in members:
            name = wanted.get(member.name.removeprefix("./"))
            if name is None or not member.isreg():
                continue
            _check_size(f"{archive}/{member.name}", member.size)
            stream = tar.extractfile(member)
            assert stream is not None  # it is a regular file
            yield name, b"".join(iter(lambda: stream.read(BLOCK), b""))  # noqa: B023 - read before the next


def _read_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        _check_size(str(path), os.fstat(stream.fileno()).st_size)
        return stream.read()


def _check_size(source: str, nbytes: int) -> None:
    if nbytes > MAX_MEMBER_BYTES:
        raise DataError(f"{source} has {nbytes} bytes; a CIFAR-10 batch has 31 MB")


def _parse_binary(encoded: bytes, source: str) -> tuple[np.ndarray, np.ndarray]:
    if not encoded or len(encoded) % (1 + PIXELS):
        raise DataError(f"{source} has {len(encoded)} bytes; expected a multiple of {1 + PIXELS}, one record each")
    records = np.frombuffer(encoded, np.uint8).reshape(-1, 1 + PIXELS)
    return records[:, 1:], _labels(records[:, 0], source)


def _parse_pickle(encoded: bytes, source: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        # The published files were written by Python 2: their strings are bytes to us.
        batch = _Unpickler(io.BytesIO(encoded), encoding="bytes").load()
    except _ForbiddenError as error:
        raise DataError(f"{source} asks for {error}, which no CIFAR-10 batch does; it was not run") from error
    except Exception as error:  # a damaged pickle raises anything
        raise DataError(f"{source} is not a pickled CIFAR-10 batch: {error or type(error).__name__}") from error
    if not isinstance(batch, dict):
        raise DataError(f"{source} holds a {type(batch).__name__}; a CIFAR-10 batch is a dict")
    data, labels = (batch.get(key.encode(), batch.get(key)) for key in ("data", "labels"))
    # ndarray's state: version, shape, dtype, whether in Fortran order, bytes
    state = data.state if isinstance(data, _Recorded) else None
    if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[4], bytes)):
        raise DataError(f"{source} has no array under 'data', as a CIFAR-10 batch has")
    _, shape, dtype, fortran, raw = state
    if not (
        isinstance(dtype, _Recorded)
        and dtype.args[:1] in ((b"u1",), ("u1",))
        and isinstance(labels, list)
        and all(type(label) is int for label in labels)
        and shape == (len(labels), PIXELS)
        and len(raw) == len(labels) * PIXELS > 0
    ):
        raise DataError(f"{source}: 'data' and 'labels' do not fit; expected n x {PIXELS} uint8 and n integers")
    pixels = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")
    if max(labels) > 255 or min(labels) < 0:  # beyond int64 they could not even become an array
        raise DataError(f"{source} has labels from {min(labels)} to {max(labels)}; CIFAR-10's are 0 to 9")
    return pixels, _labels(np.array(labels), source)


def _labels(values: np.ndarray, source: str) -> np.ndarray:
    if values.max() >= len(CLASSES):
        raise DataError(f"{source} has the label {values.max()}; CIFAR-10's are 0 to 9")
    return values.astype(np.int64)


class _ForbiddenError(Exception):
    pass


class _Recorded:
    """Stands for `numpy.ndarray` and `numpy.dtype`: keeps what the pickle passes and does nothing."""

    def __init__(self, *args: object) -> None:
        self.args = args
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


def _latin1(text: object, encoding: object) -> bytes:
    """Stands for `_codecs.encode`, by which Python 3 writes bytes into old protocols."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise ValueError("bytes that are not encoded as latin1")
    return text.encode("latin1")


# In Python, not in C: there the memo is an array, which grows to any index that a pickle of ten bytes names.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _Recorded
        if module == "numpy" and name in ("ndarray", "dtype"):
            return _Recorded
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise _ForbiddenError(f"{module}.{name}")
