"""What a model made of labelled samples, scored when somebody asks: training takes no longer for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headstart.training.scores.multi import THRESHOLD
from headstart.training.scores.result import Scores, headline, nothing
from headstart.training.scores.scoring import scores_of

KEPT_NBYTES = 256 << 20
"""of outputs that are kept until they are scored; larger ones are scored at once and let go of"""


class Outcome:
    """Holds the outputs until they are scored, then the scores."""

    def __init__(
        self,
        outputs: np.ndarray,
        data: Any,
        threshold: float = THRESHOLD,
        deviation: Sequence[float] | None = None,
        heads: int = 1,
    ) -> None:
        """`outputs`: of the samples of `data`, a Dataset or FeatureSet, in their order; see `scores_of`, which has
        `threshold` and `deviation` too. `heads`: how many were trained together, this one of them; where the
        outputs of all are too large to keep, scoring each would take longer than training it, and none is."""
        self._asked: tuple[Any, ...] | None = (data.task, outputs, data.labels, data.classes, data.weights)
        self._threshold, self._deviation, self._groups = threshold, deviation, data.annotations.groups
        self._scores: Scores | None = None
        if heads * outputs.nbytes <= KEPT_NBYTES:
            return
        if heads == 1:
            self._score()
            return
        reason = "not kept of so many heads; run.evaluate(val) computes it"
        name = headline(data.task, outputs.shape[1])
        self._asked, self._scores = None, nothing(data.task, len(outputs), (name,), reason)

    @classmethod
    def known(cls, scores: Scores) -> Outcome:
        """Of scores that are there."""
        outcome = cls.__new__(cls)
        outcome._asked, outcome._scores = None, scores
        return outcome

    @property
    def scores(self) -> Scores:
        """Computed at the first call."""
        return self._scores or self._score()

    def _score(self) -> Scores:
        assert self._asked is not None
        settings = {"threshold": self._threshold, "deviation": self._deviation, "groups": self._groups}
        self._scores = scores_of(*self._asked, **settings)
        self._asked = None
        return self._scores
