"""`fit`: one loop for all modes and backends.

What a mode trains and what it is fed is in the table of `modes`; everything that could make two modes or two
backends differ without need (initial weights, order, learning rates, metrics) is decided here, once.
Invariant: a frozen trunk is bit-equal before and after, and that is checked on the device's own copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart import backend as backends
from headstart.backend import Backend, Place, Recipe, Trainer, Trunk
from headstart.data import Arrays, Dataset
from headstart.data.augment import Augment
from headstart.errors import DataError, SettingError, TrunkChangedError
from headstart.features.extract import ExtractionStats, Extractor
from headstart.features.keys import params_digest
from headstart.graph import Graph
from headstart.inference import fed, frozen, pixel_trunk
from headstart.models import Model
from headstart.training import metrics
from headstart.training.feeds import Feed, Images, Resident
from headstart.training.history import History, Record
from headstart.training.modes import Mode, default_optimizer
from headstart.training.optimizers import Optimizer, Schedule, as_dict, optimizer_of
from headstart.training.order import epoch_order
from headstart.training.rates import check_modules, rate_multiples
from headstart.training.run import Run
from headstart.training.settings import Settings

OnEpoch = Callable[[str, Record], None]


def fit(
    model: Model,
    train: Dataset,
    val: Dataset | None = None,
    *,
    mode: str = "cached",
    cut: str | None = None,
    epochs: int = 5,
    batch_size: int = 64,
    optimizer: str | Optimizer | None = None,
    lr: float | None = None,
    lr_scale: float | Mapping[str, float] | None = None,
    schedule: str | Schedule = "constant",
    warmup: float = 0.0,
    label_smoothing: float = 0.0,
    augment: str | Augment | None = None,
    batch_norm: str = "auto",
    head_epochs: int | None = None,
    seed: int = 0,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    dtype: str = "float16",
    workers: int | None = None,
    cache: str | Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> Run:
    """Train `model` on `train`, and evaluate it on `val` after every epoch. `model` is not changed.

    `mode`: "cached" (the trunk runs once, its features are stored and the head is trained on them), "frozen"
    (the same head, with the trunk run in every epoch), "full" (everything is trained from the weights),
    "scratch" (everything, from random weights) or "staged" (the head on the cache for `head_epochs`, by
    default as many as `epochs`, then everything for `epochs`).
    `cut`: the last node of the trunk; everything behind it is the head. Default: the classifier's input.
    `optimizer`: "adamw", "sgd", an `hs.AdamW` or `hs.SGD`; default: see `headstart.training.modes`. `lr`
    replaces its learning rate. `lr_scale`: multiples of it by part: a number for all pretrained parameters that
    are trained, or a dict such as {"layer3": 0.1, "pretrained": 0.3} from modules to numbers, of which the
    innermost counts. `schedule`: "constant" or "cosine", after a rise over the
    share `warmup` of the steps, or an `hs.Schedule`, which brings its own warm-up.
    `augment`: "flip", "crop", "flip,crop" or an `hs.Augment`, drawn anew for each epoch and sample; with
    features from a cache that is impossible, and refused. In `staged` it is used in the second stage.
    `batch_norm`: "frozen" keeps the statistics of trained batch norms, "train" updates them, "auto" does the
    latter in "scratch" only.
    `dtype`: of cached features. `precision`: of the arithmetic. `seed`: of everything drawn.
    `on_epoch`: called with the stage ("head" or "all") and the record after each epoch.

    Raises SettingError and its kin for arguments, DataError for data that cannot be trained on, and whatever
    `extract` raises.
    """
    start = time.perf_counter()
    settings = Settings(
        mode=mode,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        lr_scale=lr_scale,
        schedule=schedule,
        warmup=warmup,
        label_smoothing=label_smoothing,
        augment=augment,
        batch_norm=batch_norm,
        head_epochs=head_epochs,
        seed=seed,
        device=device,
        precision=precision,
        dtype=dtype,
        workers=workers,
    )
    row = settings.row
    if settings.augmentation is not None and isinstance(model.preprocess, Arrays):
        raise SettingError(f"augment= crops and flips images, and the model takes {model.preprocess}")
    if row.frozen and not row.then_all:
        model = model.without_auxiliary()
    check_modules(model.params, settings.lr_scale)
    _check_data(model, train, "train")
    if val is not None:
        _check_data(model, val, "val")
    node = model.graph.check_cut(cut or model.default_cut) if row.frozen else None
    if cut is not None and node is None:
        model.graph.check_cut(cut)  # unused in these modes, but a typing error is one all the same
    name = backends.choose(backend, model.home)
    chosen = backends.load(name)
    job = _Job(
        replace(model, params=_initial(model, row, node, seed)),
        train,
        val,
        settings,
        chosen,
        chosen.place(device, precision),
        on_epoch,
        model.fresh if row.pretrained else model.params.keys(),
    )
    stats: ExtractionStats | None = None
    head_history = History()
    params = dict(job.model.params)
    if node is not None:
        if row.cached:
            extractor = Extractor(
                job.model,
                [node],
                backend=name,
                device=device,
                precision=precision,
                dtype=dtype,
                batch_size=batch_size,
                workers=workers,
                cache=cache,
            )
            feeds, stats = _resident(extractor, train, val)
            trunk = extractor.built_trunk
        else:
            trunk = pixel_trunk(job.model, [node], chosen, job.place)
            feeds = job.images(trunk, node)
        head = job.model.graph.after(node, model.input_shape)
        trained, history = job.stage("head", head, feeds, (head_epochs or epochs) if row.then_all else epochs)
        params |= trained
        _check_trunk(job.model, node, params, trunk)
        job.model = job.model.with_params(params)
        if row.then_all:
            head_history = history
    if node is None or row.then_all:
        graph = fed(job.model.graph, job.model)
        trained, history = job.stage("all", graph, job.images(None, None), epochs)
        params |= trained
    return Run(
        model=model.with_params(params),
        mode=mode,
        cut=node,
        backend=name,
        history=history,
        head_history=head_history,
        extraction=stats,
        seconds=time.perf_counter() - start,
        settings=job.record(),
    )


@dataclass
class _Job:
    """What all stages of one call share."""

    model: Model
    """as it is before the next stage"""
    train: Dataset
    val: Dataset | None
    settings: Settings
    backend: Backend
    place: Place
    on_epoch: OnEpoch | None
    fresh: Collection[str]
    """parameters that are not pretrained"""
    optimizers: dict[str, Any] = field(default_factory=dict)
    """stage -> what it was trained with"""

    def images(self, trunk: Trunk | None, node: str | None) -> tuple[Feed, Feed | None]:
        def feed(data: Dataset, augment: Augment | None) -> Feed:
            s = self.settings
            return Images(data, self.model.preprocess, s.batch_size, trunk, node, augment, s.seed, s.workers)

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
        multiples = rate_multiples(params, self.fresh, s.lr_scale)
        recipe = Recipe(optimizer, s.label_smoothing, s.train_statistics, s.seed, multiples)
        trainer = self.backend.trainer(graph, params, recipe, self.place)
        orders = [epoch_order(len(self.train), s.batch_size, s.seed, epoch) for epoch in range(epochs)]
        rates = s.rates.rates(optimizer.lr, sum(map(len, orders))).reshape(epochs, -1)
        records = []
        for epoch, (order, rate) in enumerate(zip(orders, rates, strict=True)):
            record = _epoch(trainer, train, val, order, rate, epoch)
            records.append(record)
            if self.on_epoch is not None:
                self.on_epoch(stage, record)
        return trainer.params(), History(records)

    def record(self) -> dict[str, Any]:
        """JSON-able: enough to repeat the run."""
        s = self.settings
        return {
            "epochs": s.epochs,
            "batch_size": min(s.batch_size, len(self.train)),
            "optimizer": self.optimizers,
            "lr_scale": s.lr_scale if s.lr_scale is None or isinstance(s.lr_scale, float) else dict(s.lr_scale),
            "schedule": vars(s.rates),
            "label_smoothing": s.label_smoothing,
            "augment": s.augmentation.as_dict() if s.augmentation else None,
            "batch_norm": "train" if s.train_statistics else "frozen",
            "seed": s.seed,
            "device": self.place.device,
            "precision": s.precision,
            "feature_dtype": s.dtype if s.row.cached else None,
            "threads": self.backend.threads(),
            "versions": backends.versions(self.backend.name),
        }


def _epoch(
    trainer: Trainer, train: Feed, val: Feed | None, order: np.ndarray, rates: np.ndarray, epoch: int
) -> Record:
    result = train.train(trainer, order, rates, epoch)
    seconds, val_loss, val_accuracy = result.seconds, None, None
    if val is not None:
        logits, more = val.logits(trainer)
        seconds += more
        val_loss = float(metrics.cross_entropy(logits, val.labels).mean())
        val_accuracy = metrics.accuracy(logits, val.labels)
    means = result.losses.mean(0, dtype=np.float64).tolist()
    return Record(
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


def _initial(model: Model, mode: Mode, node: str | None, seed: int) -> dict[str, np.ndarray]:
    """The parameters that a run starts from. A frozen trunk is the model's own, random or not; only the
    fresh part of what is trained comes from `seed`."""
    params = model.reseeded(seed, everything=not mode.pretrained)
    if node is not None:
        params |= {name: model.params[name] for name in model.graph.upto(node).param_shapes()}
    return params


def _resident(
    extractor: Extractor, train: Dataset, val: Dataset | None
) -> tuple[tuple[Feed, Feed | None], ExtractionStats]:
    features = [extractor(data) for data in (train, val) if data is not None]
    feeds = [Resident(f.numpy(), f.labels) for f in features]
    stats = ExtractionStats(
        sum(f.stats.extracted for f in features),
        sum(f.stats.reused for f in features),
        sum(f.stats.seconds for f in features),
        tuple(sorted({maker for f in features for maker in f.stats.made_by})),
    )
    return (feeds[0], feeds[1] if len(feeds) > 1 else None), stats


def _check_trunk(model: Model, node: str, params: Mapping[str, np.ndarray], trunk: Trunk | None) -> None:
    """A frozen trunk must be what it was, in the joined model and on the device that ran it."""
    names = model.graph.upto(node).param_shapes()
    before = params_digest({name: model.params[name] for name in names})
    if params_digest({name: params[name] for name in names}) != before:
        raise TrunkChangedError(f"training changed weights of the frozen trunk up to {node!r}; this is a bug")
    if trunk is not None:
        folded = frozen(model.graph.upto(node), model.params, [node])[1]
        if params_digest(trunk.params()) != params_digest(folded):
            raise TrunkChangedError(
                f"the device's copy of the frozen trunk up to {node!r} is not what it was given; this is a bug"
            )


def _check_data(model: Model, data: Dataset, what: str) -> None:
    if not len(data):
        raise DataError(f"the {what} data set {data.name!r} is empty")
    model.preprocess.check(data)
    labels = np.unique(data.labels)
    if labels[0] < 0 or labels[-1] >= len(model.classes):
        raise DataError(
            f"the {what} data set has the label {labels[0] if labels[0] < 0 else labels[-1]}; the model has "
            f"{len(model.classes)} classes, so labels are 0 to {len(model.classes) - 1}. Make the model with "
            "classes=data.classes"
        )
    if what == "train" and len(labels) < 2:
        raise DataError(f"all {len(data)} training samples are of one class; at least two are needed")
    if model.named_classes and data.classes != model.classes:
        raise DataError(
            f"the {what} data's classes {_few(data.classes)} are not the model's {_few(model.classes)}; "
            "make the model with classes=data.classes"
        )


def _few(names: tuple[str, ...]) -> str:
    return f"[{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}]"
