"""Extraction: a frozen graph under one `jit`. On a device of its own a few batches are under way at once, and rows
leave it in the type of numbers in which they are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from headstart.backends.doors.jax_devices import compiled, is_out_of_memory, put
from headstart.backends.doors.jax_programs import unkept
from headstart.backends.jax import cpu_programs
from headstart.backends.jax.arrays import as_float, to_numpy
from headstart.backends.jax.door import behind_door
from headstart.backends.jax.emit import Network
from headstart.backends.jax.frozen import FrozenNetwork, attends
from headstart.backends.jax.fused import available, fused
from headstart.common.log import LOG
from headstart.contract.devices import CPU, reason_of
from headstart.contract.recipe import FLOAT16, Place
from headstart.contract.streams import Dtypes, is_held, one_by_one, overlapped
from headstart.graph import Graph


class UnderWay(NamedTuple):
    images: Any
    rows: dict[str, jax.Array]
    largest: dict[str, jax.Array]
    """the largest magnitude in each channel, `(c,)`, of what is stored in less than float32"""


@behind_door("__init__", "run", "params", "_begin", "_end")
class JaxTrunk:
    def __init__(
        self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str], place: Place
    ) -> None:
        self.place = place
        self.network = Network(graph, params, outputs, place)
        self.network.eval()
        self.fused = fused(self.network, place)
        formed = self.fused is None and place.arithmetic != FLOAT16 and cpu_programs.may_be_formed(graph, place)
        self.formed = formed and available()
        self.cudnn = attends(self.network, place)
        faster = self.fused if place.kind == CPU else FrozenNetwork(self.network, place, self.cudnn)
        self.held = faster is None  # whether the network's own parameters are those on the device
        self.graphdef, state = nnx.split(faster or self.network)
        self.state = put(state, place)
        self._compile()

    def _compile(self) -> None:
        run = _computed(self.graphdef)
        self._run = compiled(cpu_programs.on_cpu(run, cpu_programs.INFERENCE) if self.formed else run, self.place)
        self._leave: dict[tuple[tuple[str, str], ...], Any] = {}
        """the nodes and types of numbers of a stream -> its program"""

    def run(self, images: Any) -> dict[str, jax.Array]:
        images = put(images, self.place)
        # Any batch may be the first of its shape, for which the program is compiled.
        with unkept() if self.fused or self.formed else nullcontext():
            return self._tried(lambda: jax.block_until_ready(self._run(self.state, images)))

    def stream(self, batches: Iterable[Any], dtypes: Dtypes) -> Iterator[dict[str, np.ndarray]]:
        if self.place.kind == CPU:
            yield from one_by_one(self.run, to_numpy, batches, dtypes, reuses=False)
            return
        begin, end = partial(self._begin, dtypes=dtypes), partial(self._end, dtypes=dtypes)
        yield from overlapped(batches, begin, end)

    def _begin(self, images: Any, dtypes: Dtypes) -> UnderWay:
        key = tuple((node, str(dtype)) for node, dtype in dtypes.items())
        there = put(images, self.place)

        def dispatched() -> Any:
            if key not in self._leave:
                self._leave[key] = compiled(_leaving(self.graphdef, dtypes), self.place)
            return self._leave[key](self.state, there)

        rows, largest = self._tried(dispatched)
        for array in (*rows.values(), *largest.values()):
            array.copy_to_host_async()
        return UnderWay(images, rows, largest)

    def _end(self, batch: UnderWay, dtypes: Dtypes) -> dict[str, np.ndarray]:
        rows = {node: np.asarray(array) for node, array in batch.rows.items()}
        lost = [node for node, largest in batch.largest.items() if not is_held(np.asarray(largest), dtypes[node])]
        if lost:  # core wants to see in full what is lost, which is rare enough to be computed again
            outputs = self.run(batch.images)
            rows |= {node: np.asarray(outputs[node]) for node in lost}
        return rows

    def _tried(self, dispatched: Callable[[], Any]) -> Any:
        try:
            return dispatched()
        except (RuntimeError, TypeError, ValueError) as error:  # JAX's own errors are RuntimeErrors
            if not self.cudnn or is_out_of_memory(error):
                raise
            LOG.debug("jax: attention is XLA's own, since cuDNN's does not run: %s", reason_of(error))
        self.cudnn = False
        self.graphdef = nnx.graphdef(FrozenNetwork(self.network, self.place, cudnn=False))
        self._compile()
        return dispatched()

    def params(self) -> dict[str, np.ndarray]:
        if self.held:
            nnx.update(self.network, self.state)
        came = self.network.numpy_params()
        if self.place.kind == CPU:
            return came
        there = nnx.merge(self.graphdef, self.state).numpy_params()
        return {name: _unrounded(there[name], value) for name, value in came.items()}


def _unrounded(there: np.ndarray, came: np.ndarray) -> np.ndarray:
    """What a parameter on the device came from, if it still is that, as it was rounded to its type."""
    same = np.array_equal(came.astype(there.dtype), there, equal_nan=there.dtype.kind == "f")
    return came if same else there.astype(came.dtype)


def _computed(graphdef: Any) -> Callable[..., dict[str, jax.Array]]:
    def run(state: nnx.State, images: Any) -> dict[str, jax.Array]:
        outputs = nnx.merge(graphdef, state)(as_float(images))
        return {node: y.astype(jnp.float32) for node, y in outputs.items()}

    return run


def _leaving(graphdef: Any, dtypes: Dtypes) -> Callable[..., tuple[dict[str, jax.Array], dict[str, jax.Array]]]:
    """Of these nodes alone, as they are stored; and what tells whether that holds them."""
    run = _computed(graphdef)
    less = [node for node, dtype in dtypes.items() if dtype != np.float32]

    def leave(state: nnx.State, images: Any) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        outputs = run(state, images)
        rows = {node: outputs[node].astype(dtype) for node, dtype in dtypes.items()}
        return rows, {node: jnp.abs(outputs[node]).max(range(outputs[node].ndim - 1)) for node in less}

    return leave
