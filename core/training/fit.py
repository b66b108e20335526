"""`fit`: one loop for all modes and backends.

What a mode trains and what it is fed is in the table of `modes`; everything that could make two modes or two
backends differ without need (initial weights, order, learning rates, metrics) is decided here, once.
Invariant: a frozen trunk is bit-equal before and after, and that is checked on the device's own copy.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.common.errors import DivergedWarning, SettingError, TrunkChangedError, WatchingWarning
from headstart.common.log import LOG
from headstart.common.text import epoch_line
from headstart.contract import registry
from headstart.contract.optimizers import as_dict, optimizer_of
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place, Recipe
from headstart.contract.running import Trainer, Trunk
from headstart.data import Arrays, Dataset
from headstart.data.augment import Augment
from headstart.data.summary import say
from headstart.features.extract import Extractor
from headstart.features.feature_set import ExtractionStats, FeatureSet, merged
from headstart.features.inference import fed, frozen, pixel_trunk
from headstart.features.trunk_keys import INPUT, cut_of
from headstart.graph import Graph
from headstart.models import Model, check_model
from headstart.models.model import count_params
from headstart.store.keys import params_digest
from headstart.training import metrics
from headstart.training.checks import check_sets, features_at
from headstart.training.company import check_trained
from headstart.training.copies import warn_of_copies
from headstart.training.feeds import Feed, Images
from headstart.training.history import History, OnEpoch, Record
from headstart.training.modes import Mode, default_optimizer
from headstart.training.nans.watch import FeatureCheck, WatchedTrainer, WatchedTrunk, check_weights, watched
from headstart.training.placement import Placement, feeds_of, memory_limit, place_features
from headstart.training.rates import (
    check_kept,
    check_modules,
    kept_by_owner,
    rate_multiples,
    trained_count,
    warn_frozen,
)
from headstart.training.run import Run
from headstart.training.run_record import data_facts
from headstart.training.settings import Settings, checked_folder, settings_of
from headstart.training.signatures import documented
from headstart.training.tensorboard import Board
from headstart.training.validation import Validation, validation_of

if TYPE_CHECKING:
    from typing import Unpack

    from headstart.training.keywords import FitOptions


@documented
def fit(
    model: Model,
    train: Dataset | FeatureSet,
    val: Dataset | FeatureSet | None = None,
    **options: Unpack[FitOptions],
) -> Run:
    """Train `model` on `train`, and evaluate it on `val` after every epoch. `model` is not changed.

    `train`, `val`: data sets; or, for mode "cached", features that `extract` or `load_features` gave, where the
    images need not be at hand. Their labels are compared by the names of their classes, with each other and with
    the model's: `val` may lack some. DataWarning for copies in both, and for pictures with more than one label.

    Raises SettingError and its kin for arguments, DataError for data that cannot be trained on, NonFiniteError for
    what `debug_nans` finds, ProfileError, and whatever `extract` raises.
    """
    start = time.perf_counter()
    settings = settings_of("fit", options)
    check_model(model)
    row, epochs, head_epochs, seed = settings.row, settings.epochs, settings.head_epochs, settings.seed
    if settings.augmentation is not None and isinstance(model.preprocess, Arrays):
        raise SettingError(f"augment= crops and flips images, and the model takes {model.preprocess}")
    if row.frozen and not row.then_all:
        model = model.without_auxiliary()
    check_modules(model.params, settings.lr_scale)
    train, val, cut = check_sets(model, settings, train, val)
    warn_of_copies(train, val)
    node = model.graph.check_cut(cut or model.default_cut) if row.frozen else None
    if cut is not None and node is None:
        cut_of(model, cut)  # unused in these modes unless it is "input", but a typing error is one all the same
    warn_frozen(model, row)
    name = registry.choose(settings.backend, model.home)
    chosen = registry.load(name)
    job = Job(
        replace(model, params=initial(model, row, node, seed)),
        train,
        val,
        settings,
        chosen,
        chosen.place(settings.device, settings.precision),
        settings.cache,
        settings.on_epoch,
        model.fresh if row.pretrained else model.params.keys(),
        debug_nans=settings.debug_nans,
        profile=None if settings.profile is None else checked_folder("profile", settings.profile),
    )
    say(train, val)
    head_history = History()
    params = dict(job.model.params)
    before = {name: params[name] for name in first_convolutions(job.model.graph)}
    folder = settings.tensorboard
    with nullcontext() if folder is None else Board(folder, val is not None) as job.board:
        if job.board is not None:
            job.watch(lambda board: board.picture(job.model, node))
        if settings.debug_nans:
            check_weights(job.model, node, "all" if node is None else "head")
        if node is not None:
            if row.cached:
                feeds, trunk = job.cached(node)
            else:
                trunk = pixel_trunk(job.model, [node], chosen, job.place)
                feeds = job.images(trunk, node)
            head = job.model.graph.after(node, model.input_shape)
            trained, history = job.stage("head", head, feeds, (head_epochs or epochs) if row.then_all else epochs)
            params |= trained
            check_trunk(job.model, node, params, trunk)
            job.model = job.model.with_params(params)
            if row.then_all:
                head_history = history
        if node is None or row.then_all:
            graph = fed(job.model.graph, job.model)
            feeds = job.cached(INPUT)[0] if cut == INPUT else job.images(None, None)
            trained, history = job.stage("all", graph, feeds, epochs)
            params |= trained
    run = Run(
        model=model.with_params(params),
        mode=settings.mode,
        cut=node,
        backend=name,
        history=history,
        head_history=head_history,
        extraction=job.extraction,
        seconds=time.perf_counter() - start,
        settings=job.record(),
        data=data_facts(train, val),
        trained=trained_count(job.model.graph if node is None or row.then_all else head, not row.pretrained),
        validation=job.validation,
        before=before,
        val=val,
    )
    if run.diverged:
        warnings.warn(
            f"the training of {model.name} in mode {row.name!r} has diverged: its last loss or its weights are "
            "not finite. A lower learning rate mends that; debug_nans=True finds where it began",
            DivergedWarning,
            stacklevel=2,
        )
    return run


@dataclass
class Job:
    """What all stages of one call share."""

    model: Model
    """as it is before the next stage"""
    train: Dataset | FeatureSet
    val: Dataset | FeatureSet | None
    settings: Settings
    backend: Backend
    place: Place
    cache: str | Path | None
    on_epoch: OnEpoch | None
    fresh: Collection[str]
    """parameters that are not pretrained"""
    optimizers: dict[str, Any] = field(default_factory=dict)
    """stage -> what it was trained with"""
    extraction: ExtractionStats | None = None
    placement: Placement | None = None
    validation: Validation | None = None
    """of the last epoch so far"""
    board: Board | None = None
    debug_nans: bool = False
    profile: Path | None = None
    """the folder for traces"""

    def cached(self, node: str) -> tuple[tuple[Feed, Feed | None], Trunk | None]:
        """Feeds of features at a cut, extracted now unless they were given, and the trunk, if that was needed."""
        trunk = None
        if isinstance(self.train, FeatureSet):
            sets = [one for one in (self.train, self.val) if isinstance(one, FeatureSet)]
            sets = [features_at(self.model, one, node) for one in sets]
            made_by = tuple(sorted({maker for one in sets for maker in one.stats.made_by}))
            self.extraction = ExtractionStats(0, sum(len(one) * one.views for one in sets), 0.0, made_by)
        else:
            plain = self._extractor(node)  # the same for both where it can be: a trunk is built and compiled once
            extractors = [plain if self.settings.views is None else self._extractor(node, views=True), plain]
            pairs = zip(extractors, (self.train, self.val), strict=True)
            sets = [extractor(data) for extractor, data in pairs if isinstance(data, Dataset)]
            trunk = extractors[0].built_trunk or extractors[1].built_trunk
            self.extraction = merged(one.stats for one in sets)
        free = self.backend.memory(self.place)
        batch = min(self.settings.batch_size, len(self.train))
        limit = memory_limit(self.settings.memory)
        self.placement = place_features(sets, node, batch, limit, free)
        feeds = feeds_of(sets, node, self.placement)
        return (feeds[0], feeds[1] if len(feeds) > 1 else None), trunk

    def _extractor(self, node: str, views: bool = False) -> Extractor:
        s = self.settings
        return Extractor(
            self.model,
            [node],
            backend=self.backend.name,
            device=s.device,
            precision=s.precision,
            dtype=s.dtype,
            batch_size=s.batch_size,
            workers=s.workers,
            cache=self.cache,
            augment=s.augmentation if views else None,
            views=s.views or 1 if views else 1,
            seed=s.seed,
            observe=FeatureCheck(self.model, self.backend, self.place) if self.debug_nans else None,
        )

    def images(self, trunk: Trunk | None, node: str | None) -> tuple[Feed, Feed | None]:
        def feed(data: Dataset, augment: Augment | None) -> Feed:
            s = self.settings
            return Images(data, self.model.preprocess, s.batch_size, trunk, node, augment, s.seed, s.workers)

        assert isinstance(self.train, Dataset) and not isinstance(self.val, FeatureSet)
        if self.debug_nans and trunk is not None and node is not None:
            trunk = WatchedTrunk(trunk, self.model, node, self.backend, self.place)
        train = feed(self.train, self.settings.augmentation)
        return train, feed(self.val, None) if self.val is not None else None

    def stage(
        self, stage: str, graph: Graph, feeds: tuple[Feed, Feed | None], epochs: int
    ) -> tuple[dict[str, np.ndarray], History]:
        """Train `graph` for `epochs`; returns its parameters and the records."""
        s = self.settings
        train, val = feeds
        default = default_optimizer(graph, stage == "all")
        optimizer = optimizer_of(s.optimizer, default, s.lr)
        self.optimizers[stage] = as_dict(optimizer)
        params = {name: self.model.params[name] for name in graph.param_shapes()}
        kept = kept_by_owner(graph, not s.row.pretrained)
        multiples = rate_multiples(params, self.fresh, s.lr_scale, kept)
        recipe = Recipe(optimizer, s.label_smoothing, s.train_statistics, s.seed, multiples)
        LOG.debug(
            "%s: training %d parameters with %s on %s, %s, %d threads",
            stage, count_params(graph), optimizer, self.place.device, self.place.precision, self.backend.threads(),
        )  # fmt: skip
        trainer = self.backend.trainer(graph, params, recipe, self.place)
        if self.model.home is not None and not (s.row.then_all and stage == "all"):
            check_trained(graph, trainer, feeds, self.backend, self.place, self.model.graph)
        if self.debug_nans:
            trunk = train.trunk if isinstance(train, Images) and isinstance(train.trunk, WatchedTrunk) else None
            trainer = WatchedTrainer(
                trainer, graph, params, recipe, self.backend, self.place, stage, self.train, trunk
            )
            train, val = watched(trainer, feeds, self.val)
        if self.board is not None:
            about = {"model": self.model.name, "mode": s.mode, "cut": s.cut, "backend": self.backend.name}
            self.watch(lambda board: board.start(params, about | self.record()))
        steps = len(self.train) // min(s.batch_size, len(self.train))
        rates = s.rates.rates(optimizer.lr, epochs * steps).reshape(epochs, -1)
        records, logits = [], None
        for epoch, rate in enumerate(rates):
            with self._profiled(stage, epoch, epochs):
                order = train.order(s.batch_size, s.seed, epoch)
                record, logits = _epoch(trainer, train, val, order, rate, epoch)
            records.append(record)
            if self.board is not None:
                now, auxiliary = trainer.params(), graph.outputs[1:]
                self.watch(lambda board: board.epoch(record, rate, now, auxiliary))  # noqa: B023 - called at once
            LOG.info(epoch_line("head " if s.row.then_all and stage == "head" else "", record))
            if self.on_epoch is not None:
                self.on_epoch(stage, record)
        if logits is not None and self.val is not None:
            self.validation = validation_of(logits, self.val)
        trained = trainer.params()
        check_kept(kept, params, trained)
        return trained, History(records)

    def watch(self, note: Callable[[Board], None]) -> None:
        """Have TensorBoard's files written; where that fails, on a full disk for one, the training goes on without
        them."""
        if self.board is None:
            return
        try:
            note(self.board)
        except Exception as error:
            board, self.board = self.board, None
            _unwatched(f"TensorBoard's files in {board.folder}", error)

    def _profiled(self, stage: str, epoch: int, epochs: int) -> AbstractContextManager[None]:
        """For the second epoch of a stage, or the only one, the framework's profiler."""
        if self.profile is None or epoch != min(1, epochs - 1):
            return nullcontext()
        return _surviving(self.backend, self.profile / stage, begun=epoch > 0)

    def record(self) -> dict[str, Any]:
        """JSON-able: enough to repeat the run."""
        return {
            **self.settings.record(),
            "batch_size": min(self.settings.batch_size, len(self.train)),
            "optimizer": self.optimizers,
            "device": self.place.device,
            "precision": self.place.precision,
            "features": None if self.placement is None else self.placement.as_dict(),
            "threads": self.backend.threads(),
            "versions": registry.versions(self.backend.name),
        }


@contextmanager
def _surviving(backend: Backend, folder: Path, begun: bool) -> Iterator[None]:
    """The framework's profiler around an epoch, which goes on where the profiler cannot. Only where nothing has
    been trained yet is it an error that it cannot be started."""
    try:
        profiler = backend.profile(checked_folder("profile", folder))
        profiler.__enter__()
    except Exception as error:
        if not begun:
            raise
        _unwatched(f"the profiler's trace in {folder}", error)
        yield
        return
    try:
        yield
    except BaseException:
        profiler.__exit__(*sys.exc_info())
        raise
    try:
        profiler.__exit__(None, None, None)
    except Exception as error:
        _unwatched(f"the profiler's trace in {folder}", error)


def _unwatched(what: str, error: Exception) -> None:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    warnings.warn(
        f"{what} cannot be written ({reason}); the training goes on without", WatchingWarning, stacklevel=4
    )


def _epoch(
    trainer: Trainer, train: Feed, val: Feed | None, order: np.ndarray, rates: np.ndarray, epoch: int
) -> tuple[Record, np.ndarray | None]:
    """The epoch's record, and the logits of the validation data after it."""
    result = train.train(trainer, order, rates, epoch)
    seconds, val_loss, val_accuracy, logits = result.seconds, None, None, None
    if val is not None:
        logits, more = val.logits(trainer)
        seconds += more
        val_loss = float(metrics.cross_entropy(logits, val.labels).mean())
        val_accuracy = metrics.accuracy(logits, val.labels)
    means = result.losses.mean(0, dtype=np.float64).tolist()
    record = Record(
        epoch + 1,
        means[0],
        result.accuracy,
        val_loss,
        val_accuracy,
        seconds,
        float(rates[-1]),
        tuple(map(float, result.losses[:, 0])),
        tuple(means[1:]),
    )
    return record, logits


def first_convolutions(graph: Graph, count: int = 2) -> list[str]:
    """The names of the weights of the first convolutions."""
    return [f"{node.name}.weight" for node in graph.nodes if node.op == "conv"][:count]


def initial(model: Model, mode: Mode, node: str | None, seed: int) -> dict[str, np.ndarray]:
    """The parameters that a run starts from. A frozen trunk is the model's own, random or not; only the
    fresh part of what is trained comes from `seed`."""
    params = model.reseeded(seed, everything=not mode.pretrained)
    if node is not None:
        params |= {name: model.params[name] for name in model.graph.upto(node).param_shapes()}
    return params


def check_trunk(model: Model, node: str, params: Mapping[str, np.ndarray], trunk: Trunk | None) -> None:
    """A frozen trunk must be what it was, in the joined model and on the device that ran it."""
    names = model.graph.upto(node).param_shapes()
    before = params_digest({name: model.params[name] for name in names})
    if params_digest({name: params[name] for name in names}) != before:
        raise TrunkChangedError(f"training changed weights of the frozen trunk up to {node!r}; this is a bug")
    if trunk is not None:
        folded = frozen(model.graph.upto(node), model.params, [node])[1]
        now, counters = trunk.params(), model.graph.volatile()
        if moved := sorted(n for n in folded if n not in counters and _digest(now, n) != _digest(folded, n)):
            why = (
                "this is a bug"
                if model.home is None
                else "the module itself writes to it as it runs, or it is a bug"
            )
            raise TrunkChangedError(
                f"the device's copy of the frozen trunk up to {node!r} is not what it was given: {moved[0]!r} is "
                f"another one ({len(moved)} of {len(folded)} in all); {why}"
            )


def _digest(params: Mapping[str, np.ndarray], name: str) -> str:
    return params_digest({name: params[name]})
