"""What a solver returns: a linear layer for each penalty, for the features as they were given, and how well each
does on samples that it was not solved for.

Penalties are of the *mean* loss: `sum(w * loss) / sum(w) + penalty * |W|^2` (ridge) or `+ penalty / 2 * |W|^2`
(logistic), over standardised features, so a penalty means the same however many samples there are and whatever the
features' units. A standardised row has a squared length of about d, the number of features, and that is what the
losses' curvature grows with: the paths by default are multiples of d.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import SettingError

HeldOut = Callable[[NDArray[np.intp], NDArray[np.float32]], None]
"""is told which samples, and their outputs `(penalties, samples, k)` by weights that have not seen them"""


@dataclass(frozen=True)
class LinearPath:
    """Linear layers, one for each penalty: outputs are `rows @ weight[i].T + bias[i]`."""

    penalties: NDArray[np.float64]
    """`(p,)`, in the order in which they were asked for"""
    weight: NDArray[np.float64]
    """`(p, k, d)`, for features that are not standardised"""
    bias: NDArray[np.float64]
    """`(p, k)`"""
    losses: NDArray[np.float64] | None
    """`(p,)`: the mean loss of samples by weights that have not seen them; None where nothing was held out"""
    held_out: NDArray[np.float32] | None
    """`(p, n, k)`: those outputs; None where they were not asked for"""

    @property
    def best(self) -> int:
        """The penalty of the least held-out loss, the largest of those that tie. SettingError where there is
        none."""
        if self.losses is None or not np.isfinite(self.losses).any():
            raise SettingError("no penalty is the best: nothing was held out, or no held-out loss is finite")
        losses = np.where(np.isfinite(self.losses), self.losses, np.inf)
        tied = np.flatnonzero(losses == losses.min())
        return int(tied[self.penalties[tied].argmax()])


def checked_penalties(penalties: object) -> NDArray[np.float64]:
    """float64 `(p,)`; SettingError unless they are finite and above 0."""
    numbers = np.atleast_1d(np.asarray(penalties, np.float64))
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all() or numbers.min() <= 0:
        raise SettingError(f"penalties={penalties!r}; expected finite numbers above 0")
    return numbers


def checked_weights(weights: np.ndarray | None, count: int) -> NDArray[np.float64]:
    """float64 `(count,)`, of mean 1, so that sums over samples stay what they are without weights; None: all
    alike. SettingError for a negative one, or where none is above 0."""
    if weights is None:
        return np.ones(count)
    numbers = np.asarray(weights, np.float64)
    if numbers.shape != (count,) or not np.isfinite(numbers).all() or numbers.min() < 0 or not numbers.any():
        raise SettingError(f"weights of shape {numbers.shape}; expected {count} numbers of 0 or more, not all 0")
    return np.asarray(numbers * (count / numbers.sum()))


def fold_list(folds: np.ndarray, count: int) -> list[NDArray[np.intp]]:
    """The positions of each fold that has samples. `folds`: int `(count,)`, which fold a sample is in; -1: it is
    in none, and is never held out. SettingError where fewer than two folds have any."""
    numbers = np.asarray(folds)
    if numbers.shape != (count,):
        raise SettingError(f"folds of shape {numbers.shape}; expected a fold for each of {count} samples")
    parts = [np.flatnonzero(numbers == fold) for fold in np.unique(numbers) if fold >= 0]
    if not parts or (len(parts) < 2 and len(parts[0]) == count):
        raise SettingError("every sample is in one fold; expected two or more, as the others are solved for")
    return parts
