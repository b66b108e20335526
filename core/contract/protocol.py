"""What core asks of a framework.

* The contract is small, and every method has one meaning in all backends: a backend translates, it never decides.
  Sample order, initial weights, learning rates, metrics, folding and file formats are core's.
* Arrays that cross the contract are numpy: images `(n, h, w, c)`, weights in torchvision's layout.
  A backend may keep what it was given on its device, in its own layout, under an opaque handle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from headstart.contract.heads import Chain, Heads, HeadsRecipe
from headstart.contract.recipe import Place, Recipe
from headstart.contract.running import Trainer, Trunk
from headstart.contract.wrapping import Wrapping, WrapRequest
from headstart.data import Arrays, Preprocess
from headstart.graph import Graph


class Backend(Protocol):
    """A framework. What the caller has set in it (gradients off, autocast, a default dtype or device, ...) neither
    changes what a method here does, nor is it changed."""

    name: str

    def place(self, device: str, precision: str) -> Place:
        """Decide "auto"; BackendError where the device asked for is not there."""

    def threads(self) -> int:
        """Threads the framework computes with on a CPU."""

    def memory(self, place: Place) -> int | None:
        """Bytes that the device has left of a memory of its own; None where it has none, or does not say."""

    def trunk(self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str], place: Place) -> Trunk:
        """Make a trunk that returns the nodes `outputs`."""

    def trainer(self, graph: Graph, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> Trainer:
        """Make a trainer."""

    def heads(
        self, chain: Chain, params: Mapping[str, np.ndarray], recipe: HeadsRecipe, place: Place
    ) -> Heads | None:
        """Make a trainer of many heads at once, of parameters with a first axis for them; None where the
        framework cannot."""

    def native(self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> Any:
        """The framework's own model object, in inference mode, on the CPU. It returns the graph's output, or, with
        `outputs`, a dict of those nodes."""

    def call(self, native: Any, images: Any) -> np.ndarray:
        """Run a native model on float32 `(n, h, w, c)`, or on what a wrapped module takes; float32 logits."""

    def numpy(self, array: Any) -> np.ndarray:
        """A native array as numpy, `(n, h, w, c)` or `(n, c)`."""

    def owns(self, native: Any) -> bool:
        """Whether `native` is a module of this framework, or what it has in place of modules."""

    def inputs(self, native: Any) -> Preprocess | Arrays | None:
        """What a module itself says of its inputs; None where it says nothing."""

    def wrap(self, request: WrapRequest) -> Wrapping:
        """Cut a user's module in two, or take it whole. It is copied, never changed."""

    def attempt(self, native: Any, example: Any) -> None:
        """Run a user's module itself on a batch, as its owner runs it in inference, and leave it as it was. What
        its code raises is let through: it tells whose fault it is that `wrap` failed."""

    def profile(self, folder: Path) -> AbstractContextManager[None]:
        """Record what the body does with the framework's own profiler, and write the trace to `folder`, in the
        form in which TensorBoard shows it. ProfileError where the profiler cannot be started."""
