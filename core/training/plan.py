"""What caching at each legal cut will cost and bring, before anything is extracted: bytes, seconds, and after how
many epochs the cache has paid for itself.

A few cuts are measured on a few batches (`planning.measuring`), and the other cuts lie between them by
multiply-adds and bytes (`planning.predicting`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.common.machine import cache_root
from headstart.contract import registry
from headstart.data import Dataset
from headstart.data.door import check_data_set
from headstart.data.order import epoch_shape
from headstart.data.summary import say
from headstart.features.trunk_keys import key_of
from headstart.models import Model, check_model
from headstart.store.feature_store import FeatureStore
from headstart.store.keys import stored_dtype
from headstart.training.checks import check_sets, in_parts, opened
from headstart.training.objective import objective_of
from headstart.training.placement import bytes_to_hold, memory_limit, where_to
from headstart.training.planning.measuring import Bench
from headstart.training.planning.predicting import (
    Load,
    Work,
    between,
    cuts_to_measure,
    distinct_cuts,
    predicted,
    work_at_cuts,
)
from headstart.training.planning.table import Budget, CutPlan, Plan
from headstart.training.settings import settings_of
from headstart.training.signatures import documented
from headstart.training.stage import most_epochs

if TYPE_CHECKING:
    from typing import Unpack

    from headstart.training.keywords import PlanOptions

__all__ = ["Budget", "CutPlan", "Plan", "plan"]


@documented
def plan(
    model: Model,
    train: Dataset,
    val: Dataset | None = None,
    *,
    cuts: str | Sequence[str] | None = None,
    budget: str | Budget | None = None,
    **options: Unpack[PlanOptions],
) -> Plan:
    """Predict for each cut of `model` what `fit` in the modes "cached" and "frozen" will take on these data sets
    with the same arguments. `cuts`: default all legal ones, but of those that cost the same and have the same
    shape, as before and behind an activation, the last, or the default one.

    Takes seconds to a minute or two, most of it in the framework's compiler: a few batches are run at up to six
    cuts, at all of them where `cuts` are named. `budget`: bytes of the cache ("2GB"), time of extraction and all
    epochs ("10min"), or both ("2GB,10min"); `Plan.best` is then the cut that trains the most within it.

    Raises CutError, SettingError and its kin, ImageError for an image that cannot be decoded.
    """
    settings = settings_of("plan", options)
    limits = Budget.parse(budget)
    check_model(model)
    model = model.without_auxiliary()
    train, val = opened(train, val)
    for argument, data in (("train", train), ("val", val)):
        if data is not None or argument == "train":
            check_data_set(data, argument)
    train, val = in_parts(train, val)
    check_sets(model, settings, train, val)
    work = work_at_cuts(model, stored_dtype(settings.dtype).itemsize)
    planned, measured = _cuts(model, cuts, work)
    framework = registry.load(registry.choose(settings.backend, model.home))
    place = framework.place(settings.device, settings.precision)
    say(train, val)
    batch = min(settings.batch_size, len(train))
    bench = Bench(
        model,
        train,
        val,
        work,
        framework,
        place,
        batch=batch,
        optimizer=settings.optimizer,
        objective=objective_of(settings, model, train),
        dtype=settings.dtype,
        workers=settings.workers,
        cache=Path(cache_root(settings.cache)),
    )
    measurements = bench.measure(measured)
    rates, points = measurements.rates, between(planned, work, measurements.points)
    ids = {*train.ids, *(val.ids if val else ())}
    load = Load(len(train), len(val) if val else 0, len(ids), batch)
    steps, _ = epoch_shape(len(train), batch)
    limit = bytes_to_hold(memory_limit(settings.memory))
    store, free = FeatureStore(settings.cache), framework.memory(place)

    def epochs_of(cut: str) -> int:
        head = model.graph.after(cut, model.input_shape)
        return settings.epochs or most_epochs(settings, head, False, steps, monitored=val is not None)

    def plan_of(cut: str) -> CutPlan:
        key = key_of(model, cut, precision=settings.precision, dtype=settings.dtype)
        return predicted(
            cut,
            work[cut],
            points[cut],
            rates,
            load,
            epochs=epochs_of(cut),
            missing=len(store.folder(key, work[cut].shape).missing(sorted(ids), fetch=False)),
            where=where_to((load.train + load.val) * work[cut].row_nbytes, limit, free),  # copies are held twice
            measured=cut in measurements.points,
        )

    facts = {
        "backend": framework.name,
        "versions": registry.versions(framework.name),
        "device": place.device,
        "device_facts": framework.device_facts(place),
        "precision": place.precision,
        "threads": framework.threads(),
        "samples": load.train + load.val,
        "batch_size": batch,
        "measured": list(measured),
        **rates.as_dict(),
    }
    about = {
        "name": train.name,
        "train": load.train,
        "val": load.val,
        "task": train.task,
        "classes": list(train.classes),
    }
    return Plan(tuple(map(plan_of, planned)), facts, limits, about, model.describe())


def _cuts(model: Model, cuts: str | Sequence[str] | None, work: Mapping[str, Work]) -> tuple[list[str], list[str]]:
    """Those that are planned, and those that are measured for it, in the graph's order. CutError."""
    if cuts:
        named = {model.graph.check_cut(cut) for cut in ([cuts] if isinstance(cuts, str) else cuts)}
        planned = [cut for cut in work if cut in named]
        return planned, planned
    planned = distinct_cuts(work, model.default_cut)
    return planned, cuts_to_measure(planned, work)
