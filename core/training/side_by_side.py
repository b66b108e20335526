"""The training of heads side by side: those that see the same rows in the same order, and differ in learning rate
and weight decay.

Invariant: each becomes what it becomes when it is trained alone, to rounding; it keeps its own best epoch, and is
no longer followed where it is to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headstart.contract.heads import Chain, Heads, HeadsRecipe
from headstart.contract.optimizers import Optimizer
from headstart.data.annotations import REGRESSION
from headstart.graph import Graph
from headstart.training.feeds import Feeds
from headstart.training.history import Record
from headstart.training.job import TrainingJob
from headstart.training.loop import Trained, history_of, record_of, result_of
from headstart.training.measured import measure
from headstart.training.stage import Stage
from headstart.training.stopping import Best

FEWER, WORTH = 0.75, 2e10
"""Heads that have stopped are dropped where at most such a share of those in the product is left, and where that
saves so many multiply-adds at least: a narrower product is another program, and making it takes JAX and TensorFlow
0.7 s of a core. No clock decides, so that a sweep done twice gives the same bits."""


def side_by_side(
    heads_of: Sequence[tuple[TrainingJob, Stage]],
    graph: Graph,
    chain: Chain,
    feeds: Feeds,
    advance: Callable[..., None],
) -> list[Trained] | None:
    """What becomes of heads that differ in learning rate and weight decay; None where the backend has no way to
    train them at once. One that is to stop is no longer followed, and trained on with the others until so few are
    followed that it pays to go on with these alone."""
    job, stage = heads_of[0]
    jobs = [of for of, _ in heads_of]
    train, val, val_data = feeds.train, feeds.val, feeds.val_data
    assert val is not None and val_data is not None
    optimizers = [_optimizer(of) for of in jobs]
    lr, decay = (np.array([getattr(o, name) for o in optimizers], np.float32) for name in ("lr", "weight_decay"))
    stacked = {name: np.repeat(value[None], len(jobs), 0) for name, value in stage.params.items()}
    recipe = HeadsRecipe(optimizers[0], lr, decay, job.objective.loss)
    heads: Heads | None = job.backend.heads(chain, stacked, recipe, job.place)
    if heads is None:
        return None
    followed = [_Head(Best(of.monitor)) for _, of in heads_of]
    trained = list(range(len(jobs)))
    """the heads that are trained, in their order on the device"""
    # forward, and back to the weights and to what came in
    work = 3 * sum(value.size for value in stage.params.values()) * len(train.targets)
    """multiply-adds of a head in an epoch, as near as it matters"""
    for epoch, share in enumerate(stage.shares):
        under_way = [k for k in trained if not followed[k].best.over]
        if not under_way:
            break
        saved = (len(trained) - len(under_way)) * (stage.epochs - epoch) * work
        if len(under_way) <= FEWER * len(trained) and saved >= WORTH:
            heads.keep([trained.index(k) for k in under_way])
            trained = under_way
        result = train.train(heads, train.order(stage.batch_size, stage.seed, epoch), share, epoch)
        logits, more = val.logits(heads)  # (n, heads, classes)
        seconds, kept = (result.seconds + more).shared(len(trained)), []
        for k in under_way:
            head, place = followed[k], trained.index(k)
            accuracy = None if job.objective.task == REGRESSION else float(result.accuracy[place])
            losses = result.losses[:, place, None]
            measured = measure(job.objective, logits[:, place], val.targets, val_data)
            head.records.append(
                record_of(job.objective, epoch, losses, accuracy, measured, seconds, share * lr[k])
            )
            better = head.best.better(head.records[-1])
            last = head.best.over or epoch + 1 == stage.epochs
            if better or (last and head.params is None):
                kept.append(k)
            advance(stage.epochs - epoch if last else 1)
        _keep(heads, {trained.index(k): followed[k] for k in kept}, logits)
    return [
        result_of(
            stage.plain(head.params or {}),
            history_of(head.records, head.best),
            job.objective,
            head.outputs,
            val_data,
            len(jobs),
        )
        for head in followed
    ]


@dataclass
class _Head:
    """One of the heads that are trained side by side, as far as it has come."""

    best: Best
    records: list[Record] = field(default_factory=list)
    params: dict[str, np.ndarray] | None = None
    """after its best epoch"""
    outputs: np.ndarray | None = None
    """float32 `(n, classes)`: for the validation data, after that epoch"""


def _keep(heads: Heads, kept: Mapping[int, _Head], logits: np.ndarray) -> None:
    """Keep what these are now, by their places on the device. `logits`: `(n, heads, classes)`."""
    params = heads.params() if kept else {}
    for place, head in kept.items():
        head.params = {name: values[place].copy() for name, values in params.items()}
        head.outputs = logits[:, place].copy()


def _optimizer(job: TrainingJob) -> Optimizer:
    optimizer = job.settings.optimizer
    assert optimizer is not None and not isinstance(optimizer, str)
    return optimizer
