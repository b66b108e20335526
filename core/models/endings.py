"""What a classifier may end in behind its logits. Training and scores take logits; a module that ends in one of
these has it taken off, and it is put back only to compare what is left with the module itself.

Invariant: each keeps the order of the classes, so predictions stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    shares: np.ndarray = exponentials / exponentials.sum(-1, keepdims=True)
    return shares


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    logs: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logs


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    values: np.ndarray = np.exp(-np.logaddexp(0, -logits))  # of any size: exp alone overflows
    return values


ENDINGS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "": lambda logits: logits,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "sigmoid": _sigmoid,
}
SHARES = 1e-3  # of how far sums of probabilities are from 1 in half precision


def are_shares(rows: np.ndarray) -> bool:
    """Whether rows `(n, classes)` look like a softmax's: within [0, 1], with a sum of 1."""
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        return False
    inside = (rows >= 0).all() and (rows <= 1).all()
    return bool(inside and (np.abs(rows.sum(1) - 1) < SHARES).all())


def are_bounded(*runs: np.ndarray) -> bool:
    """Whether all rows lie within [0, 1], and are not the same for all samples, as a head that begins at zero
    has them."""
    rows = np.concatenate(runs)
    return bool((rows >= 0).all() and (rows <= 1).all() and np.ptp(rows, axis=0).max(initial=0) > 0)


APART = (
    "the classifiers at the end of {called}, {names}, read arrays of their own, and a fresh one takes one array: "
    "wrap a module that gives them side by side, with cut='its end'; or choose with cut= what a single one reads"
)


# What people call a linear layer at a module's end: the classifier, or a projection that encoders end in.
RANKINGS = ("classifier", "head", "fc", "logits")
PROJECTIONS = ("proj", "embed", "neck", "bottleneck")


def is_projection(path: str) -> bool:
    """Whether a layer is called like a projection, as the end of an encoder, which is no classifier."""
    return any(word in path.lower() for word in PROJECTIONS)


def is_ranking(path: str) -> bool:
    """Whether a layer is called like a classifier."""
    first, last = path.partition(".")[0], path.rpartition(".")[2]
    return any(word in last or word in first for word in RANKINGS)


T = TypeVar("T", bound=Hashable)


def reached(starts: Iterable[T], before: Callable[[T], Iterable[T]]) -> Iterator[T]:
    """All that is behind the starts, these too, each once. `before`: what one is made of."""
    waiting, seen = [*starts], set[T]()
    while waiting:
        if (place := waiting.pop()) not in seen:
            seen.add(place)
            yield place
            waiting += before(place)


def is_row(
    names: Iterable[str], taken: Iterable[T], made: Collection[T], before: Callable[[T], Iterable[T]]
) -> bool:
    """Whether one of several layers reads what is made of another's numbers, as in a row of residual blocks, of
    which none is a classifier. Where they are called classifiers, numbers of classes are refined. `names`: of the
    layers; `taken`: what they read; `made`: where their numbers are made."""
    return not any(map(is_ranking, names)) and any(place in made for place in reached(taken, before))
