"""What each mode of a trunk would take: seconds and bytes, from what `plan` measures on a few batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headstart.data import Dataset
from headstart.training.advice.candidates import Candidate
from headstart.training.advice.rule import CUT, FULL, LINEAR, SCRATCH, STAGED
from headstart.training.plan import Plan, plan

HEAD_EPOCHS, CUT_EPOCHS, ALL_EPOCHS, SCRATCH_EPOCHS = 40, 20, 10, 30
"""that the seconds are of: of a linear head on features, of more than that, of a pretrained network, of a new
one"""


@dataclass(frozen=True)
class Cost:
    """What one mode takes on this machine."""

    seconds: float
    """of the extraction, where features are cached and not there yet, and of `epochs`"""
    nbytes: int
    """of the features in the store; 0 where none are"""
    epochs: int
    epoch_seconds: float


def costs(candidate: Candidate, train: Dataset, options: Mapping[str, Any]) -> dict[str, Cost]:
    """Mode -> its cost. `options`: keyword arguments of `plan`."""
    model = candidate.model
    first, last, earlier = model.graph.cuts()[0], model.default_cut, candidate.earlier
    named = dict.fromkeys(cut for cut in (first, earlier, last) if cut is not None)
    planned = plan(model, train, cuts=list(named), **options)
    head = _cached(planned, last, HEAD_EPOCHS)
    # behind the first cut is all of the network but its first layer
    whole = planned[first].uncached_epoch_seconds
    found = {
        LINEAR: head,
        STAGED: Cost(head.seconds + ALL_EPOCHS * whole, head.nbytes, ALL_EPOCHS, whole),
        FULL: Cost(ALL_EPOCHS * whole, 0, ALL_EPOCHS, whole),
        SCRATCH: Cost(SCRATCH_EPOCHS * whole, 0, SCRATCH_EPOCHS, whole),
    }
    if earlier is not None:
        found[CUT] = _cached(planned, earlier, CUT_EPOCHS)
    return found


def _cached(planned: Plan, cut: str, epochs: int) -> Cost:
    row = planned[cut]
    seconds = row.extraction_seconds + epochs * row.cached_epoch_seconds
    return Cost(seconds, row.nbytes, epochs, row.cached_epoch_seconds)
