"""What core asks of a framework, and how one is chosen.

* The contract is small, and every method has one meaning in all three backends: a backend translates, it
  never decides. Sample order, initial weights, learning rates, metrics, folding and file formats are core's.
* Arrays that cross the contract are numpy: images `(n, h, w, c)`, weights in torchvision's layout.
  A backend may keep what it was given on its device, in its own layout, under an opaque handle.
* Backends are imported here and nowhere else, by name, when they are needed.
* A wrong name is an error, never a fallback; a missing framework is named with the way to install it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from headstart.checked import CheckedBackend
from headstart.errors import BackendError, UnknownNameError
from headstart.graph import Graph, NativePart
from headstart.graph.native import require_home
from headstart.training.optimizers import Optimizer

if TYPE_CHECKING:
    from headstart.data import Arrays, Preprocess
    from headstart.training.heads import Chain, Heads, HeadsRecipe

VARIABLE = "HEADSTART_BACKEND"
PRECISIONS = ("float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")

# backend -> the modules that must be there, and the distributions whose versions are reported
REQUIRES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "torch": (("torch",), ("torch",)),
    "keras": (("keras",), ("keras", "tensorflow")),
    "jax": (("jax", "flax", "optax"), ("jax", "flax", "optax")),
}


@dataclass(frozen=True)
class Place:
    """Where and how finely to compute."""

    device: str
    """"auto", "cpu" or "cuda"; a backend's `place` returns it with "auto" decided"""
    precision: str
    """"float32" or "bfloat16" for the layers' arithmetic; parameters stay float32 where they are trained"""


@dataclass(frozen=True)
class Recipe:
    """How a trainer updates its parameters; the learning rates come with each step."""

    optimizer: Optimizer
    label_smoothing: float
    train_statistics: bool
    """whether batch norms use and update the batch's statistics, or keep the ones they came with"""
    seed: int
    """of dropout; its masks are the framework's own and differ between backends"""
    rates: Mapping[str, float] = field(default_factory=dict)
    """parameter -> multiple of each step's learning rate; 1 where it is not named. What has 0 is not trained: it
    is bit-equal afterwards, weight decay or not"""


class Trunk(Protocol):
    """A frozen graph in inference mode, ready to run."""

    def run(self, images: Any) -> dict[str, Any]:
        """`(n, h, w, c)` images, or a wrapped module's inputs as core has them (an array or a dict of arrays) ->
        node name -> native array of its output, computed when this returns."""

    def params(self) -> dict[str, np.ndarray]:
        """The parameters as they are on the device now, by the names they came with."""


class Trainer(Protocol):
    """A graph whose parameters are all trained, on mini-batches or on whole epochs of resident rows."""

    def put(self, rows: np.ndarray) -> Any:
        """Copy feature rows `(n, ...)` to the device, once."""

    def epoch(
        self, rows: Any, labels: np.ndarray, order: np.ndarray | None, rates: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """Train on resident `rows`: step i on the rows `order[i]` (int64 `(steps, batch)`) at learning rate
        `rates[i]`; without `order` on batch after batch as they lie, `steps * batch` rows, which spares
        gathering them: so they come from a thread that reads the next ones meanwhile. `labels` are int64
        `(n,)`. Returns the losses `(steps, outputs)`, the graph's output first and then its auxiliary ones,
        unweighted, and the number of samples that the output classified right, each before its step's
        update; none of a step whose loss is not finite, since `argmax` gives class 0 for NaN."""

    def step(self, inputs: Any, labels: np.ndarray, rate: float) -> tuple[np.ndarray, int]:
        """One step on one batch: what `Trunk.run` takes, or a native array as it returns it. Losses
        `(outputs,)`."""

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        """Inference on the rows `start:stop` of `put`'s handle or of a batch; float32 `(n, classes)`."""

    def params(self) -> dict[str, np.ndarray]:
        """All parameters as they are now, statistics included, in torchvision's layout."""


# Cuts that are no name of a module's: with a space in them they cannot be one, so whatever `Wrapping.cut` says can
# be asked for.
END = "its end"
BEFORE = "before "
"""and the path of the module's classifier, where nothing in front of it has a name"""


@dataclass(frozen=True)
class WrapRequest:
    """What a backend's `wrap` is asked for."""

    native: Any
    cut: str | None
    """where its trunk ends, by the module's own names; or `END`, or what `Wrapping.cut` said of it. None: at its
    end, or with `rest` before its classifier"""
    rest: bool
    """whether the rest of the module is wanted, as the head"""
    example: Any
    """two samples as core has them: images float32 `(2, h, w, 3)`, other inputs as they are"""
    params: Any
    """the parameters of functions, which hold none themselves"""
    init: Callable[[int], Any] | None
    """seed -> a module like `native`, or such `params`, drawn anew"""
    logits: bool
    """whether the end of `native` is the end of a head, which gives logits: what makes probabilities of them there
    (softmax, log_softmax, sigmoid) is taken off and named in `Wrapping.ending`"""
    fresh: bool
    """whether a fresh classifier takes the trunk's features, averaged over maps and tokens: then the trunk ends
    before the module's own classifier where no cut is named, padded tokens are left out, and which axis holds the
    channels has to be known"""
    layout: str | None
    """how the module orders the features at the cut, where its user says it: nchw, nhwc, nlc or ncl"""
    takes: str
    """of a head: the `Wrapping.layout` of the trunk in front of it"""


@dataclass(frozen=True)
class Witnessed:
    """What a user's own module gives for a batch, in core's layout and dtype (`Backend.numpy` of it)."""

    cut: np.ndarray | None
    """at the cut; None where the framework has no means to look there"""
    end: np.ndarray | None
    """at its end, probabilities where it makes such; None where that is not one array"""
    rounding: float = 2.0**-23
    """the relative distance between two numbers of the kind that it computed with: of float32, float16 ..."""


@dataclass(frozen=True)
class Wrapping:
    """What a backend's `wrap` has made of a module."""

    cut: str
    """the last thing in the trunk, by the module's own names; asked for, it makes the same cut"""
    place: str
    """the same, where the framework numbers names anew each time a module is built: as it stays"""
    trunk: NativePart
    params: Mapping[str, np.ndarray]
    """of the trunk"""
    head: NativePart | None = None
    head_params: Mapping[str, np.ndarray] = field(default_factory=dict)
    reason: str = ""
    """why the trunk's structure cannot be known, where it cannot"""
    ending: str = ""
    """what was taken off the module's end so that the head gives logits: a name in `headstart.models.endings`"""
    witness: Callable[[Any], Witnessed] | None = None
    """a batch as core has it -> what the user's module itself, and no copy of it, gives when it is run as its
    owner runs it in inference: by its own call, with its hooks. It is afterwards as it was: modes, buffers, hooks,
    random state. An exception of its code is let through. None where the framework cannot run it"""
    layout: str = ""
    """how the module orders the features at the cut, where that differs from its framework's way: the trunk then
    gives them as core has them"""


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


def names() -> tuple[str, ...]:
    """All backends that headstart has, installed or not."""
    return tuple(REQUIRES)


def installed() -> tuple[str, ...]:
    """The backends whose framework is installed; nothing is imported to find out."""
    return tuple(name for name in REQUIRES if not _missing(name))


def _missing(name: str) -> list[str]:
    return [module for module in REQUIRES[name][0] if find_spec(module) is None]


def choose(name: str | None = None, home: str | None = None) -> str:
    """The backend to use: `name`, else HEADSTART_BACKEND, else the only one installed. Of a model that holds a
    wrapped module, `home` is the only one that can run it, and need not be named.

    Raises UnknownNameError for a name that is none, BackendError where its framework is missing, where none
    is installed, where several are and none was named, or where a wrapped module lives in another one.
    """
    source = ""
    if name is None and home is not None:
        name, source = home, " (where the wrapped module lives)"
    if name is None and os.environ.get(VARIABLE):
        name, source = os.environ[VARIABLE], f" (from {VARIABLE})"
    if name is not None:
        if name not in REQUIRES:
            raise UnknownNameError("backend", name, REQUIRES, source)
        require_home(home, name)
        if missing := _missing(name):
            raise BackendError(
                f"backend {name!r}{source} needs {' and '.join(missing)}, which is not installed: "
                f"pip install 'headstart[{name}]'"
            )
        return name
    found = installed()
    if len(found) == 1:
        return found[0]
    if not found:
        raise BackendError(
            "no backend is installed: pip install 'headstart[torch]', or one of "
            + ", ".join(f"[{name}]" for name in REQUIRES)
        )
    raise BackendError(
        f"several backends are installed ({', '.join(found)}) and none was chosen; pass backend=, "
        f"or set {VARIABLE} to one of them"
    )


@cache
def _load(name: str) -> Backend:
    return cast("Backend", CheckedBackend(import_module(f"headstart.backends.{name}").BACKEND))


def load(name: str | None = None, home: str | None = None) -> Backend:
    """The backend object for `name` (see `choose`); imports its framework."""
    return _load(choose(name, home))


def exports(name: str) -> ModuleType:
    """The module of the backend `name` that hands features to its framework's own programs: `tensor(array)`, of
    which array and tensor share the memory, and in torch and keras `dataset(rows, ...)`. Imports the framework;
    BackendError where that is missing."""
    try:
        choose(name)
        return import_module(f"headstart.backends.{name}.exports")
    except ModuleNotFoundError as error:  # Keras may be there on another engine than TensorFlow
        if error.name not in (*REQUIRES[name][0], *REQUIRES[name][1]):
            raise
        raise BackendError(
            f"this needs {error.name}, which is not installed: pip install 'headstart[{name}]'"
        ) from error


# Keras first: on its torch engine its models are torch modules, too.
ASKED: tuple[str, ...] = ("keras", "torch", "jax")


def owner(native: Any) -> Backend | None:
    """The backend whose framework `native` is a module of. Only those are asked that are imported already: a
    module of another one cannot be there."""
    for name in ASKED:
        if REQUIRES[name][0][0] in sys.modules and not _missing(name) and _load(name).owns(native):
            return _load(name)
    return None


def versions(name: str) -> dict[str, str]:
    """Distribution -> version, of what the backend `name` computes with."""
    found = {}
    for distribution in REQUIRES[name][1]:
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return found


def check_place(device: str, precision: str) -> None:
    """UnknownNameError unless both are known; whether the device is there, a backend's `place` says."""
    if device not in DEVICES:
        raise UnknownNameError("device", device, DEVICES)
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
