"""From what features tell to what each mode will come to, and from that to advice. Arithmetic only: no features,
no clock, no framework.

A mode's error is predicted as the linear head's held-out error times e to the power of a sum: coefficients, below,
of a few figures. They were fitted to what every mode came to in a few dozen small cases
(`benchmarks/advising.py`), and tested on data sets that they were not fitted to.

Invariant: what is advised is the first of the equally good: of modes whose predicted scores are within `EQUAL` of
the best, the one that takes the least time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LINEAR, CUT, STAGED, FULL, SCRATCH = MODES = ("linear", "cut", "staged", "full", "scratch")
"""what may be trained: the classifier on cached features; what is behind an earlier cut; the classifier, then all;
all, from the weights; all, from random ones"""
EQUAL = 0.005
"""of an error: less is no reason to train longer"""
DOUBT = 5
"""wrong answers that are added to each side where cuts are compared: a few more or less are luck"""
FLOOR = 1e-3
"""errors are never taken to be less: the logarithm of none is not"""
HALF = 0.5
"""of a sample, likewise: that none of so many was wrong says no more"""


@dataclass(frozen=True)
class Evidence:
    """What is known of one trunk and the data before anything is trained."""

    samples: int
    """to train on"""
    classes: int
    """or labels, or targets"""
    error: float
    """of a linear head on held-out samples, see `CutFigures.error`"""
    earlier_error: float
    """the least at the earlier cuts; `error` where none was looked at"""
    seen_error: float
    """of a linear head on the samples it has learnt from"""
    half_error: float
    """of a linear head that has learnt from half of the samples"""
    knn_error: float
    pretrained: bool
    confidence: float | None = None
    """of the trunk's own classifier, see `Familiarity`; None where it has none"""

    def figures(self) -> dict[str, float]:
        """What the coefficients are of; each about 0 where nothing is known, and about 1 where it tells a lot."""
        error = max(self.error, FLOOR)
        return {
            "constant": 1.0,
            "samples": math.log10(max(self.samples, 1) / 300),
            "earlier": math.log((self.earlier_error * self.samples + DOUBT) / (error * self.samples + DOUBT)),
            "slope": math.log(max(self.half_error, FLOOR) / error),
            "random": float(not self.pretrained),
        }


COEFFICIENTS: Mapping[str, Mapping[str, float]] = {
    CUT: {"constant": -0.10, "samples": 0.00, "earlier": 0.24, "slope": 0.05, "random": 0.17},
    STAGED: {"constant": -0.05, "samples": -0.10, "earlier": 0.44, "slope": -0.15, "random": 0.04},
    FULL: {"constant": -0.03, "samples": -0.13, "earlier": 0.72, "slope": -0.30, "random": 0.05},
    SCRATCH: {"constant": 0.41, "samples": -0.28, "earlier": 0.21, "slope": -0.53, "random": -0.65},
}
"""mode -> of each figure, added up in the exponent; LINEAR is what the others are compared with"""
SPREAD: Mapping[str, float] = {LINEAR: 0.16, CUT: 0.24, STAGED: 0.25, FULL: 0.23, SCRATCH: 0.66}
"""mode -> by how much the logarithm of its error was off, one standard deviation, on data sets that were left
out"""


def predicted_errors(
    evidence: Evidence,
    coefficients: Mapping[str, Mapping[str, float]] | None = None,
    spread: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Mode -> the error that it is expected to have on samples that it has not seen. `coefficients`, `spread`:
    None: ours.

    It is the mean of what the logarithm's spread allows, not its middle: of two modes that look alike, the one of
    which less is known is the worse bet.
    """
    coefficients, spread = (
        COEFFICIENTS if coefficients is None else coefficients,
        SPREAD if spread is None else spread,
    )
    figures = evidence.figures()
    error = max(evidence.error, FLOOR, HALF / max(evidence.samples, 1))
    errors = {LINEAR: error}
    for mode, weights in coefficients.items():
        exponent = sum(weight * figures[name] for name, weight in weights.items()) + spread[mode] ** 2 / 2
        errors[mode] = error * math.exp(min(max(exponent, -3.0), 3.0))
    return errors


@dataclass(frozen=True)
class Option:
    """One trunk in one mode."""

    trunk: str
    mode: str
    error: float
    """expected"""
    seconds: float
    within: bool = True
    """the budget"""


def advised(options: Sequence[Option]) -> Option | None:
    """The quickest of those that are expected to be as good as the best, within the budget; None where nothing
    is."""
    within = [option for option in options if option.within]
    if not within:
        return None
    least = min(option.error for option in within)
    return min((o for o in within if o.error <= least + EQUAL), key=lambda o: (o.seconds, o.error))


def pareto(options: Sequence[Option]) -> list[Option]:
    """Those that nothing is both quicker and better than, the quickest first."""
    front: list[Option] = []
    for option in sorted(options, key=lambda o: (o.seconds, o.error)):
        if not front or option.error < front[-1].error:
            front.append(option)
    return front


def middle(mode: str, error: float) -> float:
    """Of what `predicted_errors` expects in the mean, the error that as many such cases are above as below: its
    logarithm is what spreads evenly. That of a linear head is measured, and no such mean."""
    return error if mode == LINEAR else error * math.exp(-(SPREAD[mode] ** 2) / 2)


def range_of(mode: str, error: float) -> tuple[float, float]:
    """The ends of what 68 % of such cases come to, by how far predictions were off."""
    spread = math.exp(SPREAD[mode])
    return middle(mode, error) / spread, middle(mode, error) * spread


def doubt(mode: str, error: float, runner_up: Option | None) -> float | None:
    """How likely it is that the runner-up comes out better, from how far predictions were off, 0 to 1: it may be
    expected to, where what is advised is quicker. None where there is none."""
    if runner_up is None:
        return None
    apart = math.log(middle(runner_up.mode, max(runner_up.error, FLOOR)) / middle(mode, max(error, FLOOR)))
    together = math.hypot(SPREAD[mode], SPREAD[runner_up.mode])
    return 0.5 * math.erfc(apart / together / math.sqrt(2))
