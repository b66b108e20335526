"""`sweep`: a grid of heads on one cache, side by side where their kind allows it, ranked by validation accuracy.

Invariant: each run is the one that `fit` returns for the same settings, to rounding; side by side or one after the
other makes no difference but in time.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.common.errors import DivergedWarning, SettingError
from headstart.common.machine import machine_facts
from headstart.common.progress import track
from headstart.common.table import Table
from headstart.contract import registry
from headstart.contract.heads import Chain, Heads, HeadsRecipe, chain_of
from headstart.contract.optimizers import Optimizer, as_dict, optimizer_of
from headstart.data import Dataset
from headstart.data.summary import say
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.graph import Graph
from headstart.models import Model, check_model
from headstart.models.model import count_params
from headstart.training import metrics
from headstart.training.checks import check_sets
from headstart.training.copies import warn_of_copies
from headstart.training.feeds import EpochResult, Feed
from headstart.training.fit import Job, check_trunk, first_convolutions, initial
from headstart.training.history import History, Record, Seconds
from headstart.training.modes import default_optimizer
from headstart.training.run import Run
from headstart.training.run_record import data_facts
from headstart.training.settings import Settings, settings_of
from headstart.training.signatures import documented
from headstart.training.tables import sweep_table
from headstart.training.validation import Validation, validation_of

if TYPE_CHECKING:
    from typing import Unpack

    from headstart.training.keywords import SweepOptions

EVERY_HEAD = (
    "every one of the {count} heads diverged: their losses or weights are not finite, and none is the best; try "
    "lower learning rates"
)
AXES = ("lr", "weight_decay", "seed")
Trained = tuple[dict[str, np.ndarray], History, Validation | None]
"""what became of a head: its parameters, its records, its predictions after the last epoch"""
MAX_NBYTES = 1 << 30  # of the parameters that are trained side by side; what an optimiser keeps comes to it


@dataclass(frozen=True)
class Sweep:
    """The runs of a grid, best first: by validation accuracy after the last epoch, then by validation loss. Those
    that diverged, whose accuracy says nothing, come last."""

    runs: tuple[Run, ...]
    points: tuple[Mapping[str, float], ...]
    """of each run: what it has of the grid's axes"""
    at_once: int
    """how many heads were trained side by side; 1: one after the other"""
    extraction: ExtractionStats | None
    seconds: float
    """wall time of the whole call"""

    @property
    def best(self) -> Run:
        """SettingError where every head diverged: none is better than another."""
        if self.runs[0].diverged:
            raise SettingError(EVERY_HEAD.format(count=len(self.runs)))
        return self.runs[0]

    def table(self) -> list[dict[str, float]]:
        """A row for each run, best first: its point of the grid, loss, accuracy, val_loss, val_accuracy, and
        whether it diverged."""
        rows = []
        for run, point in zip(self.runs, self.points, strict=True):
            last = run.history[-1]
            assert last.val_loss is not None and last.val_accuracy is not None
            figures = {
                "loss": last.loss,
                "accuracy": last.accuracy,
                "val_loss": last.val_loss,
                "val_accuracy": last.val_accuracy,
                "diverged": run.diverged,
            }
            rows.append({**point, **figures})
        return rows

    def as_table(self, top: int | None = None) -> Table:
        """The best `top`, at least one, for a terminal; None: all."""
        return sweep_table(self.table(), top)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: machine, versions, data, model, settings and a row for each head."""
        first = self.runs[0]
        return {
            "machine": machine_facts(),
            "versions": registry.versions(first.backend),
            "data": {name: first.data[name] for name in ("name", "train", "val", "classes")},
            "model": first.model.describe(),
            "cut": first.cut,
            "settings": dict(first.settings),
            "at_once": self.at_once,
            "seconds": self.seconds,
            "rows": self.table(),
        }


@documented
def sweep(
    model: Model,
    train: Dataset | FeatureSet,
    val: Dataset | FeatureSet,
    *,
    grid: Mapping[str, Sequence[float]],
    **options: Unpack[SweepOptions],
) -> Sweep:
    """Train a head for every point of `grid` on cached features, and rank them on `val`.

    `grid`: any of "lr", "weight_decay" and "seed", each with the values to try; all combinations are trained. What
    the grid leaves out is the optimiser's own, or `seed`. Everything else is as in `fit` with mode "cached".
    Heads of linear layers and activations (what follows a cut at "avgpool", say) are trained side by side, those
    of one seed in one group; others one after the other.

    Raises SettingError and its kin for arguments, DataError for data that cannot be trained on, and whatever
    `extract` raises.
    """
    start = time.perf_counter()
    if val is None:
        raise SettingError("val=None: heads are ranked by their validation accuracy; pass data or features for it")
    settings = settings_of("sweep", options)
    epochs, points = settings.epochs, list(_points(grid))
    check_model(model)
    model = model.without_auxiliary()
    sets = check_sets(model, settings, train, val)
    assert sets.val is not None
    train, val, cut = sets.train, sets.val, sets.cut
    warn_of_copies(train, val)
    node = model.graph.check_cut(cut or model.default_cut)
    graph = model.graph.after(node, model.input_shape)
    say(train, val)
    default = optimizer_of(settings.optimizer, default_optimizer(graph, False), None)
    each = [
        replace(settings, optimizer=_optimizer(default, point), seed=int(point.get("seed", settings.seed)))
        for point in points
    ]
    name = registry.choose(settings.backend, model.home)
    chosen = registry.load(name)
    job = Job(
        model,
        train,
        val,
        settings,
        chosen,
        chosen.place(settings.device, settings.precision),
        settings.cache,
        None,
        model.fresh,
    )
    feeds, trunk = job.cached(node)
    chain = chain_of(graph)
    nbytes = sum(4 * int(np.prod(shape)) for shape in graph.param_shapes().values())
    room = 1 if chain is None else max(1, MAX_NBYTES // max(1, nbytes))
    trained: dict[int, Trained] = {}
    at_once = 1
    groups = list(_groups(each, room))
    with track("training heads", len(each) * epochs) as advance:
        for group in groups:
            found = None
            if len(group) > 1 and chain is not None:
                found = _side_by_side(job, graph, chain, feeds, node, [each[i] for i in group], advance)
            if found is None:
                found = [_alone(job, graph, feeds, node, each[i], advance) for i in group]
            else:
                at_once = max(at_once, len(group))
            trained |= dict(zip(group, found, strict=True))
    check_trunk(model, node, model.params, trunk)
    seconds = time.perf_counter() - start

    def run(i: int) -> Run:
        params, history, validation = trained[i]
        made = model.with_params({**dict(model.params), **params})
        record = replace(job, settings=each[i], optimizers={"head": as_dict(_of(each[i]))}).record()
        return Run(
            made,
            "cached",
            node,
            name,
            history,
            extraction=job.extraction,
            seconds=seconds / len(each),
            settings=record,
            data=data_facts(train, val),
            trained=count_params(graph),
            validation=validation,
            before={name: model.params[name] for name in first_convolutions(model.graph)},
            val=val,
        )

    runs = [run(i) for i in range(len(each))]

    def rank(i: int) -> tuple[bool, float, float]:
        last = runs[i].history[-1]
        assert last.val_loss is not None and last.val_accuracy is not None
        # as numbers that are not finite sort nowhere, they are asked for first
        return (True, 0.0, 0.0) if runs[i].diverged else (False, -last.val_accuracy, last.val_loss)

    order = sorted(range(len(each)), key=rank)
    if runs[order[0]].diverged:
        warnings.warn(EVERY_HEAD.format(count=len(runs)), DivergedWarning, stacklevel=2)
    return Sweep(tuple(runs[i] for i in order), tuple(points[i] for i in order), at_once, job.extraction, seconds)


def _points(grid: Mapping[str, Sequence[float]]) -> Iterator[dict[str, float]]:
    """Every combination of the grid's values. SettingError for axes or values that are none."""
    if not isinstance(grid, Mapping) or not grid or any(name not in AXES for name in grid):
        raise SettingError(
            f"grid={grid!r}; expected a dict with any of {', '.join(AXES)}, such as {{'lr': [0.001, 0.01]}}"
        )
    lists: Mapping[str, object] = grid
    for name, values in lists.items():
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray) or not len(values):
            raise SettingError(f"grid[{name!r}]={values!r}; expected a list of values")
        if len(set(values)) < len(values):
            raise SettingError(
                f"grid[{name!r}]={values!r} has a value twice; the same head would be trained twice"
            )
        whole = name != "seed" or all(isinstance(value, int | np.integer) for value in values)
        if not whole or any(isinstance(value, bool) for value in values):
            raise SettingError(f"grid['seed']={values!r}; expected integers")
    for point in itertools.product(*grid.values()):
        # numpy's numbers as Python's, which can be written as JSON
        yield {name: np.asarray(value).item() for name, value in zip(grid, point, strict=True)}


def _optimizer(default: Optimizer, point: Mapping[str, float]) -> Optimizer:
    return replace(
        default,
        lr=float(point.get("lr", default.lr)),
        weight_decay=float(point.get("weight_decay", default.weight_decay)),
    )


def _of(settings: Settings) -> Optimizer:
    assert settings.optimizer is not None and not isinstance(settings.optimizer, str)
    return settings.optimizer


def _groups(each: Sequence[Settings], room: int) -> Iterator[list[int]]:
    """Which of them can be trained side by side: those of one seed, which see the same rows in the same order,
    and of them so many at once as there is room for."""
    by_seed: dict[int, list[int]] = {}
    for i, settings in enumerate(each):
        by_seed.setdefault(settings.seed, []).append(i)
    for members in by_seed.values():
        yield from (members[k : k + room] for k in range(0, len(members), room))


def _alone(
    job: Job,
    graph: Graph,
    feeds: tuple[Feed, Feed | None],
    node: str,
    settings: Settings,
    advance: Callable[..., None],
) -> Trained:
    params = initial(job.model, settings.row, node, settings.seed)
    model = replace(job.model, params=params)
    own = replace(job, model=model, settings=settings, optimizers={}, on_epoch=lambda stage, record: advance())
    params, history = own.stage("head", graph, feeds, settings.epochs)
    return params, history, own.validation


def _side_by_side(
    job: Job,
    graph: Graph,
    chain: Chain,
    feeds: tuple[Feed, Feed | None],
    node: str,
    each: Sequence[Settings],
    advance: Callable[..., None],
) -> list[Trained] | None:
    """The parameters and records of heads that differ in learning rate and weight decay; None where the backend
    has no way to it."""
    one = each[0]
    train, val = feeds
    assert val is not None
    optimizers = [_of(settings) for settings in each]
    lr, decay = (np.array([getattr(o, name) for o in optimizers], np.float32) for name in ("lr", "weight_decay"))
    start = initial(job.model, one.row, node, one.seed)
    stacked = {name: np.repeat(start[name][None], len(each), 0) for name in graph.param_shapes()}
    recipe = HeadsRecipe(optimizers[0], lr, decay, one.label_smoothing)
    heads: Heads | None = job.backend.heads(chain, stacked, recipe, job.place)
    if heads is None:
        return None
    steps = len(train.labels) // min(one.batch_size, len(train.labels))
    shares = one.rates.rates(1.0, one.epochs * steps).reshape(one.epochs, -1)
    records: list[list[Record]] = [[] for _ in each]
    for epoch, share in enumerate(shares):
        result = train.train(heads, train.order(one.batch_size, one.seed, epoch), share, epoch)
        logits, more = val.logits(heads)  # (n, heads, classes)
        for k, found in enumerate(_records(result, more, logits, val.labels, share[-1] * lr, epoch)):
            records[k].append(found)
        advance(len(each))
    params = heads.params()
    assert job.val is not None
    return [
        (
            {name: np.ascontiguousarray(values[k]) for name, values in params.items()},
            History(records[k]),
            validation_of(logits[:, k], job.val),
        )
        for k in range(len(each))
    ]


def _records(
    result: EpochResult, more: Seconds, logits: np.ndarray, labels: np.ndarray, rates: np.ndarray, epoch: int
) -> Iterator[Record]:
    """A record for each head; of the time that all took together each has its share."""
    total, count = result.seconds + more, logits.shape[1]
    share = Seconds(total.data / count, total.trunk / count, total.head / count)
    accuracies = np.asarray(result.accuracy)
    for k in range(count):
        losses = result.losses[:, k]
        yield Record(
            epoch + 1,
            float(losses.mean(dtype=np.float64)),
            float(accuracies[k]),
            float(metrics.cross_entropy(logits[:, k], labels).mean()),
            metrics.accuracy(logits[:, k], labels),
            share,
            float(rates[k]),
            tuple(map(float, losses)),
        )
