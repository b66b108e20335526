"""How many samples go through a trunk at once: a number, or "auto", which is what the device has room for.

A batch of the usual size keeps a CPU busy. A card is done with it before the next one is there; how many more it
can take follows from the memory that it has left, and from what lies there while a sample is computed.

Invariant: features do not depend on it, but for rounding, and it is in no key. It may be too large: what a device
has no room for is run in halves (`headstart.contract.halving`).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from headstart.common.errors import SettingError
from headstart.common.log import LOG
from headstart.common.sizes import binary_size
from headstart.contract import devices
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.graph import Graph

AUTO = "auto"
USUAL = 64
MOST = 256
"""by "auto": cards were seen to be kept busy by it"""
NUMBER_NBYTES = 4
"""of a number on the device, whatever it is computed in: float32 is what it may be on the way"""
COPIES = 3
"""of what lies there at once: batches that come and go, what libraries work in, gaps between. XLA's programs for a
CPU take a third (DenseNet-121) to two thirds (ConvNeXt-T) of what is reckoned so"""
SHARE = 0.5
"""of the free memory that batches may take; others compute there, too"""
HOST_NBYTES = 128 << 20
"""of a batch's samples and features in the host's memory, above which "auto" is no more than the usual number"""


def check_batch_size(batch_size: Any) -> None:
    """SettingError for what is neither a number of samples nor "auto"."""
    is_count = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool) and batch_size >= 1
    if not is_count and not (isinstance(batch_size, str) and batch_size == AUTO):
        raise SettingError(f"batch_size is {batch_size!r}; expected an integer of 1 or more, or 'auto'")


def samples_at_once(
    batch_size: int | str,
    graph: Graph,
    input_shape: Any,
    outputs: Collection[str],
    backend: Backend,
    place: Place,
) -> int:
    """The number that `batch_size` means for a graph whose parameters are on the device already, and whose nodes
    `outputs` are taken from there."""
    if not isinstance(batch_size, str):
        return int(batch_size)
    free = None if place.kind == devices.CPU else backend.memory(place)
    if free is None or graph.backend is not None:
        why = (
            "the usual number" if free is None else "the usual number, as nobody knows what a wrapped module takes"
        )
        LOG.info("batch size 'auto': %d samples at once on %s, %s", USUAL, place.device, why)
        return USUAL
    shapes = graph.shapes(input_shape)
    there = COPIES * NUMBER_NBYTES * most_numbers(graph, input_shape, outputs)
    here = math.prod(input_shape) + NUMBER_NBYTES * sum(math.prod(shapes[node]) for node in outputs)
    most = max(USUAL, min(MOST, _power_of_two(HOST_NBYTES // here)))
    size = min(most, _power_of_two(int(free * SHARE) // there))
    LOG.info(
        "batch size 'auto': %d samples at once on %s, of about %s each, with %s free",
        size,
        place.device,
        binary_size(there),
        binary_size(free),
    )
    return size


def most_numbers(graph: Graph, input_shape: tuple[int, ...], outputs: Collection[str]) -> int:
    """Of one sample, the numbers that lie on a device at once at most, while the graph is run a node at a time and
    drops what nobody needs any more."""
    shapes = graph.shapes(input_shape)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    there = most = sizes[graph.input]
    for node, done in graph.steps(outputs):
        there += sizes[node.name]
        scores = node.attrs["heads"] * shapes[node.name][0] ** 2 if node.op == "attention" else 0
        most = max(most, there + scores)
        there -= sum(sizes[name] for name in done)
    return most


def _power_of_two(count: int) -> int:
    """The largest that is no more than the count, and 1 at least."""
    return 1 << max(1, count).bit_length() - 1
