"""What core asks of a framework.

* The contract is small, and every method has one meaning in all backends: a backend translates, it never decides.
  Sample order, initial weights, learning rates, metrics, folding and file formats are core's.
* Arrays that cross the contract are numpy: images `(n, h, w, c)`, weights in torchvision's layout.
  A backend may keep what it was given on its device, in its own layout, under an opaque handle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headstart.contract.heads import Chain, Heads, HeadsRecipe
from headstart.contract.programs import Program
from headstart.contract.recipe import Place, Recipe
from headstart.contract.running import Trainer, Trunk
from headstart.contract.wrapping import Wrapping, WrapRequest
from headstart.data import Arrays, Preprocess
from headstart.graph import Graph


class Rows(Protocol):
    """Features and labels by position, read when they are asked for. Pickles, without any features."""

    shape: tuple[int, ...]
    """of one sample's features"""
    labels: np.ndarray
    """of all samples: int64 `(n,)`; of several labels or targets a sample float32 `(n, k)`"""

    @property
    def dtype(self) -> np.dtype[Any]:
        """as stored"""

    @property
    def piece(self) -> int:
        """As many rows as are read at once where nobody asked for a number."""

    def __len__(self) -> int: ...

    def read(self, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Features `(k, *shape)`, in memory that begins at a multiple of `headstart.common.memory.ALIGNMENT`, and
        labels."""

    def batches(
        self, size: int, shuffle: bool = False, seed: int = 0, drop_remainder: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """One pass over all of them. With `shuffle`, pass k has the order of epoch k of a training."""


class Exports(Protocol):
    """Hands features to the framework's own programs."""

    def tensor(self, array: np.ndarray) -> Any:
        """A tensor on the CPU that shares the array's memory, which begins at a multiple of
        `headstart.common.memory.ALIGNMENT`."""

    def dataset(self, rows: Rows, **options: Any) -> Any:
        """The framework's own kind of data set, which reads rows when they are asked for; `options` are its own. A
        framework that has no such thing has no method either."""


class Backend(Protocol):
    """A framework. What the caller has set in it (gradients off, autocast, a default dtype or device, ...) neither
    changes what a method here does, nor is it changed.

    Which of the optional methods it has (`memory`, `is_out_of_memory`, `device_facts`, `heads`, `profile`; `owns`,
    `inputs`, `wrap`, `attempt`; `exports`; `write`; `rank`; of its trainers `state` and `load_state`) its
    `headstart.contract.description.Description` says; the others are every backend's. Core calls a backend through
    `headstart.contract.checked.CheckedBackend`, where all of them are.
    """

    name: str

    def place(self, device: str, precision: str) -> Place:
        """Decide the device, as `headstart.contract.devices.decide` does; BackendError where the one asked for, of
        one of its description's kinds, is not there. "cpu" starts no other device."""

    def threads(self) -> int:
        """Threads the framework computes with on a CPU."""

    def memory(self, place: Place) -> int | None:
        """Bytes that the device has left of a memory of its own; None where it has none, or does not say.
        Optional: "memory", with the next one."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an error that came out of this backend says that a device has no memory left for what was asked
        of it, so that less of it may go."""

    def device_facts(self, place: Place) -> dict[str, str | int | float | bool]:
        """What a record should have of the device beside its name, as far as the framework knows it: "name" (the
        card's), "driver", "memory" (bytes in all), "capability", "tf32" (whether products in this precision are
        computed so) and the versions of libraries, such as "cuda" and "cudnn". It is asked of other devices than
        the CPU. Optional: "facts"."""

    def trunk(self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str], place: Place) -> Trunk:
        """Make a trunk that returns the nodes `outputs`, of the part of the graph that they need: core gives no
        other node to a backend, whatever it is called with."""

    def trainer(self, graph: Graph, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> Trainer:
        """Make a trainer."""

    def heads(
        self, chain: Chain, params: Mapping[str, np.ndarray], recipe: HeadsRecipe, place: Place
    ) -> Heads | None:
        """Make a trainer of many heads at once, of parameters with a first axis for them; None where the
        framework cannot, and they are trained one after the other. Optional: "heads"."""

    def native(self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> Any:
        """The framework's own model object, in inference mode, on the CPU. It returns the graph's output, or, with
        `outputs`, a dict of those nodes."""

    def call(self, native: Any, images: Any) -> np.ndarray:
        """Run a native model on float32 `(n, h, w, c)`, or on what a wrapped module takes; float32 logits."""

    def numpy(self, array: Any) -> np.ndarray:
        """A native array as numpy, `(n, h, w, c)` or `(n, c)`."""

    def owns(self, native: Any) -> bool:
        """Whether `native` is a module of this framework, or what it has in place of modules. Optional, with the
        next three: "wrap"."""

    def inputs(self, native: Any) -> Preprocess | Arrays | None:
        """What a module itself says of its inputs; None where it says nothing."""

    def wrap(self, request: WrapRequest) -> Wrapping:
        """Cut a user's module in two, or take it whole. It is copied, never changed."""

    def attempt(self, native: Any, example: Any) -> None:
        """Run a user's module itself on a batch, as its owner runs it in inference, and leave it as it was. What
        its code raises is let through: it tells whose fault it is that `wrap` failed."""

    def profile(self, folder: Path) -> AbstractContextManager[None]:
        """Record what the body does with the framework's own profiler, and write the trace to `folder`, in the
        form in which TensorBoard shows it. ProfileError where the profiler cannot be started. Optional:
        "profile"."""

    def write(self, program: Program, format: str, path: Path, texts: Mapping[str, str]) -> None:
        """Write a program as a file, or folder, of a format of its description's, or "onnx" where that says so, at
        a path where nothing is yet. The file holds `texts` too, where whoever opens it finds them. ExportError
        where the framework cannot write such a program, in its own words; OSError. Optional: "export"."""

    def rank(self) -> tuple[int, int] | None:
        """Which process this is, from 0, and of how many, where the caller has made them one group with the
        framework's own means; None where he has not. Optional: "rank"."""

    def exports(self) -> Exports:
        """What hands features to the framework's own programs. Optional: has it what its description exports."""
