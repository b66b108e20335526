"""`sweep`: a grid of heads on one cache, side by side where their kind allows it, ranked by how well they do on
validation data.

Invariant: each run is the one that `fit` returns for the same settings, to rounding; side by side or one after the
other makes no difference but in time.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.common.errors import DivergedWarning, SettingError
from headstart.common.machine import machine_facts
from headstart.common.progress import track
from headstart.common.table import Table
from headstart.common.text import told_apart
from headstart.contract import registry
from headstart.contract.heads import chain_of
from headstart.contract.optimizers import SGD, Optimizer, optimizer_of
from headstart.data import Dataset
from headstart.data.copies import warn_of_copies, warn_of_copies_across
from headstart.data.id_set import IdSet
from headstart.data.summary import say
from headstart.data.untrained import warn_of_single, warn_of_single_in_folds
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.graph import Graph
from headstart.models import Model
from headstart.report.conclusion import Conclusion, conclusion
from headstart.report.scores import SMALLER_IS_BETTER
from headstart.training.checks import in_parts, opened
from headstart.training.comparison import entry_of
from headstart.training.defaults import default_optimizer
from headstart.training.feeding import Fed, from_cache
from headstart.training.feeds import Feeds
from headstart.training.finished import settings_record
from headstart.training.fold_heads import cross_validated_heads
from headstart.training.folds import CrossValidated, cross_validated, in_folds
from headstart.training.frozen_trunk import check_trunk
from headstart.training.job import TrainingJob, initial, job_of
from headstart.training.loop import Trained
from headstart.training.noise import mark_noise
from headstart.training.one_by_one import one_by_one
from headstart.training.options import OPTIONS
from headstart.training.rates import trained_count
from headstart.training.run import Run
from headstart.training.run_record import data_facts, first_convolutions
from headstart.training.scores.fold_scores import figures_of
from headstart.training.settings import Settings, settings_of
from headstart.training.side_by_side import most_at_once, side_by_side
from headstart.training.signatures import documented
from headstart.training.stage import Stage
from headstart.training.stages import head_stage
from headstart.training.tables import sweep_table

if TYPE_CHECKING:
    from typing import Unpack

    from headstart.training.keywords import SweepOptions

ALL_DIVERGED = (
    "every one of the {count} heads diverged: their losses or weights are not finite, and none is the best; try "
    "lower learning rates"
)
CONCLUDED_FROM = 10
"""of the best heads: the words are on the first and what comes next"""
AXES = ("lr", "weight_decay", "seed")
NUMBERS = {"integers": (int, np.integer), "numbers": (int, np.integer, float, np.floating)}


@dataclass(frozen=True)
class Sweep:
    """The runs of a grid, best first: by the headline score of the task (accuracy, micro F1, mean absolute error,
    of several targets each in its deviation) on the validation data after the epoch that was kept, then by
    validation loss; of folds by the means over them. Those that diverged, whose scores say nothing, come last."""

    runs: tuple[Run, ...]
    points: tuple[Mapping[str, float], ...]
    """of each run: what it has of the grid's axes"""
    at_once: int
    """how many heads were trained side by side; 1: one after the other"""
    extraction: ExtractionStats | None
    seconds: float
    """wall time of the whole call"""
    halving: bool
    """whether the worse half of the heads was ended early, again and again"""
    pruned: tuple[bool, ...]
    """of each run: whether it was ended so; its epochs are those that it had until then"""

    def __repr__(self) -> str:
        return f"Sweep({len(self.runs)} heads, the first with {_names(self.points)[0]}: {self.runs[0]!r})"

    @property
    def best(self) -> Run:
        """SettingError where every head diverged: none is better than another."""
        if self.runs[0].diverged:
            raise SettingError(ALL_DIVERGED.format(count=len(self.runs)))
        return self.runs[0]

    def table(self) -> list[dict[str, Any]]:
        """An entry for each run, best first: its point of the grid; loss, accuracy, val_loss, val_accuracy,
        val_score and which score that is, of the epoch that was kept; which that is (`best_epoch`) of how many
        (`epochs`); whether it was `pruned`, by halving, before it had come to its end; and whether it diverged. Of
        folds the validation figures are the means over them, and `folds` has what they are of; the others are of
        the training on all of the data."""
        entries = []
        for run, point, pruned in zip(self.runs, self.points, self.pruned, strict=True):
            best = run.history.best
            figures = {
                "loss": best.loss,
                "accuracy": best.accuracy,
                "val_loss": best.val_loss,
                "val_accuracy": best.val_accuracy,
                "val_score": best.val_score,
                "score": best.score,
                "best_epoch": run.best_epoch,
                "epochs": len(run.history),
                "pruned": pruned,
                "diverged": run.diverged,
            }
            figures |= {} if run.folds is None else figures_of(run.folds)
            entries.append({**point, **figures})
        return entries

    def as_table(self, top: int | None = None) -> Table:
        """The best `top`, at least one, for a terminal; None: all."""
        return sweep_table(self.table(), top)

    def conclusion(self) -> Conclusion:
        """Which point of the grid to take, by how much more than the next, and what to distrust."""
        entries = [entry_of(run) for run in self.runs[:CONCLUDED_FROM]]
        for entry, name in zip(entries, _names(self.points), strict=False):
            # all of them ran at once: no point took a time of its own
            entry |= {"label": name, "total_seconds": None}
        mark_noise(entries, self.runs[0].data.get("classes") or ())
        return conclusion({"data": self.runs[0].data, "rows": entries})

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: machine, versions, data, model, settings and an entry for each run."""
        first = self.runs[0]
        return {
            "machine": machine_facts(),
            "versions": registry.versions(first.backend),
            "data": {name: first.data[name] for name in ("name", "train", "val", "task", "classes")},
            "model": first.model.describe(),
            "cut": first.cut,
            "settings": dict(first.settings),
            "at_once": self.at_once,
            "halving": self.halving,
            "seconds": self.seconds,
            "rows": self.table(),
        }


@documented
def sweep(
    model: Model,
    train: Dataset | FeatureSet,
    val: Dataset | FeatureSet | None = None,
    *,
    grid: Mapping[str, Sequence[float]] | None = None,
    halving: bool = False,
    **options: Unpack[SweepOptions],
) -> Sweep:
    """Train a head for every point of `grid` on cached features, and rank them on `val`, which data that came in
    named parts have themselves, or by the mean over `folds` of `train`.

    `grid`: any of "lr", "weight_decay" and "seed", each with the values to try; all combinations are trained. What
    the grid leaves out is the optimiser's own, or `seed`; without a grid, eight rates from 0.0001 to 0.3 are tried
    (`USUAL_GRID`). Everything else is as in `fit` with mode "cached".
    Heads of linear layers, activations and dropout (what follows a cut at "avgpool", say) are trained side by
    side, those of one seed in one group; others one after the other.
    `halving`: again and again the worse half of the heads of one seed is ended early, by the best figure of
    `monitor` that each has had (successive halving, eta 2). Of the epochs that there are at most, one head is left
    after a half, two after a quarter, four after an eighth, and so on; the last one goes on until it ends by
    itself. Until it is ended, a head is what it is without halving. One that starts slowly, as at a low rate, may
    be lost by it. Heads that are trained one after the other wait for each other in memory.

    Raises SettingError and its kin for arguments, DataError for data that cannot be trained on, and whatever
    `extract` raises.
    """
    start = time.perf_counter()
    if not isinstance(halving, bool):
        raise SettingError(f"halving={halving!r}; expected True or False")
    settings = settings_of("sweep", options)
    points = points_of(grid)
    train, val, settings = in_folds(train, val, settings)
    train, val = in_parts(*opened(train, val))
    _check_ranking(settings, val, halving)
    job = job_of(model, train, val, settings)
    cut = job.cut
    assert cut is not None
    warn_of_copies(job.train, job.val)
    warn_of_single(job.train, job.val)
    if settings.folds is not None:
        numbers = job.train.fold_numbers(settings.folds, settings.seed)
        warn_of_copies_across(job.train, numbers)
        warn_of_single_in_folds(job.train, numbers)
    graph = job.model.graph.after(cut, job.model.input_shape)
    say(job.train, job.val)
    default = optimizer_of(settings.optimizer, default_optimizer(graph, False), None)
    jobs, at_once = _jobs(job, default, points), 1
    of_folds: Sequence[CrossValidated] = ()
    if settings.folds is not None:
        of_folds, at_once = _of_folds(model, job, jobs)
        jobs = [result.last(of) for result, of in zip(of_folds, jobs, strict=True)]
    source = from_cache(job, cut)
    stages = [head_stage(of, graph, source.standardization) for of in jobs]
    names = _names(points)
    trained, most = _trained(list(zip(jobs, stages, strict=True)), names, graph, source.feeds, halving)
    at_once = max(at_once, most)
    check_trunk(job.model, cut, job.model.params, source.trunk, job.place.precision)
    seconds = time.perf_counter() - start
    ids = IdSet.of(job.train.ids)
    runs = [
        _run(of, stage, source, trained[i], seconds / len(jobs), ids)
        for i, (of, stage) in enumerate(zip(jobs, stages, strict=True))
    ]
    if of_folds:
        runs = [result.completed(run, of, len(jobs)) for result, run, of in zip(of_folds, runs, jobs, strict=True)]
    order = sorted(range(len(runs)), key=lambda i: _rank(runs[i]))
    if runs[order[0]].diverged:
        warnings.warn(ALL_DIVERGED.format(count=len(runs)), DivergedWarning, stacklevel=2)
    best_first = [runs[i] for i in order]
    return Sweep(
        tuple(best_first),
        tuple(points[i] for i in order),
        at_once,
        best_first[0].extraction,
        seconds,
        halving,
        tuple(trained[i].pruned for i in order),
    )


def _check_ranking(settings: Settings, val: Dataset | FeatureSet | None, halving: bool) -> None:
    """SettingError where nothing would say which heads are better, or not while they are trained."""
    if val is None and settings.folds is None:
        raise SettingError(
            "val=None: heads are ranked by how well they do on validation data; pass data or features for it, or "
            "folds=5"
        )
    if halving and settings.monitor is None:
        raise SettingError("halving=True with monitor=None: nothing says which heads are better")
    if halving and settings.folds is not None:
        raise SettingError(
            f"halving=True with folds={settings.folds}: heads are ended by how they do on validation data, and "
            "folds are compared when all of them are trained; leave one of them out"
        )


USUAL_GRID: Mapping[str, Sequence[float]] = {"lr": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)}


def points_of(grid: Mapping[str, Sequence[float]] | None) -> list[dict[str, float]]:
    """Every combination of the values of a grid, or of the usual one. SettingError for axes or values that are
    none."""
    grid = USUAL_GRID if grid is None else grid
    if not isinstance(grid, Mapping) or not grid or any(name not in AXES for name in grid):
        raise SettingError(
            f"grid={grid!r}; expected a dict with any of {', '.join(AXES)}, such as {{'lr': [0.001, 0.01]}}"
        )
    lists: Mapping[str, Any] = grid
    for name, values in lists.items():
        some = values.ndim if isinstance(values, np.ndarray) else isinstance(values, Sequence)
        several = list(values) if some and not isinstance(values, str) else []
        if not several:
            raise SettingError(f"grid[{name!r}]={values!r}; expected a list of values")
        kind = "integers" if name == "seed" else "numbers"
        if not all(isinstance(value, NUMBERS[kind]) and not isinstance(value, bool) for value in several):
            raise SettingError(f"grid[{name!r}]={values!r}; expected a list of {kind}")
        if len(set(several)) < len(several):
            raise SettingError(
                f"grid[{name!r}]={values!r} has a value twice; the same head would be trained twice"
            )
    # numpy's numbers as Python's, which can be written as JSON
    plain = {name: [np.asarray(value).item() for value in values] for name, values in grid.items()}
    for name, values in plain.items():
        for value in values:
            OPTIONS["seed"].checked(value) if name == "seed" else SGD(**{name: value})
    return [dict(zip(plain, point, strict=True)) for point in itertools.product(*plain.values())]


def _names(points: Sequence[Mapping[str, float]]) -> list[str]:
    """ "lr 0.001, seed 1" of each; different points have different names."""
    axes = points[0]
    columns = [[f"{axis} {text}" for text in told_apart([point[axis] for point in points])] for axis in axes]
    return [", ".join(texts) for texts in zip(*columns, strict=True)]


def _jobs(job: TrainingJob, default: Optimizer, points: Sequence[Mapping[str, float]]) -> list[TrainingJob]:
    """A job for each point of the grid. Those of one seed begin with the same parameters, and share them."""
    starts: dict[int, Model] = {}
    jobs = []
    for point in points:
        optimizer = replace(
            default,
            lr=float(point.get("lr", default.lr)),
            weight_decay=float(point.get("weight_decay", default.weight_decay)),
        )
        seed = int(point.get("seed", job.settings.seed))
        settings = replace(job.settings, optimizer=optimizer, seed=seed)
        if seed not in starts:
            params = initial(job.model, job.mode, job.cut, seed, job.objective.log_odds)
            starts[seed] = replace(job.model, params=params)
        jobs.append(replace(job, model=starts[seed], settings=settings))
    return jobs


def _groups(jobs: Sequence[TrainingJob], room: int) -> Iterator[list[int]]:
    """Which of them can be trained side by side: those of one seed, which see the same rows in the same order,
    and of them so many at once as there is room for."""
    by_seed: dict[int, list[int]] = {}
    for i, job in enumerate(jobs):
        by_seed.setdefault(job.settings.seed, []).append(i)
    for members in by_seed.values():
        yield from (members[k : k + room] for k in range(0, len(members), room))


def _of_folds(model: Model, job: TrainingJob, jobs: Sequence[TrainingJob]) -> tuple[Sequence[CrossValidated], int]:
    """What the folds gave for each of `jobs`, and how many of their heads were trained at once."""
    side_by_side = cross_validated_heads(job, jobs)
    if side_by_side is not None:
        return side_by_side
    return [cross_validated(model, of, job.settings.seed) for of in jobs], 1


def _trained(
    heads_of: Sequence[tuple[TrainingJob, Stage]], names: Sequence[str], graph: Graph, feeds: Feeds, halving: bool
) -> tuple[list[Trained], int]:
    """What became of each head, and how many were trained at once. `names`: what the log calls them."""
    chain = chain_of(graph)
    trained: dict[int, Trained] = {}
    at_once = 1
    with track("training heads", sum(stage.epochs for _, stage in heads_of)) as advance:
        for group in _groups([job for job, _ in heads_of], most_at_once(graph)):
            heads, pairs = None, [heads_of[i] for i in group]
            if len(group) > 1 and chain is not None:
                heads = side_by_side(pairs, chain, feeds, advance, halving=halving)
            if heads is None:
                heads = one_by_one(pairs, [names[i] for i in group], feeds, advance, halving)
            else:
                at_once = max(at_once, len(group))
            # what was predicted is kept by whoever scores it, where there is room for that of so many
            trained |= {i: replace(head, predictions=None) for i, head in zip(group, heads, strict=True)}
    return [trained[i] for i in range(len(heads_of))], at_once


def _rank(run: Run) -> tuple[bool, float, float]:
    """By which runs are sorted, the best first."""
    best, folds = run.history.best, run.folds
    score, loss = (best.val_score, best.val_loss) if folds is None else (folds.mean, folds.loss)
    # as numbers that are not finite sort nowhere, they are asked for first
    if run.diverged or loss is None or (folds is not None and folds.diverged):
        return (True, 0.0, 0.0)
    if score is None:  # as of validation data in which no sample has a label: of none of the heads
        return (False, 0.0, loss)
    sign = 1 if best.score in SMALLER_IS_BETTER else -1
    return (False, sign * score, loss)


def _run(job: TrainingJob, stage: Stage, source: Fed, trained: Trained, seconds: float, train_ids: IdSet) -> Run:
    """The run of one head."""
    start = job.model
    return Run(
        model=job.objective.trained(start.with_params({**start.params, **trained.params}), trained.threshold),
        mode=job.settings.mode,
        cut=job.cut,
        backend=job.backend.name,
        history=trained.history,
        extraction=source.extraction,
        seconds=seconds,
        settings=settings_record(job, [stage], source.placement),
        data=data_facts(job.train, job.val),
        trained=trained_count(stage.graph, scratch=False),
        validation=trained.validation,
        outcome=trained.outcome,
        train_ids=train_ids,
        before={name: start.params[name] for name in first_convolutions(start.graph)},
        val=job.val,
    )
