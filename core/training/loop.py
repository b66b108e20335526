"""One stage of a training, from its first epoch to its last: one loop for all modes and backends.

It knows neither modes nor caches, nor who watches: it trains a `Stage` on `Feeds`, tells `Observers` how far it
is, and returns the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from headstart.contract.running import Trainer
from headstart.data import Dataset
from headstart.data.annotations import REGRESSION
from headstart.features.feature_set import FeatureSet
from headstart.training.feeds import Feeds
from headstart.training.history import History, Record, Seconds
from headstart.training.measured import Measured, measure
from headstart.training.objective import Objective
from headstart.training.observers import Observers
from headstart.training.scores.multi import THRESHOLD
from headstart.training.scores.outcome import Outcome
from headstart.training.scores.result import headline
from headstart.training.stage import EpochEnd, Stage
from headstart.training.standing import Standing
from headstart.training.stopping import Best
from headstart.training.validation import Validation, validation_of


@dataclass(frozen=True)
class Trained:
    """The result of a stage."""

    params: dict[str, np.ndarray]
    """of what was trained, after the epoch that was kept"""
    history: History
    validation: Validation | None
    """what was right and wrong after that epoch; None where there were no validation data"""
    outcome: Outcome | None
    """the same, to be scored"""
    threshold: float = THRESHOLD
    """of labels: as asked for, or the best one"""
    predictions: np.ndarray | None = field(default=None, repr=False)
    """float32 `(n, k)`, of the validation data after that epoch: logits, or numbers in their units"""
    solved: Mapping[str, Any] | None = None
    """how the penalty of a head that was solved was chosen, JSON-able; None of what was trained step by step"""
    pruned: bool = False
    """whether it was ended before its time, as others were better; see `halving`"""


def run_stage(
    stage: Stage,
    trainer: Trainer,
    feeds: Feeds,
    observers: Observers,
    standing: Standing | None = None,
    keep: Callable[[Standing], None] | None = None,
) -> Trained:
    """Train for as many epochs as there are learning rates, or until the stage's monitor or an observer ends it.
    What the best epoch gave is what is returned; where nothing decides which that is, the last one. `standing`:
    how far the stage is, which the trainer goes on from. `keep` is told how far it is after each epoch."""
    standing, objective = standing or Standing(stage), stage.objective
    while not standing.over:
        epoch = len(standing.records)
        observers.begin(epoch)
        order, rates = feeds.train.order(stage.batch_size, stage.seed, epoch), stage.rates[epoch]
        record, outputs = run_epoch(trainer, feeds, objective, order, rates, epoch)
        end = EpochEnd(stage, record, rates, trainer)
        standing.add(end, outputs)
        del outputs  # what is not kept of it is not held while the next is computed
        standing.ended = observers.epoch(end)
        if keep is not None:
            keep(standing)
    params = trainer.params() if standing.params is None else standing.params
    return result_of(stage.plain(params), standing.history, objective, standing.outputs, feeds.val_data)


def history_of(records: list[Record], best: Best) -> History:
    """The epochs that were trained, the best of them marked."""
    return History(records, None if best.record is None else best.record.epoch)


def result_of(
    params: dict[str, np.ndarray],
    history: History,
    objective: Objective,
    outputs: np.ndarray | None,
    val: Dataset | FeatureSet | None,
    heads: int = 1,
) -> Trained:
    """The result, from the outputs for the validation data, float32 `(n, k)` as the trainer gives them; None where
    there were none. `params` and `outputs`: after the epoch that is kept. `heads`: how many were trained
    together, these being one's."""
    if outputs is None or val is None:
        return Trained(params, history, None, None, objective.decided(np.zeros((0, 0)), None))
    predictions = objective.predictions(outputs)
    threshold = objective.decided(predictions, val)
    judged = (predictions, val, threshold, objective.deviation)
    outcome = Outcome(*judged, heads=heads)
    return Trained(params, history, validation_of(*judged), outcome, threshold, predictions)


def run_epoch(
    trainer: Trainer, feeds: Feeds, objective: Objective, order: np.ndarray, rates: np.ndarray, epoch: int
) -> tuple[Record, np.ndarray | None]:
    """The epoch's record, and the outputs for the validation data after it. `epoch`: counted from 0."""
    result = feeds.train.train(trainer, order, rates, epoch)
    measured, outputs = Measured(), None
    if feeds.val is not None and feeds.val_data is not None:
        outputs, seconds = feeds.val.logits(trainer)
        measured = measure(objective, outputs, feeds.val.targets, feeds.val_data)
        result = replace(result, seconds=result.seconds + seconds)
    accuracy = None if objective.task == REGRESSION else result.accuracy
    return record_of(objective, epoch, result.losses, accuracy, measured, result.seconds, rates), outputs


def record_of(
    objective: Objective,
    epoch: int,
    losses: np.ndarray,
    accuracy: float | None,
    measured: Measured,
    seconds: Seconds,
    rates: np.ndarray,
) -> Record:
    """`losses`: float `(steps, outputs)`; `rates`: `(steps,)`."""
    means = losses.mean(0, dtype=np.float64).tolist()
    return Record(
        epoch + 1,
        means[0],
        accuracy,
        measured.loss,
        measured.accuracy,
        seconds,
        float(rates[-1]),
        tuple(map(float, losses[:, 0])),
        tuple(means[1:]),
        measured.score,
        headline(objective.task, len(objective.deviation or ())),
    )
