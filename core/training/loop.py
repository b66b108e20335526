"""One stage of a training, from its first epoch to its last: one loop for all modes and backends.

It knows neither modes nor caches, nor who watches: it trains a `Stage` on `Feeds`, tells `Observers` how far it
is, and returns the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from headstart.contract.running import Trainer
from headstart.training import metrics
from headstart.training.feeds import EpochResult, Feed, Feeds
from headstart.training.history import History, Record
from headstart.training.observers import Observers
from headstart.training.scores.outcome import Outcome
from headstart.training.stage import EpochEnd, Stage
from headstart.training.validation import Validation, validation_of


@dataclass(frozen=True)
class Trained:
    """The result of a stage."""

    params: dict[str, np.ndarray]
    """of what was trained"""
    history: History
    validation: Validation | None
    """what was right and wrong after the last epoch; None where there were no validation data"""
    outcome: Outcome | None
    """the same, to be scored"""


def run_stage(stage: Stage, trainer: Trainer, feeds: Feeds, observers: Observers) -> Trained:
    """Train for as many epochs as there are learning rates, or until an observer ends it."""
    records: list[Record] = []
    logits = None
    for epoch, rates in enumerate(stage.rates):
        observers.begin(epoch)
        order = feeds.train.order(stage.batch_size, stage.seed, epoch)
        record, logits = run_epoch(trainer, feeds.train, feeds.val, order, rates, epoch)
        records.append(record)
        if observers.epoch(EpochEnd(stage, record, rates, trainer)):
            break
    validation = outcome = None
    if logits is not None and feeds.val_data is not None:
        validation = validation_of(logits, feeds.val_data)
        outcome = Outcome(logits, feeds.val_data)
    return Trained(trainer.params(), History(records), validation, outcome)


def run_epoch(
    trainer: Trainer, train: Feed, val: Feed | None, order: np.ndarray, rates: np.ndarray, epoch: int
) -> tuple[Record, np.ndarray | None]:
    """The epoch's record, and the logits of the validation data after it. `epoch`: counted from 0."""
    result = train.train(trainer, order, rates, epoch)
    if val is None:
        return record_of(result, rates, epoch), None
    logits, seconds = val.logits(trainer)
    loss = float(metrics.cross_entropy(logits, val.labels).mean())
    result = replace(result, seconds=result.seconds + seconds)
    return record_of(result, rates, epoch, loss, metrics.accuracy(logits, val.labels)), logits


def record_of(
    result: EpochResult,
    rates: np.ndarray,
    epoch: int,
    val_loss: float | None = None,
    val_accuracy: float | None = None,
) -> Record:
    means = result.losses.mean(0, dtype=np.float64).tolist()
    return Record(
        epoch + 1,
        means[0],
        result.accuracy,
        val_loss,
        val_accuracy,
        result.seconds,
        float(rates[-1]),
        tuple(map(float, result.losses[:, 0])),
        tuple(means[1:]),
    )
