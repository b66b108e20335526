"""The training of heads side by side: those that see the same rows in the same order, and differ in learning rate
and weight decay.

Invariant: each becomes what it becomes when it is trained alone, to rounding; it keeps its own best epoch, and is
no longer followed where it is to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def side_by_side(
    heads_of: Sequence[tuple[TrainingJob, Stage]],
    graph: Graph,
    chain: Chain,
    feeds: Feeds,
    advance: Callable[..., None],
) -> list[Trained] | None:
    """What becomes of heads that differ in learning rate and weight decay; None where the backend has no way to
    train them at once. One that is to stop is trained on with the others, and no longer followed."""
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
    for epoch, share in enumerate(stage.shares):
        result = train.train(heads, train.order(stage.batch_size, stage.seed, epoch), share, epoch)
        logits, more = val.logits(heads)  # (n, heads, classes)
        measured = [measure(job.objective, logits[:, k], val.targets, val_data) for k in range(len(jobs))]
        seconds = (result.seconds + more).shared(len(jobs))
        kept, under_way = [], [k for k, head in enumerate(followed) if not head.best.over]
        for k in under_way:
            head = followed[k]
            accuracy = None if job.objective.task == REGRESSION else float(result.accuracy[k])
            losses = result.losses[:, k, None]
            head.records.append(
                record_of(job.objective, epoch, losses, accuracy, measured[k], seconds, share * lr[k])
            )
            better = head.best.better(head.records[-1])
            last = head.best.over or epoch + 1 == stage.epochs
            if better or (last and head.params is None):
                kept.append(k)
            advance(stage.epochs - epoch if last else 1)
        _keep(heads, followed, kept, logits)
        if all(head.best.over for head in followed):
            break
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


def _keep(heads: Heads, followed: Sequence[_Head], numbers: Sequence[int], logits: np.ndarray) -> None:
    """Keep what the heads of these numbers are now. `logits`: `(n, heads, classes)`."""
    params = heads.params() if numbers else {}
    for k in numbers:
        followed[k].params = {name: values[k].copy() for name, values in params.items()}
        followed[k].outputs = logits[:, k].copy()


def _optimizer(job: TrainingJob) -> Optimizer:
    optimizer = job.settings.optimizer
    assert optimizer is not None and not isinstance(optimizer, str)
    return optimizer
