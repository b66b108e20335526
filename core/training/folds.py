"""Cross-validation: each fold of the data is held out in turn, and the model that is returned is trained on all of
them, for as many epochs as served the folds best.

Invariant: no head has seen a sample that it is scored on. All trainings of one call, the folds' and the last one
on all of the data, have the same number of epochs at the same rates before them, which the number of all samples
decides; so that an epoch of a fold means the same to the last training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median_low
from typing import Any

import numpy as np

from headstart.common.errors import DataError, SettingError
from headstart.common.log import LOG
from headstart.data.annotations import MULTI
from headstart.data.door import as_data_set
from headstart.data.names import shown
from headstart.data.samples import Samples
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.features.trunk_keys import INPUT
from headstart.models import Model
from headstart.training.feeding import extracted
from headstart.training.finished import Finished
from headstart.training.history import History
from headstart.training.job import TrainingJob, job_of
from headstart.training.measured import measure
from headstart.training.observers import LogLine, Observers
from headstart.training.run import Run
from headstart.training.scores.fold_scores import FoldScores, fold_scores
from headstart.training.scores.outcome import Outcome
from headstart.training.settings import Settings
from headstart.training.stage import ALL_STAGE, HEAD_STAGE, Length
from headstart.training.stages import train_stages
from headstart.training.validation import validation_of


def in_folds(train: Any, val: Any, settings: Settings) -> tuple[Any, Any, Settings]:
    """Data that are cut into folds, and the settings that say how many: where the data came in folds, as many as
    these. Anything else as it is. SettingError where validation data are given as well, or came with them."""
    named = _in_own_folds(train)
    if named is not None:
        if val is not None:
            raise SettingError(
                f"val= with {named.name!r}, which came in folds (fold=): each is held out in turn, and nothing "
                "else validates; leave out val=, or pass data.without_folds(). Data to test on go to "
                "run.evaluate(test)"
            )
        numbers = named.fold_numbers(settings.folds, settings.seed)
        settings = replace(settings, folds=int(numbers.max()) + 1)
    if settings.folds is None:
        return train, val, settings
    return one_set(train, val, settings.folds), None, settings


def _in_own_folds(train: Any) -> Samples | None:
    """The samples to train on, where they came in folds. SettingError where they came with validation data as
    well."""
    if not isinstance(train, Samples):
        return None
    parts = train.parts
    to_train = parts.get("train", train)
    if to_train.annotations.folds is None:
        return None
    if "val" in parts:
        raise SettingError(
            f"{train.name!r} came in folds (fold=) and in the parts {', '.join(parts)}: either each fold is held "
            "out in turn, or val validates. Leave out fold= (--fold-column), or pass data.train"
        )
    return to_train


def one_set(train: Any, val: Any, folds: int) -> Any:
    """The data that are cut into folds. SettingError where validation data are given as well, or came with
    them."""
    if val is not None:
        raise SettingError(
            f"val= with folds={folds}: each fold is held out in turn, and nothing else validates; leave out val=, "
            "or folds=. Data to test on go to run.evaluate(test)"
        )
    train = as_data_set(train)
    if isinstance(train, Samples) and "val" in train.parts:
        raise SettingError(
            f"folds={folds} with {train.name!r}, which came in the parts {', '.join(train.parts)}: folds are cut "
            "of one set. Pass data.train, whose folds are then held out in turn, or leave out folds="
        )
    return train.train if isinstance(train, Samples) and train.parts else train


@dataclass(frozen=True)
class CrossValidated:
    """What the folds' trainings gave."""

    scores: FoldScores
    predictions: np.ndarray
    """float32 `(n, k)`, of all samples in their order, by the head that was not trained on them: logits, or
    numbers in their units; NaN of those that are in no fold"""
    ends: Mapping[str, int]
    """stage -> the median of the folds' best epochs"""
    held_out: np.ndarray
    """bool `(n,)`: which samples are in a fold; of the others nothing is predicted"""
    extraction: ExtractionStats | None = None
    """of all samples' features, where the folds read such"""

    def last(self, job: TrainingJob) -> TrainingJob:
        """The training on all of the data."""
        return replace(job, lengths={name: Length(end=end) for name, end in self.ends.items()})

    def completed(self, run: Run, job: TrainingJob, heads: int = 1) -> Run:
        """The run of this last training, with what the folds say. `heads`: of how many it is one."""
        predictions, samples = judged_of(self.predictions, self.held_out, job)
        threshold = job.objective.decided(predictions, samples)
        judged = (predictions, samples, threshold, job.objective.deviation)
        return replace(
            run,
            model=replace(run.model, threshold=threshold),
            folds=self.scores,
            validation=validation_of(*judged),
            outcome=Outcome(*judged, heads=heads),
            extraction=self.extraction or run.extraction,
            val=samples,
        )


def judged_of(predictions: np.ndarray, held_out: np.ndarray, job: TrainingJob) -> tuple[np.ndarray, Any]:
    """Of the samples that are in folds the predictions, and these samples."""
    if held_out.all():
        return predictions, job.train
    places = np.flatnonzero(held_out)
    return predictions[places], job.train.subset(places)


def cross_validated(model: Model, job: TrainingJob, seed: int) -> CrossValidated:
    """Train on all folds but one, for each of them, one after the other. `model`: that `job` was made of; `seed`:
    by which its samples are cut."""
    count = job.settings.folds
    assert count is not None
    extraction = _extracted(job)
    numbers = job.train.fold_numbers(count, seed)
    lengths = dict.fromkeys((HEAD_STAGE, ALL_STAGE), Length(samples=len(job.train)))
    done: list[tuple[Finished, ...]] = []
    predictions = np.full((len(job.train), len(job.train.classes)), np.nan, np.float32)
    for fold, (train, val) in enumerate(job.train.folds(count, seed)):
        called = f" ({job.train.fold_names[fold]})" if job.train.fold_names else ""
        LOG.info(
            "fold %d of %d%s: %d samples to train on, %d held out", fold + 1, count, called, len(train), len(val)
        )
        with naming_fold(job.train, fold):
            job_of_fold = job_of(model, train, val, replace(job.settings, folds=None))
        of_fold = replace(job_of_fold, lengths=lengths)
        with Observers([LogLine(staged=job.mode.then_all)]) as observers:
            done.append(train_stages(of_fold, observers))
        predictions[numbers == fold] = done[-1][-1].trained.predictions
    scores = scores_of_folds([stages[-1].trained.history for stages in done], predictions, numbers, job, seed)
    ends = {
        of_folds[0].stage.name: median_low(stage.trained.history.best_epoch for stage in of_folds)
        for of_folds in zip(*done, strict=True)
    }
    return CrossValidated(scores, predictions, ends, numbers >= 0, extraction)


@contextmanager
def naming_fold(data: Samples, fold: int) -> Iterator[None]:
    """Errors of what is trained on or held out there say where that is, if somebody knows the fold by its name."""
    try:
        yield
    except DataError as error:
        if not data.fold_names:
            raise
        raise DataError(f"where the fold {shown(data.fold_names[fold])} is held out: {error}") from error


def scores_of_folds(
    histories: Sequence[History], predictions: np.ndarray, numbers: np.ndarray, job: TrainingJob, seed: int
) -> FoldScores:
    """`histories`: of each fold's training; `predictions`: of all samples, by the head that was not trained on
    them; `numbers`: each sample's fold, -1: none. The best threshold is one for all folds, that of the run: one
    that each chose for itself would make their scores too good."""
    is_held_out = numbers >= 0
    sizes = np.bincount(numbers[is_held_out], minlength=len(histories)).tolist()
    scores = fold_scores(histories, sizes, seed)
    if names := job.train.fold_names:
        scores = replace(scores, names=names, always=int((~is_held_out).sum()), seed=0)
    objective = job.objective
    if objective.task != MULTI or not isinstance(objective.threshold, str):
        return scores
    threshold = objective.decided(*judged_of(predictions, is_held_out, job))
    decided, values = replace(objective, threshold=threshold), []
    for number in range(len(histories)):
        places = np.flatnonzero(numbers == number)
        samples = job.train.subset(places)
        values.append(measure(decided, predictions[places], decided.targets(samples), samples).score)
    return replace(scores, values=tuple(values))


def _extracted(job: TrainingJob) -> ExtractionStats | None:
    """Have the store hold what the folds and the last training read of it, by one pass over the data."""
    node = job.cut if job.mode.cached else job.settings.cut
    if node is None or not (job.mode.cached or node == INPUT) or isinstance(job.train, FeatureSet):
        return None
    return extracted(job, node)
