"""What heads side by side are judged on after an epoch: all of them on the same validation data, each on the fold
that was held out of its training, or none.

Invariant: what is measured of a head is of samples that it was not trained on, and of all of those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from headstart.contract.heads import Heads
from headstart.data import Dataset
from headstart.features.feature_set import FeatureSet
from headstart.training.feeds import FeatureFeed, Feed, Feeds
from headstart.training.history import Seconds
from headstart.training.measured import Measured, measure_heads
from headstart.training.objective import Objective


@dataclass(frozen=True)
class Judged:
    """Of heads after an epoch, by their numbers."""

    outputs: Mapping[int, np.ndarray] = field(default_factory=dict)
    """for each head's validation samples, float32 `(n, k)`, as a trainer gives them; none where there are no such
    samples"""
    measured: Mapping[int, Measured] = field(default_factory=dict)
    seconds: Seconds = field(default_factory=Seconds)


class Judge(Protocol):
    """Heads go by numbers, which stay theirs however many are still trained."""

    def judged(self, heads: Heads, trained: Sequence[int], numbers: Sequence[int]) -> Judged:
        """`trained`: the numbers of those that `heads` has, in its order; `numbers`: of those that are asked
        of."""

    def data(self, number: int) -> Dataset | FeatureSet | None:
        """A head's validation samples."""


def judge_of(objective: Objective, feeds: Feeds) -> Judge:
    """That of heads which are all validated on the data that the feeds have for it, if they have."""
    if feeds.val is None or feeds.val_data is None:
        return Unjudged()
    return OnValidation(objective, feeds.val, feeds.val_data)


class Unjudged:
    """Heads without validation samples."""

    def judged(self, heads: Heads, trained: Sequence[int], numbers: Sequence[int]) -> Judged:
        return Judged()

    def data(self, number: int) -> None:
        return None


@dataclass(frozen=True)
class OnValidation:
    """All heads on the same validation data."""

    objective: Objective
    feed: Feed
    samples: Dataset | FeatureSet

    def judged(self, heads: Heads, trained: Sequence[int], numbers: Sequence[int]) -> Judged:
        logits, seconds = self.feed.logits(heads)  # (n, heads, classes)
        places = [trained.index(number) for number in numbers]
        logits = logits if len(places) == logits.shape[1] else logits[:, places]
        measured = measure_heads(self.objective, logits, self.feed.targets, self.samples)
        outputs = {number: logits[:, place] for place, number in enumerate(numbers)}
        return Judged(outputs, dict(zip(numbers, measured, strict=True)), seconds)

    def data(self, number: int) -> Dataset | FeatureSet:
        return self.samples


@dataclass(frozen=True)
class OnFolds:
    """Each head on the fold that was held out of its training, and on nothing else."""

    objective: Objective
    feed: FeatureFeed
    """of all samples, in the order of their folds"""
    parts: Sequence[slice]
    """where each fold's samples lie"""
    samples: Sequence[Dataset | FeatureSet]
    """each fold's"""
    fold_of: Sequence[int]
    """the fold of each head, by its number"""

    def judged(self, heads: Heads, trained: Sequence[int], numbers: Sequence[int]) -> Judged:
        of_fold: dict[int, list[int]] = {}
        for number in numbers:
            of_fold.setdefault(self.fold_of[number], []).append(number)
        # as many heads of each fold as are trained of any, some twice if need be: compiled code sees one shape
        counts = np.bincount([self.fold_of[number] for number in trained])
        places = [[trained.index(number) for number in members] for members in of_fold.values()]
        asked = [[*members, *[members[0]] * (int(counts.max()) - len(members))] for members in places]
        logits, seconds = self.feed.logits_of(heads, [self.parts[fold] for fold in of_fold], asked)
        outputs, measured = {}, {}
        for (fold, members), of_part in zip(of_fold.items(), logits, strict=True):
            of_members, part = of_part[:, : len(members)], self.parts[fold]
            figures = measure_heads(self.objective, of_members, self.feed.targets[part], self.samples[fold])
            for place, number in enumerate(members):
                outputs[number], measured[number] = of_members[:, place], figures[place]
        return Judged(outputs, measured, seconds)

    def data(self, number: int) -> Dataset | FeatureSet:
        return self.samples[self.fold_of[number]]
