"""Heads of folds side by side: of a head of linear layers on cached features, the heads of all folds, of all
settings that are tried, are trained on the same rows, and what is held out of a head has weight 0 for it.

So rows are read once for all folds, and a head's batch is what is left of the batch of all. What they share is of
all samples: the map that standardises them, which knows no labels, the scale of targets that are numbers,
`pos_weight="balanced"`, and how often each of several labels comes, with which its bias starts. Class weights are
of each fold's own training part.

Where all samples of a class are in one fold, that map would tell them: it centres the others on one side, whose
steps away from the class are then steps towards it on the other side, though none of it was trained on. Such folds
are trained one after the other, each on its own part alone.

Invariant: a row that is held out of a head has no weight in any of its steps, and it is scored on just those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from headstart.common.log import LOG
from headstart.common.progress import track
from headstart.contract.heads import Chain, chain_of
from headstart.contract.running import Trainer
from headstart.data import Dataset
from headstart.data.untrained import any_in_one_fold
from headstart.features.feature_set import FeatureSet
from headstart.training.checks import check_data
from headstart.training.feature_feeds import Resident, Streamed
from headstart.training.feeding import Fed, from_cache
from headstart.training.feeds import EpochResult, FeatureFeed, Feeds
from headstart.training.folds import CrossValidated, naming_fold, scores_of_folds
from headstart.training.frozen_trunk import check_trunk
from headstart.training.history import Seconds
from headstart.training.job import TrainingJob
from headstart.training.judging import OnFolds
from headstart.training.loop import Trained
from headstart.training.observers import EpochCallback, Observers
from headstart.training.sample_weights import check_learnable, sample_weights
from headstart.training.side_by_side import most_at_once, side_by_side
from headstart.training.stage import HEAD_STAGE, Stage
from headstart.training.stages import head_stage, train_stage

Member = tuple[int, int]
"""a head: the number of its job, and its fold"""


def cross_validated_heads(
    job: TrainingJob, jobs: Sequence[TrainingJob]
) -> tuple[list[CrossValidated], int] | None:
    """What the folds gave for each of `jobs`, which are `job` with other rates, weight decays and seeds, and how
    many heads were trained at once; None where what they train is no chain on cached features, some of its
    parameters have rates of their own, or a class is in one fold alone. All of them have the folds that `job`
    says."""
    chain, cut, s = _chain(job), job.cut, job.settings
    if chain is None or cut is None or s.solver is not None or s.lr_scale is not None:
        return None
    if any_in_one_fold(job.train, job.train.fold_numbers(s.folds, s.seed)):
        LOG.info("a class is in one fold alone: folds are trained one after the other, each by its own part")
        return None
    graph = job.model.graph.after(cut, job.model.input_shape)
    folded = FoldedFeatures(job, cut)
    stages = [head_stage(of, graph, folded.source.standardization) for of in jobs]
    if any(stage.kept for stage in stages):
        return None
    trained: dict[Member, Trained] = {}
    at_once, count = 1, len(folded.parts)
    with track(f"{count} folds", count * sum(stage.epochs for stage in stages)) as advance:
        for group in _groups(jobs, count, most_at_once(graph)):
            heads = _together(group, jobs, stages, chain, folded, advance)
            if heads is None:
                heads = [_alone(member, jobs, stages, folded, advance) for member in group]
            else:
                at_once = max(at_once, len(group))
            trained |= zip(group, heads, strict=True)
    check_trunk(job.model, cut, job.model.params, folded.source.trunk, job.place.precision)
    return [folded.result([trained[i, fold] for fold in range(count)]) for i in range(len(jobs))], at_once


class FoldedFeatures:
    """A job's samples in the order of their folds, and the rows of their features."""

    def __init__(self, job: TrainingJob, cut: str) -> None:
        """`job`: whose settings say how many folds; its features are extracted where they are missing."""
        assert job.settings.folds is not None
        self.job, self.numbers = job, job.train.fold_numbers(job.settings.folds, job.settings.seed)
        self.order = np.argsort(self.numbers, kind="stable")
        self.data = job.train.subset(self.order)
        never = int((self.numbers < 0).sum())
        stops = (never + np.cumsum(np.bincount(self.numbers[self.order[never:]]))).tolist()
        self.parts = [slice(start, stop) for start, stop in zip([never, *stops[:-1]], stops, strict=True)]
        """where each fold's samples lie, behind those that are in none"""
        # of augmented views, what is held out is seen as it is
        plain = self.data if job.settings.views is not None else None
        # the map that standardises goes by what the data say: class weights come of labels, held out ones too
        self.source: Fed = from_cache(replace(job, train=self.data, val=plain, weights=self.data.weights), cut)
        feeds = self.source.feeds
        train, held_out = feeds.train, feeds.val or feeds.train
        assert isinstance(train, Resident | Streamed) and isinstance(held_out, Resident | Streamed)
        self.train, self.held_out = train, held_out

    @cached_property
    def weights(self) -> np.ndarray:
        """float32 `(n, folds)`: how much each sample counts for the heads of each fold, 0 in that fold. DataError
        where what is left of a fold cannot be trained on."""
        columns = np.zeros((len(self.data), len(self.parts)), np.float32)
        for fold, part in enumerate(self.parts):
            places = np.delete(np.arange(len(self.data)), part)
            learnt = self.data.subset(places)
            with naming_fold(self.job.train, fold):
                check_data(self.job.model, learnt, "train")
                of_fold = sample_weights(learnt, self.job.settings.class_weights)
                check_learnable(learnt, of_fold)
            columns[places, fold] = 1.0 if of_fold is None else of_fold
        return columns

    @cached_property
    def sets(self) -> list[Dataset | FeatureSet]:
        """Each fold's samples. DataError where none of them counts."""
        sets = [self.data.subset(np.arange(part.start, part.stop)) for part in self.parts]
        for fold, of_fold in enumerate(sets):
            with naming_fold(self.job.train, fold):
                check_data(self.job.model, of_fold, "val")
        return sets

    def result(self, trained: Sequence[Trained]) -> CrossValidated:
        """Of the heads of each fold, of one job."""
        predictions = np.full((len(self.data), len(self.data.classes)), np.nan, np.float32)
        for head, part in zip(trained, self.parts, strict=True):
            predictions[self.order[part]] = head.predictions
        histories = [head.history for head in trained]
        scores = scores_of_folds(histories, predictions, self.numbers, self.job, self.job.settings.seed)
        ends = {HEAD_STAGE: scores.median_epoch}
        return CrossValidated(scores, predictions, ends, self.numbers >= 0, self.source.extraction)


def _chain(job: TrainingJob) -> Chain | None:
    if not job.mode.cached or job.mode.then_all or job.cut is None:
        return None
    return chain_of(job.model.graph.after(job.cut, job.model.input_shape))


def _groups(jobs: Sequence[TrainingJob], folds: int, room: int) -> Iterator[list[Member]]:
    """Heads of one seed, which see the same rows in the same order, and of them so many at once as there is room
    for."""
    by_seed: dict[int, list[Member]] = {}
    for i, job in enumerate(jobs):
        by_seed.setdefault(job.settings.seed, []).extend((i, fold) for fold in range(folds))
    for members in by_seed.values():
        yield from (members[k : k + room] for k in range(0, len(members), room))


def _together(
    group: Sequence[Member],
    jobs: Sequence[TrainingJob],
    stages: Sequence[Stage],
    chain: Chain,
    folded: FoldedFeatures,
    advance: Callable[..., None],
) -> list[Trained] | None:
    """None where the backend has no way to train them at once."""
    if len(group) == 1:
        return None
    fold_of = [fold for _, fold in group]
    judge = OnFolds(folded.job.objective, folded.held_out, folded.parts, folded.sets, fold_of)
    pairs = [(jobs[i], stages[i]) for i, _ in group]
    return side_by_side(pairs, chain, folded.source.feeds, advance, judge, folded.weights[:, fold_of])


def _alone(
    member: Member,
    jobs: Sequence[TrainingJob],
    stages: Sequence[Stage],
    folded: FoldedFeatures,
    advance: Callable[..., None],
) -> Trained:
    i, fold = member
    train, val = _Learnt(folded.train, folded.weights[:, fold]), _HeldOut(folded.held_out, folded.parts[fold])
    feeds = Feeds(train, val, folded.data, folded.sets[fold])
    with Observers([EpochCallback(lambda stage, record: advance())]) as observers:
        trained = train_stage(jobs[i], stages[i], feeds, observers, about={})
    advance(stages[i].epochs - len(trained.history))
    return trained


class _Learnt:
    """A feed of all samples, to train the heads of one fold."""

    def __init__(self, feed: FeatureFeed, weights: np.ndarray) -> None:
        self.feed, self.weights, self.targets = feed, weights, feed.targets

    def order(self, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        return self.feed.order(batch_size, seed, epoch)

    def train(self, trainer: Trainer, order: np.ndarray, rates: np.ndarray, epoch: int) -> EpochResult:
        return self.feed.train(trainer, order, rates, epoch, self.weights)

    def logits(self, trainer: Trainer) -> tuple[np.ndarray, Seconds]:
        return self.feed.logits(trainer)


class _HeldOut:
    """A feed of the samples of one fold, which are only evaluated."""

    def __init__(self, feed: FeatureFeed, part: slice) -> None:
        self.feed, self.part, self.targets = feed, part, feed.targets[part]

    def order(self, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        raise AssertionError("held out")

    def train(self, trainer: Trainer, order: np.ndarray, rates: np.ndarray, epoch: int) -> EpochResult:
        raise AssertionError("held out")

    def logits(self, trainer: Trainer) -> tuple[np.ndarray, Seconds]:
        (logits,), seconds = self.feed.logits_of(trainer, [self.part], [None])
        return logits, seconds
