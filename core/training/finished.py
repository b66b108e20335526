"""Stages that have been trained, and the run that they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from headstart.contract import registry
from headstart.contract.optimizers import as_dict
from headstart.data.id_set import IdSet
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.training.checks import cut_in
from headstart.training.history import History
from headstart.training.job import TrainingJob, may_follow
from headstart.training.loop import Trained
from headstart.training.placement import Placement
from headstart.training.rates import trained_count
from headstart.training.run import Run
from headstart.training.run_record import data_facts, first_convolutions
from headstart.training.stage import HEAD_STAGE, Stage

T = TypeVar("T")


@dataclass(frozen=True)
class Finished:
    """A stage that has been trained. The data that it was fed with are let go of."""

    stage: Stage
    trained: Trained
    extraction: ExtractionStats | None
    """of the features that it was fed with, if it was"""
    placement: Placement | None
    """of those features"""


def run_of(job: TrainingJob, stages: tuple[Finished, ...], seconds: float) -> Run:
    """The result of the job, from its finished stages."""
    start, last = job.model, stages[-1]
    trained = {name: value for done in stages for name, value in done.trained.params.items()}
    settings = settings_record(job, [done.stage for done in stages], first(done.placement for done in stages))
    if last.trained.solved is not None:
        settings["solved"] = dict(last.trained.solved)
    return Run(
        model=job.objective.trained(start.with_params({**start.params, **trained}), last.trained.threshold),
        mode=job.settings.mode,
        cut=job.cut,
        backend=job.backend.name,
        history=last.trained.history,
        head_history=stages[0].trained.history if len(stages) > 1 else History(),
        extraction=first(done.extraction for done in stages),
        seconds=seconds,
        settings=settings,
        data=data_facts(job.train, job.val),
        trained=trained_count(
            last.stage.graph if last.stage.name == HEAD_STAGE else start.graph, scratch=not job.mode.pretrained
        ),
        validation=last.trained.validation,
        outcome=last.trained.outcome,
        train_ids=IdSet.of(job.train.ids),
        before={name: start.params[name] for name in first_convolutions(start.graph)},
        val=job.val,
    )


def settings_record(job: TrainingJob, stages: Sequence[Stage], placement: Placement | None) -> dict[str, Any]:
    """JSON-able: enough to repeat the run."""
    stepped = stages if job.settings.solver is None else ()
    return {
        **job.settings.record(),
        **_made(job),
        **({} if job.settings.solver is None else {"solver": job.settings.solver}),
        **({} if job.settings.folds is None else {"folds": job.settings.folds}),
        **({} if may_follow(job.trained_graph) else {"batch_norm": "frozen"}),
        "batch_size": job.batch_size,
        "optimizer": {stage.name: as_dict(stage.optimizer) for stage in stepped},
        "stages": {stage.name: stage.record() for stage in stepped},
        "device": job.place.device,
        "device_facts": job.backend.device_facts(job.place),
        "precision": job.place.precision,
        **({} if job.objective.scale is None else {"targets": job.objective.scale.as_dict()}),
        "features": None if placement is None else placement.as_dict(),
        "threads": job.backend.threads(),
        "versions": registry.versions(job.backend.name),
    }


def _made(job: TrainingJob) -> dict[str, Any]:
    """What is known of features that came in place of pictures, and the settings do not say."""
    if not isinstance(job.train, FeatureSet) or job.cut is None:
        return {}
    return {"feature_dtype": job.train.folder(cut_in(job.train, job.model, job.cut)).dtype_name}


def first(values: Iterable[T | None]) -> T | None:
    """The first that is not None."""
    return next((value for value in values if value is not None), None)
