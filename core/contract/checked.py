"""What a backend returns is checked where it enters core: names, shapes and kinds of numbers, never values, which
may be anything that training gives.

What a backend forgets, or hands back the other way round, would else be saved as it is and read as something else
much later. So `headstart.contract.registry.load` returns backends behind this door. Whatever else a backend, a
trunk or a trainer has is passed through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import numpy as np

from headstart.common.errors import BackendError, CheckpointError
from headstart.contract import devices
from headstart.contract.description import EXPORT, FACTS, HEADS, MEMORY, PROFILE, STATE, Description
from headstart.contract.halving import Halving
from headstart.contract.heads import Chain, HeadsRecipe
from headstart.contract.programs import Program
from headstart.contract.recipe import Place, Recipe
from headstart.contract.room import Room
from headstart.contract.running import Trainer, Trunk
from headstart.contract.sizes_of_batches import Sizes
from headstart.contract.streams import Dtypes, one_by_one
from headstart.data.rows import count
from headstart.graph import Graph

Expected = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""parameter -> shape and dtype"""


NETWORK, FOR_NETWORK = "the network", "pass precision='bfloat16', free some of its memory"
FOR_BATCH = "pass a smaller batch_size= (--batch-size), or precision='bfloat16'"
FOR_ROWS = "pass memory= (--memory) to have fewer features there, or a smaller batch_size= (--batch-size)"
"""what a user can do where there is no room for the network, for a batch, or for features"""


class Passing:
    """What is behind the door, but for what a subclass looks at."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # not there yet, while it is unpickled
            raise AttributeError(name)
        return getattr(self._inner, name)


class CheckedBackend(Passing):
    """A backend whose trunks and trainers are checked. What it says that it cannot do it is not asked for: core's
    other way is taken, or the user is told."""

    def __init__(self, inner: Any, name: str, description: Description) -> None:
        super().__init__(inner)
        self.name, self._description = name, description

    def place(self, device: str, precision: str) -> Place:
        kinds = self._description.devices
        if device != devices.AUTO:
            device = devices.name_of(*devices.parse(device, kinds, f" (of backend {self.name!r})"))
        place: Place = self._inner.place(device, precision)
        there = place.kind in kinds if device == devices.AUTO else place.device == device
        if not there or place.precision != precision:
            expected = f"one of {', '.join(kinds)}" if device == devices.AUTO else device
            raise _wrong(self.name, "a place", place, f"{precision} on {expected}")
        return place

    def memory(self, place: Place) -> int | None:
        return self._inner.memory(place) if MEMORY in self._description.abilities else None

    def is_out_of_memory(self, error: BaseException) -> bool:
        return MEMORY in self._description.abilities and bool(self._inner.is_out_of_memory(error))

    def device_facts(self, place: Place) -> dict[str, Any]:
        """Nothing of a CPU: what is known of it is `headstart.common.machine`'s."""
        if place.kind == devices.CPU or FACTS not in self._description.abilities:
            return {}
        facts = self._inner.device_facts(place)
        plain = isinstance(facts, dict) and all(isinstance(name, str) for name in facts)
        if not plain or not all(type(value) in (str, int, float, bool) for value in facts.values()):
            raise _wrong(self.name, "a device's facts", _about(facts), "a dict of texts, numbers, True and False")
        return dict(facts)

    def profile(self, folder: Path) -> AbstractContextManager[None]:
        self._description.require(self.name, PROFILE)
        return cast("AbstractContextManager[None]", self._inner.profile(folder))

    def write(self, program: Program, format: str, path: Path, texts: Mapping[str, str]) -> None:
        self._description.require(self.name, EXPORT)
        self._inner.write(program, format, path, texts)

    def trunk(self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str], place: Place) -> Trunk:
        graph, room = graph.upto(*outputs), Room(place.device, self.is_out_of_memory)
        try:
            trunk = self._inner.trunk(graph, params, outputs, place)
        except Exception as error:
            room.check(error, NETWORK, FOR_NETWORK)
            raise
        return CheckedTrunk(trunk, self.name, graph, params, outputs, self.numpy, room, Sizes(graph, place))

    def numpy(self, array: Any) -> np.ndarray:
        return cast("np.ndarray", self._inner.numpy(array))

    def native(self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> Any:
        return self._inner.native(graph.upto(*outputs) if outputs else graph, params, outputs)

    def trainer(self, graph: Graph, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> Trainer:
        room = Room(place.device, self.is_out_of_memory)
        try:
            inner = self._inner.trainer(graph, params, recipe, place.for_training)
        except Exception as error:
            room.check(error, NETWORK, FOR_NETWORK)
            raise
        return CheckedTrainer(
            inner, self.name, _expected(graph, params), (len(graph.outputs),), (), self._description, room
        )

    def heads(self, chain: Chain, params: Mapping[str, np.ndarray], recipe: HeadsRecipe, place: Place) -> Any:
        able = HEADS in self._description.abilities
        inner = self._inner.heads(chain, params, recipe, place.for_training) if able else None
        if inner is None:
            return None
        number = len(recipe.lr)
        stacked = {name: (value.shape, value.dtype) for name, value in params.items()}
        room = Room(place.device, self.is_out_of_memory)
        return CheckedHeads(inner, self.name, stacked, (number,), (number,), self._description, room)


class CheckedTrunk(Passing):
    def __init__(
        self,
        inner: Any,
        backend: str,
        graph: Graph,
        params: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        numpy: Callable[[Any], np.ndarray],
        room: Room,
        sizes: Sizes,
    ) -> None:
        """`numpy`: the backend's, of its arrays."""
        super().__init__(inner)
        self._sizes = sizes
        self._room, self._halving = room, Halving(room)
        self._backend, self._graph, self._outputs, self._numpy = backend, graph, tuple(outputs), numpy
        self._expected = _expected(graph, params)
        # What a user's own part gives need not be as it was with the example.
        self._known = not any(node.op == "native" for node in graph.nodes)
        self._shapes: dict[tuple[int, ...], dict[str, tuple[int, ...]]] = {}

    def run(self, images: Any) -> dict[str, Any]:
        """DeviceMemoryError where the device has no room for so many."""
        try:
            return self._run(images)
        except Exception as error:
            self._room.check(error, f"{count(images)} samples at once", FOR_BATCH)
            raise

    def _run(self, images: Any) -> dict[str, Any]:
        pair = self._of_pair(images, self._outputs)
        outputs: dict[str, Any] = self._inner.run(images)
        self._check(_shape_of(images), outputs, self._outputs)
        if pair is not None:
            self._sizes.check(count(images), pair, {name: self._numpy(outputs[name]) for name in outputs})
        return outputs

    def _of_pair(self, images: Any, names: Iterable[str]) -> dict[str, np.ndarray] | None:
        """What a user's module gives for two of these alone, where nobody has looked at so many at once."""
        if self._known or (pair := self._sizes.pair(images)) is None:
            return None
        outputs = self._inner.run(pair)
        return {name: np.array(self._numpy(outputs[name])) for name in names}

    def stream(self, batches: Iterable[Any], dtypes: Dtypes) -> Iterator[dict[str, np.ndarray]]:
        """DeviceMemoryError where the device has no room for one sample; what it has no room for otherwise is run
        in halves."""
        return self._halving.stream(self._stream, batches, dtypes)

    def _stream(self, batches: Iterable[Any], dtypes: Dtypes) -> Iterator[dict[str, np.ndarray]]:
        if not hasattr(self._inner, "stream"):
            yield from one_by_one(self._run, self._numpy, batches, dtypes, reuses=True)
            return
        shapes: deque[tuple[int, ...] | None] = deque()
        pairs: deque[tuple[int, dict[str, np.ndarray] | None]] = deque()

        def noted() -> Iterator[Any]:
            for images in batches:
                shapes.append(_shape_of(images))
                pairs.append((count(images), self._of_pair(images, dtypes)))
                yield images

        for outputs in self._inner.stream(noted(), dtypes):
            if not shapes:
                raise _wrong(self._backend, "results of a stream", "one more", "as many as there were batches")
            self._check(shapes.popleft(), outputs, tuple(dtypes))
            for name, rows in outputs.items():
                if not isinstance(rows, np.ndarray) or rows.dtype not in (np.float32, dtypes[name]):
                    what = f"the trunk's output {name!r}"
                    raise _wrong(self._backend, what, _about(rows), f"float32 or {dtypes[name]}")
            size, pair = pairs.popleft()
            if pair is not None:
                self._sizes.check(size, pair, outputs)
            yield outputs
        if shapes:
            raise _wrong(self._backend, "results of a stream", f"{len(shapes)} fewer", "one for each batch")

    def _check(self, shape: tuple[int, ...] | None, outputs: Mapping[str, Any], names: Sequence[str]) -> None:
        """The outputs' names, and their shapes where the graph tells these for inputs of a shape."""
        if set(outputs) != set(names):
            raise _wrong(self._backend, "the trunk's outputs", sorted(outputs), sorted(names))
        if not self._known or shape is None:
            return
        if shape not in self._shapes:
            shapes = self._graph.shapes(shape[1:])
            self._shapes[shape] = {name: (shape[0], *shapes[name]) for name in self._outputs}
        for name in names:
            expected = self._shapes[shape][name]
            received = tuple(getattr(outputs[name], "shape", ()))
            if received != expected:
                raise _wrong(self._backend, f"the trunk's output {name!r}", received, expected)

    def params(self) -> dict[str, np.ndarray]:
        return checked_params(self._backend, self._inner.params(), self._expected)


class CheckedTrainer(Passing):
    """Of one head, or of many side by side."""

    def __init__(
        self,
        inner: Any,
        backend: str,
        expected: Expected,
        losses: tuple[int, ...],
        heads: tuple[int, ...],
        description: Description,
        room: Room,
    ) -> None:
        """`losses`: shape of a step's; `heads`: of what there is one of a head."""
        super().__init__(inner)
        self._description, self._room = description, room
        self._backend, self._expected, self._losses, self._heads = backend, expected, losses, heads

    def put(self, rows: np.ndarray) -> Any:
        """DeviceMemoryError where the device has no room for them, as from the other methods here."""
        try:
            return self._inner.put(rows)
        except Exception as error:
            self._room.check(error, f"{len(rows):,} rows of features", FOR_ROWS)
            raise

    def epoch(
        self,
        rows: Any,
        targets: np.ndarray,
        order: np.ndarray | None,
        rates: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> Any:
        size = len(targets) if order is None else order.size
        weighted = () if weights is None else (weights,)
        try:
            result = self._inner.epoch(rows, targets, order, rates, *weighted)
        except Exception as error:
            samples = size // max(1, len(rates))
            self._room.check(error, f"a step on {samples} of {len(targets):,} rows that lie there", FOR_ROWS)
            raise
        return self._checked(result, (len(rates), *self._losses), size)

    def step(self, inputs: Any, targets: np.ndarray, rate: float, weights: np.ndarray | None = None) -> Any:
        weighted = () if weights is None else (weights,)
        try:
            result = self._inner.step(inputs, targets, rate, *weighted)
        except Exception as error:
            self._room.check(error, f"a step on {len(targets)} samples", FOR_BATCH)
            raise
        return self._checked(result, self._losses, len(targets))

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        try:
            logits = self._inner.logits(inputs, start, stop)
        except Exception as error:
            self._room.check(error, f"the logits of {stop - start} samples", FOR_BATCH)
            raise
        return self._checked_logits(logits, inputs, start, stop, self._heads)

    def _checked_logits(
        self, logits: np.ndarray, inputs: Any, start: int, stop: int, heads: tuple[int, ...]
    ) -> np.ndarray:
        size = len(next(iter(inputs.values()))) if isinstance(inputs, dict) else len(inputs)
        rows = len(range(*slice(start, stop).indices(size)))
        if not (
            isinstance(logits, np.ndarray)
            and logits.dtype == np.float32
            and logits.ndim == 2 + len(heads)
            and logits.shape[:-1] == (rows, *heads)
        ):
            raise _wrong(self._backend, "logits", _about(logits), f"float32 {(rows, *heads)} + (classes,)")
        return logits

    def params(self) -> dict[str, np.ndarray]:
        return checked_params(self._backend, self._inner.params(), self._expected)

    def snapshot(self) -> Callable[[], dict[str, np.ndarray]]:
        if hasattr(self._inner, "snapshot"):
            read = self._inner.snapshot()
            return lambda: checked_params(self._backend, read(), self._expected)
        params = self.params()
        return lambda: params

    def state(self) -> dict[str, np.ndarray]:
        self._description.require(self._backend, STATE)
        state = self._inner.state()
        plain = isinstance(state, dict) and all(isinstance(name, str) for name in state)
        if not plain or not all(isinstance(v, np.ndarray) and not v.dtype.hasobject for v in state.values()):
            raise _wrong(self._backend, "a trainer's state", _about(state), "a dict of arrays")
        return dict(state)

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """CheckpointError where it is no state of such a trainer, which then stays as it is."""
        here = self.state()
        for name in sorted(here.keys() | state.keys()):
            kinds = [_about(arrays[name]) if name in arrays else "nothing" for arrays in (state, here)]
            if kinds[0] != kinds[1]:
                raise CheckpointError(
                    f"this is the state of another graph or optimizer: {name!r} is {kinds[0]}; expected "
                    f"{kinds[1]}. A training goes on with the model, the settings and the backend "
                    f"({self._backend!r}) with which it began"
                )
        self._inner.load_state(state)

    def _checked(self, result: Any, shape: tuple[int, ...], size: int) -> Any:
        losses, right = result
        if np.shape(losses) != shape or np.asarray(losses).dtype.kind != "f":
            raise _wrong(self._backend, "losses", _about(losses), f"floats {shape}")
        counts = np.asarray(right)
        if (
            counts.shape != self._heads
            or counts.dtype.kind not in "iu"
            or not ((counts >= 0) & (counts <= size)).all()
        ):
            raise _wrong(
                self._backend,
                "the number of samples classified right",
                right,
                f"0 to {size}, integers {self._heads}",
            )
        return result


class CheckedHeads(CheckedTrainer):
    """Of many side by side."""

    def logits_of(self, inputs: Any, start: int, stop: int, numbers: Sequence[int]) -> np.ndarray:
        logits = self._inner.logits_of(inputs, start, stop, numbers)
        return self._checked_logits(logits, inputs, start, stop, (len(numbers),))

    def keep(self, numbers: Sequence[int]) -> None:
        self._inner.keep(numbers)
        self._losses = self._heads = (len(numbers),)
        self._expected = {
            name: ((len(numbers), *shape[1:]), dtype) for name, (shape, dtype) in self._expected.items()
        }


def checked_params(backend: str, params: Mapping[str, np.ndarray], expected: Expected) -> dict[str, np.ndarray]:
    """The parameters that a backend has returned. BackendError names the first that is missing, that nobody knows,
    or that has another shape or dtype than it was given with."""
    for name, (shape, dtype) in expected.items():
        what = f"parameter {name!r}"
        if name not in params:
            raise _wrong(backend, what, "nothing", f"{dtype} {shape}")
        value = params[name]
        if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != dtype:
            raise _wrong(backend, what, _about(value), f"{dtype} {shape}")
    if unknown := params.keys() - expected.keys():
        raise _wrong(
            backend, f"parameter {min(unknown)!r}", _about(params[min(unknown)]), "no parameter of that name"
        )
    return dict(params)


def _expected(graph: Graph, params: Mapping[str, np.ndarray]) -> Expected:
    return {name: (tuple(shape), np.asarray(params[name]).dtype) for name, shape in graph.param_shapes().items()}


def _shape_of(images: Any) -> tuple[int, ...] | None:
    """None of several arrays."""
    return None if isinstance(images, dict) else tuple(images.shape)


def _about(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return repr(value)[:100] if shape is None else f"{getattr(value, 'dtype', '')} {tuple(shape)}"


def _wrong(backend: str, what: str, received: Any, expected: Any) -> BackendError:
    return BackendError(
        f"backend {backend!r} returned {what} as {received}; expected {expected}. This is a bug of the "
        "backend; nothing was saved"
    )
