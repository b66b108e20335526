"""What each mode of a trunk would take: seconds and bytes, from what `plan` measures on a few batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headstart.data import Dataset
from headstart.data.order import epoch_shape
from headstart.training.advice.candidates import Candidate
from headstart.training.advice.rule import CUT, FULL, LINEAR, SCRATCH, STAGED
from headstart.training.defaults import epochs_for
from headstart.training.plan import Plan, plan

STEPS = {LINEAR: 2000, CUT: 200, STAGED: 100, FULL: 100, SCRATCH: 200}
"""that a training is to have; of a linear head at most, as it stops by itself"""
EPOCHS = {LINEAR: (10, 100), CUT: (10, 40), STAGED: (5, 20), FULL: (5, 20), SCRATCH: (10, 40)}
"""within which the steps are rounded to epochs"""


def epochs_of(what: str, samples: int, batch_size: int) -> int:
    """How many epochs a mode is thought to be trained for: few steps an epoch take more epochs."""
    steps, _ = epoch_shape(samples, batch_size)
    return epochs_for(STEPS[what], steps, EPOCHS[what])


@dataclass(frozen=True)
class Cost:
    """What one mode takes on this machine."""

    seconds: float
    """of the extraction, where features are cached and not there yet, and of `epochs`"""
    nbytes: int
    """of the features in the store; 0 where none are"""
    epochs: int
    """in `staged` those of all of the network"""


def costs(candidate: Candidate, train: Dataset, options: Mapping[str, Any]) -> dict[str, Cost]:
    """Mode -> its cost. `options`: keyword arguments of `plan`, the size of a batch among them."""
    model = candidate.model
    first, last, earlier = model.graph.cuts()[0], model.default_cut, candidate.earlier
    named = dict.fromkeys(cut for cut in (first, earlier, last) if cut is not None)
    planned = plan(model, train, cuts=list(named), **options)
    epochs = {what: epochs_of(what, len(train), options["batch_size"]) for what in STEPS}
    head = _cached(planned, last, epochs[LINEAR])
    # behind the first cut is all of the network but its first layer
    whole = planned[first].uncached_epoch_seconds
    if model.home is not None:  # of which the first cut is the last: backward takes about twice what forward does
        whole += 2 * max(0.0, whole - planned[first].cached_epoch_seconds)
    found = {
        LINEAR: head,
        STAGED: Cost(head.seconds + epochs[STAGED] * whole, head.nbytes, epochs[STAGED]),
        FULL: Cost(epochs[FULL] * whole, 0, epochs[FULL]),
        SCRATCH: Cost(epochs[SCRATCH] * whole, 0, epochs[SCRATCH]),
    }
    if earlier is not None:
        found[CUT] = _cached(planned, earlier, epochs[CUT])
    return found


def _cached(planned: Plan, cut: str, epochs: int) -> Cost:
    row = planned[cut]
    return Cost(row.extraction_seconds + epochs * row.cached_epoch_seconds, row.nbytes, epochs)
