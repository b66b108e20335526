"""What cross-validation says: a score for each fold, by a head that was trained on the others; their mean, and how
far it may be off."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median_low, stdev
from typing import Any

from headstart.common.text import ACCURACY
from headstart.training.history import History
from headstart.training.scores.result import HEADLINES

TAIL = 0.975
"""the interval's upper end, as a share of the distribution"""
SHARES = tuple(name for name in HEADLINES if "mae" not in name)
"""scores that are 1 at most; all are 0 at least"""


@dataclass(frozen=True)
class FoldScores:
    """The headline score of each fold, by the head that was trained on the other folds, after its best epoch. The
    fold chooses that epoch, as validation data do, so its score is a little too good where epochs differ much."""

    score: str
    """which it is: "accuracy", "micro_f1", "mae" or "standardised_mae" """
    values: tuple[float | None, ...]
    """of each fold; None where it is not finite, or cannot be told, as of a fold without any label"""
    losses: tuple[float | None, ...]
    """of each fold, as `val_loss` is; None where it is not finite"""
    best_epochs: tuple[int, ...]
    """the epoch, from 1, whose head was kept; in `staged` of the second stage"""
    sizes: tuple[int, ...]
    """the number of samples that were held out"""
    seed: int = 0
    """that `data.folds(len(values), seed)` cuts these folds by; 0 where they have names"""
    names: tuple[str, ...] = ()
    """what the folds are called in the data, which came in them; () where they were drawn"""
    always: int = 0
    """the number of samples that are in no fold, and in each training"""

    @property
    def called(self) -> tuple[str, ...]:
        """What each fold is called: by its name, or counted from 1."""
        return self.names or tuple(str(number) for number in range(1, len(self.values) + 1))

    @property
    def samples(self) -> int:
        """How many samples the last training has."""
        return sum(self.sizes) + self.always

    @property
    def mean(self) -> float | None:
        """The mean of the folds that have a score, each counting alike; None where none has."""
        return _mean(self.values)

    @property
    def loss(self) -> float | None:
        """The same of their losses."""
        return _mean(self.losses)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The ends of the mean's 95 % interval, by Student's t over the folds; None where fewer than two have a
        score, or all have the same. It is a guide: folds share what they are trained on, so their scores are not
        independent (Bengio and Grandvalet 2004), and the true one is somewhat wider."""
        known = [value for value in self.values if value is not None]
        if len(known) < 2 or not (spread := stdev(known)):
            return None
        from scipy.special import stdtrit  # a tenth of a second, for those who need it

        mean, half = fmean(known), float(stdtrit(len(known) - 1, TAIL)) * spread / math.sqrt(len(known))
        return max(0.0, mean - half), min(mean + half, 1.0 if self.score in SHARES else math.inf)

    @property
    def median_epoch(self) -> int:
        """The median of the best epochs, of an even number the lower of the two in the middle."""
        return median_low(self.best_epochs)

    @property
    def diverged(self) -> bool:
        """Whether a fold's loss is not finite, so that the mean says little."""
        return None in self.losses

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "score": self.score,
            "mean": self.mean,
            "interval": None if self.interval is None else list(self.interval),
            "loss": self.loss,
            "values": list(self.values),
            "losses": list(self.losses),
            "best_epochs": list(self.best_epochs),
            "sizes": list(self.sizes),
            "seed": self.seed,
            **({"names": list(self.names)} if self.names else {}),
            **({"always": self.always} if self.always else {}),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> FoldScores:
        """The inverse of `as_dict`. ValueError for what cannot be."""
        values, losses, epochs, sizes = (
            tuple(saved[name]) for name in ("values", "losses", "best_epochs", "sizes")
        )
        if not len(values) == len(losses) == len(epochs) == len(sizes) >= 2 or min(epochs) < 1:
            raise ValueError("folds are no scores of two folds or more")
        names, always = tuple(saved.get("names") or ()), saved.get("always") or 0
        if (names and not len(set(names)) == len(names) == len(values)) or always < 0:
            raise ValueError("folds have other names than scores")
        return cls(saved["score"], values, losses, epochs, sizes, saved["seed"], names, always)


def figures_of(folds: FoldScores) -> dict[str, Any]:
    """JSON-able: the validation figures of a run with folds, by the names that those of other runs have."""
    return {
        "val_score": folds.mean,
        "val_accuracy": folds.mean if folds.score == ACCURACY else None,
        "val_loss": folds.loss,
        "folds": folds.as_dict(),
    }


def fold_scores(histories: Sequence[History], sizes: Sequence[int], seed: int) -> FoldScores:
    """`histories`: of each fold's training, of which the best epoch counts."""
    best = [history.best for history in histories]
    return FoldScores(
        best[0].score,
        tuple(_finite(record.val_score) for record in best),
        tuple(_finite(record.val_loss) for record in best),
        tuple(history.best_epoch for history in histories),
        tuple(sizes),
        seed,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
