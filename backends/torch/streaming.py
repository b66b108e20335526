"""Batches through a trunk on a GPU without a pause: while one is computed, the next one is copied there and the
one before comes back, each over memory that the card can read for itself. The host waits once for a batch, when
its rows are due, and by then others are under way.

What leaves the card is in the type in which it will be stored, with the largest magnitude in every channel beside
it, which tells whether that type holds it.

A computation of the same shape again and again is recorded once and played back (a CUDA graph), since a card is
done with most of its kernels before the host has launched the next. Where that cannot be done, or gives something
else, batches are computed as they come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from headstart.backends.doors.torch import settled
from headstart.backends.torch.arrays import exact_numpy, from_native, from_numpy, to_native, to_numpy
from headstart.backends.torch.devices import computing, is_out_of_memory
from headstart.backends.torch.kernels import differing
from headstart.common.log import LOG
from headstart.contract.recipe import Place
from headstart.contract.streams import Dtypes, is_held, overlapped
from headstart.data.rows import each
from headstart.graph.fuse import allowed

RECORDED_AT = 2
"""So many batches of a shape are computed as they come before it is worth a recording."""
TUNED_AFTER = 5.0
"""Seconds of playing a recording after which it is made again from the fastest of cuDNN's ways, each of which is
tried for that. It takes about as long, so that short streams do without."""
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
Outputs = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""node -> rows as they will be stored, and the largest magnitude in each channel"""


@dataclass
class UnderWay:
    """A batch, and where its rows arrive."""

    images: Any
    outputs: Outputs
    """on the host, valid when `arrived` has happened"""
    arrived: Any


class Streaming:
    """Streams of batches through one network. `network`: `(n, c, h, w)`, or what a wrapped module takes, on the
    device -> node -> output; `run`: a trunk's, for what has to be seen in float32."""

    def __init__(
        self,
        network: Callable[[Any], Mapping[str, torch.Tensor]],
        run: Callable[[Any], Mapping[str, torch.Tensor]],
        place: Place,
        device: torch.device,
        steady: bool,
    ) -> None:
        """`steady`: whether it does the same with every batch, and writes to nothing that it has given, as a
        user's module may. Only then it may be recorded, and rows leave the card from where they were computed."""
        self.network, self.run, self.place, self.device = network, run, place, device
        self.module: Any = torch.get_device_module(device.type)
        self.coming, self.going = (self.module.Stream(device) for _ in range(2))
        self.copies = not steady
        self.steady = steady and allowed() and hasattr(self.module, "CUDAGraph")
        self.computed: dict[Any, int] = {}
        self.recordings: dict[Any, Recording | None] = {}

    def __call__(self, batches: Iterable[Any], dtypes: Dtypes) -> Iterator[dict[str, np.ndarray]]:
        types = {node: TYPES[dtype.name] for node, dtype in dtypes.items()}
        try:
            yield from overlapped(batches, partial(self.start, types=types), partial(self.finish, dtypes=dtypes))
        except RuntimeError as error:
            if is_out_of_memory(error):  # smaller batches will come, and a recording keeps memory of its own
                self.recordings.clear()
                self.computed.clear()
            raise

    @settled
    def start(self, images: Any, types: Mapping[str, torch.dtype]) -> UnderWay:
        with self.module.device(self.device), torch.no_grad(), computing(self.place):
            now = self.module.current_stream()
            x = each(self._sent, images)
            now.wait_stream(self.coming)
            each(lambda tensor: tensor.record_stream(now), x)
            outputs = self._compute(to_native(x), types)
            self.going.wait_stream(now)
            arrived = self.module.Event(blocking=True)  # spinning takes a core from the decoders
            with self.module.stream(self.going):
                there = {node: tuple(map(self._fetched, pair)) for node, pair in outputs.items()}
                arrived.record()
        return UnderWay(images, there, arrived)

    @settled
    def finish(self, batch: UnderWay, dtypes: Dtypes) -> dict[str, np.ndarray]:
        batch.arrived.synchronize()
        held = {
            node: is_held(to_numpy(largest.float()), dtypes[node]) for node, (_, largest) in batch.outputs.items()
        }
        rows = {node: exact_numpy(rows) for node, (rows, _) in batch.outputs.items()}
        if not all(held.values()):
            again = self.run(batch.images)
            rows |= {node: to_numpy(again[node]) for node, is_it in held.items() if not is_it}
        return rows

    def _sent(self, array: np.ndarray) -> torch.Tensor:
        with self.module.stream(self.coming):
            return from_numpy(array, self.device)

    def _fetched(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor.record_stream(self.going)
        there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return there.copy_(tensor, non_blocking=True)

    def _compute(self, x: Any, types: Mapping[str, torch.dtype]) -> Outputs:
        if not self.steady or isinstance(x, dict):
            return self._outputs(x, types)
        key = x.shape, x.dtype, *types.items()
        self.computed[key] = self.computed.get(key, 0) + 1
        if key not in self.recordings and self.computed[key] > RECORDED_AT:
            self.recordings[key] = self._recorded(x, types)
        recording = self.recordings.get(key)
        if recording is not None and recording.is_worth_tuning():
            recording = self.recordings[key] = self._recorded(x, types, tuned=True) or recording
        return self._outputs(x, types) if recording is None else recording(x)

    def _outputs(self, x: Any, types: Mapping[str, torch.dtype]) -> Outputs:
        outputs = self.network(x)
        return {node: _stored(from_native(outputs[node]), dtype, self.copies) for node, dtype in types.items()}

    def _recorded(
        self, x: torch.Tensor, types: Mapping[str, torch.dtype], tuned: bool = False
    ) -> Recording | None:
        try:
            recording = Recording(lambda rows: self._outputs(rows, types), x, tuned)
            expected, result = map(_rows_of, (self._outputs(x, types), recording(x)))
            if (wrong := differing(expected, result, torch.float32)) is None:
                return recording
            reason = f"{wrong[0]} is {wrong[1]:.2%} off"
        except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
        LOG.warning("torch %s: a trunk is not recorded on %s: %s", torch.__version__, self.place.device, reason)
        return None


class Recording:
    """A computation that is played back on whatever is put where its input was."""

    def __init__(self, compute: Callable[[torch.Tensor], Outputs], x: torch.Tensor, tuned: bool) -> None:
        self.is_tuned, self.since = tuned, time.monotonic()
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = tuned
        try:
            self._record(compute, x)
        finally:
            torch.backends.cudnn.benchmark = before

    def _record(self, compute: Callable[[torch.Tensor], Outputs], x: torch.Tensor) -> None:
        self.input = torch.empty_like(x, memory_format=torch.preserve_format).copy_(x)
        side = torch.cuda.Stream(x.device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up the first time, which cannot be recorded
            compute(self.input)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.outputs = compute(self.input)

    def is_worth_tuning(self) -> bool:
        """Once, when it has been of use for long enough."""
        if self.is_tuned or time.monotonic() - self.since < TUNED_AFTER:
            return False
        self.is_tuned = True
        return True

    def __call__(self, x: torch.Tensor) -> Outputs:
        self.input.copy_(x)
        self.graph.replay()
        # the next time writes over them
        return {node: (rows.clone(), largest.clone()) for node, (rows, largest) in self.outputs.items()}


def _rows_of(outputs: Outputs) -> dict[str, torch.Tensor]:
    return {node: rows for node, (rows, _) in outputs.items()}


def _stored(rows: torch.Tensor, dtype: torch.dtype, copy: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """`(n, ..., c)` -> the same in `dtype`, and `(c,)`."""
    largest = torch.linalg.vector_norm(rows, torch.inf, dim=tuple(range(rows.ndim - 1)))
    return rows.to(dtype, copy=copy).contiguous(), largest
