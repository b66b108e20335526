"""How well a model does on labelled samples: what `run.evaluate` gives, and how it looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headstart.common.table import Table
from headstart.data.copies import groups_cut
from headstart.data.samples import Samples
from headstart.training.scores import Scores
from headstart.training.scores.outcome import Outcome
from headstart.training.tables import classes_table, confusions_table, misses_table, scores_table
from headstart.training.validation import Validation

CONFUSIONS = 10


@dataclass(frozen=True)
class Evaluation:
    """How well a model does on labelled samples."""

    samples: int
    loss: float
    """mean cross-entropy; of numbers the mean loss of the standardised ones. Where samples have weights, it is
    weighted, as all figures here are"""
    accuracy: float | None
    """share of the samples whose class has the largest logit, or whose labels are all right; None of numbers"""
    classes: tuple[str, ...] = field(repr=False)
    validation: Validation = field(repr=False)
    """which class was taken for which, and the worst mistakes"""
    outcome: Outcome = field(repr=False)
    worst_names: tuple[str, ...] = field(default=(), repr=False)
    """what the samples of `validation.misses` are called: their files, where they have such"""
    trained_on: int | None = None
    """samples that are exact copies of what the run was trained on; None where that is not known"""

    @property
    def scores(self) -> Scores:
        """All scores, with an interval and a row a class; computed at the first call."""
        return self.outcome.scores

    @property
    def confusions(self) -> list[dict[str, Any]]:
        """{"true", "predicted", "count", "of"}: classes taken for each other, most often first; "of" so many."""
        return self.validation.confusions(self.classes)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "samples": self.samples,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "trained_on": self._trained_on(),
            "classes": list(self.classes),
            "scores": self.scores.as_dict(),
            "confusions": self.confusions,
            "validation": self.validation.as_dict(),
        }

    def as_test(self, test: Samples, *seen: Samples | None) -> dict[str, Any]:
        """`as_dict`, of the samples `test` beside those `seen` in training and validation: `of_seen_groups` where
        some are of groups of these."""
        of_groups = len(groups_cut(test, *seen))
        return {**self.as_dict(), **({"of_seen_groups": of_groups} if of_groups else {})}

    def _trained_on(self) -> dict[str, Any] | None:
        if self.trained_on is None:
            return None
        return {"samples": self.trained_on, "share": self.trained_on / max(1, self.samples)}

    def as_tables(self) -> Sequence[Table]:
        """Scores, classes, and the largest confusions, or of several labels or numbers a sample the worst samples,
        if there are any."""
        confusions = self.confusions[:CONFUSIONS]
        tables = [scores_table(self.scores, bool(self.validation.weights))]
        tables += [classes_table(self.scores)] if self.scores.per_class else []
        if misses := self.validation.misses[:CONFUSIONS]:
            tables.append(misses_table(misses, self.worst_names, self.scores.task))
        return [*tables, confusions_table(confusions)] if confusions else tables
