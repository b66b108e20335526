"""The training of heads one after the other, each by the loop that trains any stage: of those that are not trained
side by side.

Invariant: each is the head that `fit` trains, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from headstart.training.feeds import Feeds
from headstart.training.halving import Race
from headstart.training.job import TrainingJob
from headstart.training.loop import Trained, run_stage
from headstart.training.observers import EpochCallback, LogLine, Observer, Observers
from headstart.training.rates import check_kept
from headstart.training.stage import EpochEnd, Stage
from headstart.training.stages import trainer_of
from headstart.training.standing import Standing


def one_by_one(
    heads_of: Sequence[tuple[TrainingJob, Stage]],
    names: Sequence[str],
    feeds: Feeds,
    advance: Callable[..., None],
    halving: bool = False,
) -> list[Trained]:
    """What becomes of each; `names`: what the log calls them. With `halving` all of them are in memory until they
    are pruned, else one is."""
    if not halving:
        return [_alone(of, name, feeds, advance) for of, name in zip(heads_of, names, strict=True)]
    results: dict[int, Trained] = {}
    with ExitStack() as stack:
        named = zip(heads_of, names, strict=True)
        heads = {k: _Head(of, name, feeds, advance, stack) for k, (of, name) in enumerate(named)}
        race = Race({k: head.standing.best for k, head in heads.items()}, heads_of[0][1].epochs, halving)
        for rung in race.rungs:
            for head in heads.values():
                head.go_on(rung)
            results |= {k: heads.pop(k).result() for k in race.losers(rung)}
        for k in list(heads):
            head = heads.pop(k)
            head.go_on()
            results[k] = head.result()
    return [results[k] for k in range(len(heads_of))]


def _alone(of: tuple[TrainingJob, Stage], name: str, feeds: Feeds, advance: Callable[..., None]) -> Trained:
    with ExitStack() as stack:
        head = _Head(of, name, feeds, advance, stack)
        head.go_on()
        return head.result()


class _Head:
    """A head, as far as it has come."""

    def __init__(
        self,
        of: tuple[TrainingJob, Stage],
        name: str,
        feeds: Feeds,
        advance: Callable[..., None],
        stack: ExitStack,
    ) -> None:
        """`stack`: until whose end it may be trained."""
        job, stage = of
        self.stage, self.advance, self.pause = stage, advance, _Pause()
        self.trainer, self.feeds = trainer_of(job, stage, feeds)
        self.standing = Standing(stage)
        watching = [LogLine(name=name), EpochCallback(lambda stage, record: advance()), self.pause]
        self.observers = stack.enter_context(Observers(watching))
        self.observers.stage(stage, {})
        self.trained: Trained | None = None

    def go_on(self, until: int | None = None) -> None:
        """Train to the end of this epoch, None: of the last one."""
        self.pause.after, self.standing.ended = until, False
        self.trained = run_stage(self.stage, self.trainer, self.feeds, self.observers, self.standing)

    def result(self) -> Trained:
        """What has become of it."""
        assert self.trained is not None
        check_kept(self.stage.kept, self.stage.params, self.trained.params)
        self.observers.done(self.stage, self.trained.history)
        self.advance(self.stage.epochs - len(self.trained.history))
        return replace(self.trained, pruned=self.standing.ended and not self.standing.best.over)


class _Pause(Observer):
    """Ends the stage after an epoch, so that it can go on later."""

    after: int | None = None
    """counted from 1"""

    def epoch(self, end: EpochEnd) -> bool:
        return end.record.epoch == self.after
