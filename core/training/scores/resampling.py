"""How far a score may be off by the luck of the samples: the bootstrap's 95 % interval (Efron 1979, percentiles),
of one run, and of the difference of two runs on the same samples.

A score of which this is asked is a function of sums over the samples, so a resample is a number of times that each
sample counts. Samples that add the same to every sum are drawn together, by a multinomial: the same
distribution, and for a share of right answers two numbers, however many samples there are.

Where samples have groups (a patient, a place) whole groups are drawn, the cluster bootstrap (Davison and Hinkley
1997, 3.8): samples of one group are right and wrong together, and drawn one by one they would be taken for more
than they tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
TAIL = 2.5  # percent on each side
KINDS = 64  # of samples that add the same, up to which drawing how many of each is quicker than drawing samples
AT_ONCE = 1 << 18
"""samples that are drawn in one call: of few samples many resamples"""
LEAST_AT_ODDS = 6
"""on fewer samples, or groups, that only one of two runs has right no sign test reaches 5 %, whichever run they
are for"""

NO_SPREAD = "resampling shows no spread: every resample gives the same"

Statistic = Callable[[np.ndarray], np.ndarray]
"""float64 `(resamples, m)` sums -> `(resamples,)` scores; NaN where a resample has none"""


def interval(
    columns: np.ndarray, statistic: Statistic, seed: int = 0, groups: np.ndarray | None = None
) -> tuple[float, float] | None:
    """The 95 % interval of `statistic` of the columns' sums; None where there is no spread to tell it by.

    `columns`: float64 `(n, m)`, a row a sample. `groups`: `(n,)`, numbers or names: which samples are drawn
    together; None: each by itself. The same seed gives the same interval everywhere.
    """
    values = statistic(resampled_sums(of_groups(columns, groups), seed))
    values = values[np.isfinite(values)]
    if not len(values) or values.min() == values.max():
        return None
    low, high = np.percentile(values, (TAIL, 100 - TAIL))
    return float(low), float(high)


def of_groups(columns: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """float64 `(groups, m)`: the sum of each group's rows; `columns` where there are no groups."""
    if groups is None:
        return columns
    number = np.unique(groups, return_inverse=True)[1]
    return np.stack([np.bincount(number, column) for column in columns.T], 1)


def resampled_sums(columns: np.ndarray, seed: int) -> np.ndarray:
    """float64 `(RESAMPLES, m)`: the columns' sums over samples drawn with replacement."""
    n, rng = len(columns), np.random.default_rng(seed)
    kinds, counts = np.unique(columns, axis=0, return_counts=True)
    if len(kinds) <= KINDS:
        drawn = rng.multinomial(n, counts / n, size=RESAMPLES)
        return np.asarray(drawn @ kinds, np.float64)
    sums, step = np.empty((RESAMPLES, columns.shape[1])), max(1, AT_ONCE // n)
    for start in range(0, RESAMPLES, step):
        part = sums[start : start + step]
        drawn = rng.integers(0, n, (len(part), n))
        for k, column in enumerate(np.ascontiguousarray(columns.T)):
            part[:, k] = column[drawn].sum(1)
    return sums


def ratio(sums: np.ndarray) -> np.ndarray:
    """The statistic of a weighted mean, from two sums; NaN of a resample without weight."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1])


def exact_share(right: bool, samples: int) -> tuple[float, float]:
    """The exact binomial 95 % interval (Clopper and Pearson 1934) where all samples are right, or all wrong, of
    which resampling shows no spread."""
    end = (TAIL / 100) ** (1 / samples)
    return (end, 1.0) if right else (0.0, 1 - end)


@dataclass(frozen=True)
class Difference:
    """One run's score less another's, on the same samples."""

    value: float
    low: float
    high: float
    """ends of the 95 % interval of the paired bootstrap"""
    at_odds: float
    """samples on which the two differ; weighted, or in groups, as many equal ones as tell as much (Kish 1965):
    1,000 of which one has nearly all the weight are little more than one, and so are 1,000 of one group"""

    @property
    def is_noise(self) -> bool:
        """Whether the samples do not tell which of the two is better."""
        return self.low <= 0 <= self.high or self.at_odds < LEAST_AT_ODDS


def paired_difference(
    right: np.ndarray,
    other: np.ndarray,
    weights: np.ndarray | None = None,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Difference:
    """Of shares of right answers. `right`, `other`: bool `(n,)`, what each run has right of the same samples in
    the same order. `weights`: float `(n,)`, at least one above 0: how much each sample counts; None: all alike.
    `groups`: as of `interval`."""
    if weights is not None or groups is not None:
        ones = np.ones(len(right))
        terms, of_other = (np.stack([of, ones], 1) for of in (right, other))
        return paired_difference_of_ratios(terms, of_other, weights, seed, groups)
    gained, lost, n = int((right & ~other).sum()), int((other & ~right).sum()), len(right)
    shares = np.array([gained, lost, n - gained - lost]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=RESAMPLES)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / n, (TAIL, 100 - TAIL))
    return Difference((gained - lost) / n, float(low), float(high), gained + lost)


def paired_difference_of_ratios(
    terms: np.ndarray,
    other: np.ndarray,
    weights: np.ndarray | None = None,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Difference:
    """Of scores that are one sum over the samples, divided by another: shares, means, F1. `terms`, `other`: float
    `(n, 2)`, what each sample adds to the two sums in each run; the second of them is above 0. `weights`,
    `groups`: as of `paired_difference`."""
    w = np.ones(len(terms)) if weights is None else weights.astype(np.float64)
    if (terms[:, 1] == other[:, 1]).all():  # half the columns to draw
        columns = np.stack([w * (terms[:, 0] - other[:, 0]), w * terms[:, 1]], 1)
        sums, all_of = resampled_sums(of_groups(columns, groups), seed), columns.sum(0, keepdims=True)
        drawn, value = ratio(sums), ratio(all_of)
    else:
        columns = w[:, None] * np.concatenate([terms, other], 1)
        sums, all_of = resampled_sums(of_groups(columns, groups), seed), columns.sum(0, keepdims=True)
        drawn, value = (ratio(of[:, :2]) - ratio(of[:, 2:]) for of in (sums, all_of))
    low, high = np.nanpercentile(drawn, (TAIL, 100 - TAIL))
    at_odds = of_groups((w * (terms != other).any(1))[:, None], groups)
    squares = float((at_odds**2).sum())
    effective = float(at_odds.sum()) ** 2 / squares if squares else 0.0
    return Difference(float(value[0]), float(low), float(high), effective)
