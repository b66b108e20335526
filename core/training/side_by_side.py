"""The training of heads side by side: those that see the same rows in the same order, and differ in learning rate
and weight decay.

Invariant: each becomes what it becomes when it is trained alone, to rounding; it keeps its own best epoch, and is
no longer followed where it is to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from headstart.contract.heads import Chain, Heads, HeadsRecipe
from headstart.data.annotations import REGRESSION
from headstart.graph import Graph
from headstart.training.feature_feeds import Resident, Streamed
from headstart.training.feeds import Feeds
from headstart.training.halving import Race
from headstart.training.history import Record
from headstart.training.job import TrainingJob
from headstart.training.judging import Judge, judge_of
from headstart.training.loop import Trained, history_of, record_of, result_of
from headstart.training.measured import Measured
from headstart.training.stage import Stage
from headstart.training.stopping import Best

FEWER, WORTH = 0.75, 5e10
"""Where a narrower product is another program, heads that have stopped are dropped if at most such a share of
those in the product is left, and if that saves so many multiply-adds in as many epochs as there may be: making
it takes JAX and TensorFlow 0.6 s of a core, in which they do 2e10, and heads seldom train for as long as they
may. Elsewhere they are dropped at once: that takes as long as one head's share of an epoch. No clock decides, so
that a sweep done twice gives the same bits."""


MAX_NBYTES = 1 << 30
"""of the parameters that are trained side by side; what an optimiser keeps comes to it"""


def most_at_once(graph: Graph) -> int:
    """How many heads there is room for."""
    nbytes = sum(4 * int(np.prod(shape)) for shape in graph.param_shapes().values())
    return max(1, MAX_NBYTES // max(1, nbytes))


def side_by_side(
    heads_of: Sequence[tuple[TrainingJob, Stage]],
    chain: Chain,
    feeds: Feeds,
    advance: Callable[..., None],
    judge: Judge | None = None,
    weights: np.ndarray | None = None,
    halving: bool = False,
) -> list[Trained] | None:
    """What becomes of heads that differ in learning rate and weight decay, and in what they may be trained on;
    None where the backend has no way to train them at once. One that is to stop is no longer followed, and trained
    on with the others until so few are followed that it pays to go on with these alone.

    `judge`: what each is validated on; None: what the feeds have for it. `weights`: float32 `(n, h)`, how much
    each training sample counts for each head; None: for all alike, as the feeds have it. `halving`: a head is to
    stop as well where others were better; see `Race`.
    """
    job, jobs = heads_of[0][0], [of for of, _ in heads_of]
    stage = max((stage for _, stage in heads_of), key=lambda stage: stage.epochs)
    train, judge = feeds.train, judge or judge_of(job.objective, feeds)
    assert isinstance(train, Resident | Streamed)
    optimizers = [stage.optimizer for _, stage in heads_of]
    lr, decay = (np.array([getattr(o, name) for o in optimizers], np.float32) for name in ("lr", "weight_decay"))
    stacked = {name: np.repeat(value[None], len(jobs), 0) for name, value in stage.params.items()}
    recipe = HeadsRecipe(optimizers[0], lr, decay, job.objective.loss, stage.seed)
    heads: Heads | None = job.backend.heads(chain, stacked, recipe, job.place)
    if heads is None:
        return None
    followed = [_Head(Best(of.monitor), of.epochs) for _, of in heads_of]
    race = Race({k: head.best for k, head in enumerate(followed)}, stage.epochs, halving)
    trained = list(range(len(jobs)))
    """the heads that are trained, in their order on the device"""
    # forward, and back to the weights and to what came in
    work = 3 * sum(value.size for value in stage.params.values()) * len(train.targets)
    """multiply-adds of a head in an epoch, as near as it matters"""
    for epoch, share in enumerate(stage.shares):
        under_way = [k for k in trained if not followed[k].over]
        if not under_way:
            break
        saved = (len(trained) - len(under_way)) * (stage.epochs - epoch) * work
        is_worth_a_program = saved >= WORTH and len(under_way) <= FEWER * len(trained)
        if is_worth_a_program or (saved and not heads.compiles):
            heads.keep([trained.index(k) for k in under_way])
            weights = None if weights is None else weights[:, [trained.index(k) for k in under_way]]
            trained = under_way
        result = train.train(heads, train.order(stage.batch_size, stage.seed, epoch), share, epoch, weights)
        judged = judge.judged(heads, trained, under_way)
        seconds, kept = (result.seconds + judged.seconds).shared(len(trained)), []
        for k in under_way:
            head, place = followed[k], trained.index(k)
            accuracy = None if job.objective.task == REGRESSION else float(result.accuracy[place])
            losses = result.losses[:, place, None]
            measured = judged.measured.get(k, Measured())
            head.records.append(
                record_of(job.objective, epoch, losses, accuracy, measured, seconds, share * lr[k])
            )
            if head.best.better(head.records[-1]):
                kept.append(k)
        for k in race.losers(epoch + 1):
            followed[k].pruned = not followed[k].over
        for k in under_way:
            head = followed[k]
            if head.over and head.params is None and k not in kept:
                kept.append(k)
            advance(head.epochs - epoch if head.over else 1)
        params = heads.params() if kept else {}
        for k in kept:
            place = trained.index(k)
            followed[k].params = {name: values[place].copy() for name, values in params.items()}
            outputs = judged.outputs.get(k)
            followed[k].outputs = None if outputs is None else outputs.copy()
    return [
        replace(
            result_of(
                stage.plain(head.params or {}),
                history_of(head.records, head.best),
                job.objective,
                head.outputs,
                judge.data(k),
                len(jobs),
            ),
            pruned=head.pruned,
        )
        for k, head in enumerate(followed)
    ]


@dataclass
class _Head:
    """One of the heads that are trained side by side, as far as it has come."""

    best: Best
    epochs: int
    """that it is trained at most"""
    records: list[Record] = field(default_factory=list)
    params: dict[str, np.ndarray] | None = None
    """after its best epoch"""
    outputs: np.ndarray | None = None
    """float32 `(n, classes)`: for its validation samples, after that epoch"""
    pruned: bool = False
    """whether others were better, when it would have gone on"""

    @property
    def over(self) -> bool:
        """Whether it is trained no further."""
        return self.pruned or self.best.over or len(self.records) >= self.epochs
