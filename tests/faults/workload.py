"""What the store's tests disturb: extractions whose every row is known beforehand, and what must hold afterwards.

A workload is deterministic: row i is a function of id i (or of image i) alone, so that a row that was lost,
swapped or torn shows by itself. Shards are made small, so that there is much to interrupt. The ordinary suite and
`tox -e faults` run the same code, the one briefly, the other at length.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import headstart as hs
from headstart.common import files
from headstart.common.errors import StoreError
from headstart.contract import registry
from headstart.contract.description import Description
from headstart.contract.recipe import Place
from headstart.store import FeatureFolder, FeatureStore, array_to_ids, ids_to_array, shard, trunk_key, writer
from headstart.store import files as store_files

ROW = (3, 5)
ROWS_PER_SHARD = 4

HANDLING_FILES: tuple[Any, ...] = (files, store_files, shard)
"""the modules through which the store handles its files"""
# All that an extraction asks of the system for its files.
OPERATIONS = ("mkdir", "open", "fstat", "preadv", "write", "fsync", "close", "replace", "utime")

Array = np.ndarray[Any, Any]


def all_ids(n: int) -> list[str]:
    return array_to_ids(np.random.default_rng(0).integers(0, 256, (n, 16), dtype=np.uint8))


def rows_of(ids: Sequence[str]) -> Array:
    """`(n, 3, 5)` float16: each row is its id's first bytes."""
    return ids_to_array(ids)[:, : ROW[0] * ROW[1]].reshape(-1, *ROW).astype(np.float16)


def folder_in(root: Path | str, name: str = "tiny") -> FeatureFolder:
    key = trunk_key(
        graph=[name],
        weights_digest="0" * 32,
        preprocess={},
        precision="float32",
        dtype="float16",
        label={"model": name},
    )
    return FeatureStore(root).folder(key)


def extract(
    folder: FeatureFolder, ids: Sequence[str], batch: int = 3, report: Callable[[int], Any] = lambda rows: None
) -> None:
    """What an extraction does with the store, without images and models."""
    missing = folder.missing(ids)
    with folder.writer(ROW, "float16", {"backend": "numpy"}) as out:
        for start in range(0, len(missing), batch):
            piece = missing[start : start + batch]
            out.add(piece, rows_of(piece))
            report(out.rows_written)


def present(folder: FeatureFolder, ids: Sequence[str], expected: Array | None = None) -> list[str]:
    """Those of the ids that are stored, after testing that every file is intact and every row right."""
    report = FeatureStore(folder.path.parent.parent).verify()
    assert report.damaged == []
    missing = set(folder.missing(ids))
    places = [i for i, id in enumerate(ids) if id not in missing]
    stored = [ids[i] for i in places]
    if stored:
        right = rows_of(stored) if expected is None else expected[places]
        assert np.array_equal(folder.read(stored), right), "a stored row is wrong"
    return stored


def assert_resumes(root: Path, ids: list[str]) -> None:
    extract(folder_in(root), ids)
    folder = folder_in(root)
    assert present(folder, ids) == ids
    assert folder.ids() == sorted(ids)


@contextmanager
def shards_of(rows: int, row_nbytes: int = 30) -> Iterator[None]:
    """Small shards."""
    before = writer.SHARD_NBYTES
    writer.SHARD_NBYTES = rows * row_nbytes
    try:
        yield
    finally:
        writer.SHARD_NBYTES = before


def peak_nbytes() -> int:
    """The most memory that this process has held; `getrusage` would count its parent's before it began."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


class Workload:
    """The writer's loop over ids, as `extract` above."""

    name = "writer loop"
    row_nbytes = 30

    def __init__(self, count: int) -> None:
        self.count = count

    @cached_property
    def ids(self) -> list[str]:
        return all_ids(self.count)

    @cached_property
    def expected(self) -> Array:
        return rows_of(self.ids)

    def folder(self, root: Path) -> FeatureFolder:
        return folder_in(root)

    def run(self, root: Path, chosen: Sequence[int] | None = None) -> None:
        """Extract the samples at these positions (all by default), in this order, into the store at `root`."""
        extract(self.folder(root), self.ids if chosen is None else [self.ids[i] for i in chosen])

    def assert_whole(self, root: Path) -> None:
        """The store holds what an undisturbed run leaves, row for row, and nothing else."""
        folder = self.folder(root)
        assert present(folder, self.ids, self.expected) == self.ids
        assert folder.ids() == sorted(self.ids)


class NumpyBackend:
    """A backend without a framework: features are sums over an image's pixels, the same in any batch."""

    name = "numpy"

    def place(self, device: str, precision: str) -> Place:
        return Place("cpu", precision)

    def threads(self) -> int:
        return 1

    def trunk(self, graph: Any, params: Any, outputs: Sequence[str], place: Place) -> Any:
        def run(images: Array) -> dict[str, Array]:
            flat = images.reshape(len(images), -1).astype(np.int64)
            weights = np.random.default_rng(0).integers(0, 7, (flat.shape[1], 84))
            return {node: (flat @ weights % 997).astype(np.float32) for node in outputs}

        return SimpleNamespace(run=run, params=lambda: dict(params))

    def numpy(self, array: Array) -> Array:
        return array


def install_numpy_backend() -> None:
    """From now on, in this process, there is a backend called numpy."""
    sys.modules["numpy_backend"] = SimpleNamespace(BACKEND=NumpyBackend())  # type: ignore[assignment]
    registry.register("numpy", Description("numpy_backend", ("numpy",), ("numpy",), "pip install numpy"))


class Extraction(Workload):
    """`hs.extract` itself: images hashed, decoded, run through a trunk, stored; in numpy or in a framework."""

    cut = "relu4"
    batch_size = 4

    def __init__(self, count: int, backend: str = "numpy") -> None:
        super().__init__(count)
        self.backend = backend
        self.name = f"extraction in {backend}"
        if backend == "numpy":
            install_numpy_backend()
            self.model: Any = hs.model("lenet", classes=3)
            images = np.random.default_rng(5).integers(0, 256, (count, 8, 8, 3), np.uint8)
            data: Any = hs.data.arrays(images, np.arange(count) % 3)
            self.row_nbytes = 84 * 2
        else:
            from headstart.testing import small_model

            self.model = small_model()
            self.cut = "avgpool"
            data = hs.data.digits().subset(np.arange(count))
            self.row_nbytes = 256 * 2
        # In the order of their ids, so that what is there after a kill is the beginning, whatever order is taken.
        self.data: Any = data.subset(np.argsort(data.ids))

    @cached_property
    def ids(self) -> list[str]:
        return list(self.data.ids)

    @cached_property
    def expected(self) -> Array:
        """What an undisturbed extraction gives."""
        with tempfile.TemporaryDirectory() as root:
            self.run(Path(root))
            return self.folder(Path(root)).read(self.ids)

    @cached_property
    def _key(self) -> Any:
        with tempfile.TemporaryDirectory() as root:
            features = self._extract(Path(root), [0])
            return features.key()

    def folder(self, root: Path) -> FeatureFolder:
        return FeatureStore(root).folder(self._key)

    def run(self, root: Path, chosen: Sequence[int] | None = None) -> None:
        self._extract(root, chosen)

    def _extract(self, root: Path, chosen: Sequence[int] | None) -> Any:
        return hs.extract(
            self.model,
            self.data if chosen is None else self.data.subset(np.asarray(chosen)),
            self.cut,
            backend=self.backend,
            device="cpu",
            batch_size=self.batch_size,
            workers=1,
            cache=root,
        )


class Failing:
    """Stands for `os` where the store handles its files: the Nth of some operations fails, or all from the Nth on.

    `count` counts only what the kind names: "write" operations of files being written, or "read".
    """

    def __init__(
        self, operations: Sequence[str], at: int, code: int, lasting: bool, reading: bool = False
    ) -> None:
        self.operations, self.at, self.code, self.lasting, self.reading = operations, at, code, lasting, reading
        self.count = 0
        self.failed = ""
        """The operation that failed first."""
        self.read_only: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        if name not in OPERATIONS:
            return call

        def operation(*args: Any, **kwargs: Any) -> Any:
            if self._reads(name, args) == self.reading and name in self.operations:
                self.count += 1
                if self.count == self.at or (self.lasting and self.count > self.at):
                    self.failed = self.failed or name
                    if name == "write":  # a full disk takes some of it first
                        os.write(args[0], args[1][: len(args[1]) // 3])
                    if name == "close":  # the handle is gone all the same
                        os.close(args[0])
                    raise OSError(self.code, os.strerror(self.code))
            result = call(*args, **kwargs)
            if name == "open" and self._reads(name, args):
                self.read_only.add(result)
            elif name == "close":
                self.read_only.discard(args[0])
            return result

        return operation

    def _reads(self, name: str, args: Sequence[Any]) -> bool:
        if name == "open":  # files are opened so to be read, folders to be synced are not
            return bool(args[1] & os.O_NONBLOCK)
        if name in ("close", "fstat"):
            return args[0] in self.read_only
        return name in ("preadv", "utime")


@contextmanager
def system(replacement: Any) -> Iterator[None]:
    """Let the store's files be handled by another `os`."""
    before = [module.os for module in HANDLING_FILES]
    for module in HANDLING_FILES:
        module.os = replacement
    try:
        yield
    finally:
        for module, kept in zip(HANDLING_FILES, before, strict=True):
            module.os = kept


def attempt(folder: FeatureFolder, ids: Sequence[str]) -> StoreError | None:
    """Extract; the typed error that came, if one did. Any other is not caught."""
    try:
        extract(folder, ids)
    except StoreError as error:
        return error
    return None
