"""The stages of a mode, one after the other: the head on features or behind a frozen trunk, the whole network on
images, or first the one and then the other.

Invariant: a frozen trunk is bit-equal before and after a stage; see `frozen_trunk`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from headstart.common.log import LOG
from headstart.contract.running import Trainer
from headstart.features.inference import fed
from headstart.features.trunk_keys import INPUT
from headstart.graph import Graph
from headstart.models import Model
from headstart.models.model import count_params
from headstart.training.company import check_trained
from headstart.training.feeding import Fed, from_cache, from_images
from headstart.training.feeds import Feeds
from headstart.training.finished import Finished, first, settings_record
from headstart.training.frozen_trunk import check_trunk
from headstart.training.job import TrainingJob
from headstart.training.loop import Trained, run_stage
from headstart.training.observers import Observers
from headstart.training.rates import check_kept
from headstart.training.stage import ALL_STAGE, HEAD_STAGE, Stage, stage_of
from headstart.training.standardizing import Standardization
from headstart.training.standing import Standing

if TYPE_CHECKING:
    from headstart.training.checkpoints.keeping import Checkpoints, Keeper


def train_stages(
    job: TrainingJob, observers: Observers, checkpoints: Checkpoints | None = None
) -> tuple[Finished, ...]:
    """Train what the job's mode trains: one stage, or two. `checkpoints`: where they go on from and are kept."""
    model, cut = job.model, job.cut
    observers.start(model, cut)
    if job.settings.debug_nans:
        from headstart.training.nans.watch import check_weights

        check_weights(model, cut, ALL_STAGE if cut is None else HEAD_STAGE)
    finished: tuple[Finished, ...] = ()
    if cut is not None:
        finished = (_train_head(job, cut, observers, checkpoints),)
        model = model.with_params({**model.params, **finished[0].trained.params})
    if cut is None or job.mode.then_all:
        finished = (*finished, _train_all(job, model, finished, observers, checkpoints))
    return finished


def _train_head(job: TrainingJob, cut: str, observers: Observers, checkpoints: Checkpoints | None) -> Finished:
    source = from_cache(job, cut) if job.mode.cached else from_images(job, cut)
    graph = job.model.graph.after(cut, job.model.input_shape)
    stage = head_stage(job, graph, source.standardization)
    finished = _train(job, stage, source, (), observers, checkpoints)
    params = {**job.model.params, **finished.trained.params}
    check_trunk(job.model, cut, params, source.trunk, job.place.precision)
    return finished


def head_stage(job: TrainingJob, graph: Graph, standardization: Standardization | None) -> Stage:
    """The stage in which `graph` is trained, what follows the job's cut."""
    epochs = job.settings.epochs
    if job.mode.then_all:
        epochs = job.settings.head_epochs or epochs  # None: as many as a head takes
    return stage_of(
        HEAD_STAGE,
        graph,
        job.model.params,
        job.settings,
        objective=job.objective,
        fresh=job.fresh,
        samples=len(job.train),
        epochs=epochs,
        monitor=job.monitor,
        standardization=standardization,
        length=job.lengths.get(HEAD_STAGE),
    )


def _train_all(
    job: TrainingJob,
    model: Model,
    earlier: tuple[Finished, ...],
    observers: Observers,
    checkpoints: Checkpoints | None,
) -> Finished:
    """`model`: as it is by now."""
    source = from_cache(job, INPUT) if job.settings.cut == INPUT else from_images(job, None)
    stage = stage_of(
        ALL_STAGE,
        fed(model.graph, model),
        model.params,
        job.settings,
        objective=job.objective,
        fresh=job.fresh,
        samples=len(job.train),
        epochs=job.settings.epochs,
        monitor=job.monitor,
        length=job.lengths.get(ALL_STAGE),
    )
    return _train(job, stage, source, earlier, observers, checkpoints)


def _train(
    job: TrainingJob,
    stage: Stage,
    source: Fed,
    earlier: tuple[Finished, ...],
    observers: Observers,
    checkpoints: Checkpoints | None,
) -> Finished:
    stages = [*(done.stage for done in earlier), stage]
    placement = source.placement or first(done.placement for done in earlier)
    about = {
        "model": job.model.name,
        "mode": job.settings.mode,
        "cut": job.settings.cut,
        "backend": job.backend.name,
        **settings_record(job, stages, placement),
    }

    def finished(trained: Trained) -> Finished:
        return Finished(stage, trained, source.extraction, source.placement)

    def begin(trainer: Trainer) -> tuple[Standing, Keeper] | tuple[None, None]:
        if checkpoints is None:
            return None, None
        return checkpoints.begin(stage, trainer, source.feeds, lambda so_far: (*earlier, finished(so_far)))

    if job.settings.solver is not None:
        from headstart.training.solving import solved_stage

        return finished(solved_stage(job, stage, source.feeds, observers, about))
    return finished(train_stage(job, stage, source.feeds, observers, about, begin))


def train_stage(
    job: TrainingJob,
    stage: Stage,
    feeds: Feeds,
    observers: Observers,
    about: Mapping[str, Any],
    begin: Callable[[Trainer], tuple[Standing, Keeper] | tuple[None, None]] | None = None,
) -> Trained:
    """Make a trainer for a stage of the job, and train. `about`: JSON-able, what observers are told of the run.
    `begin`: puts the trainer where the stage goes on, and says how far that is and who keeps it; None: it begins.

    Raises what `trainer_of` does; NonFiniteError where `debug_nans` finds a value that is not finite.
    """
    trainer, feeds = trainer_of(job, stage, feeds)
    observers.stage(stage, about)
    standing, keep = (None, None) if begin is None else begin(trainer)
    trained = run_stage(stage, trainer, feeds, observers, standing, keep)
    observers.done(stage, trained.history)
    check_kept(stage.kept, stage.params, trained.params)
    return trained


def trainer_of(job: TrainingJob, stage: Stage, feeds: Feeds) -> tuple[Trainer, Feeds]:
    """A trainer for a stage of the job, and the feeds to train it with.

    SettingError where a wrapped module gives a sample something else in other company."""
    LOG.debug(
        "%s: training %d parameters with %s on %s, %s, %d threads",
        stage.name, count_params(stage.graph), stage.optimizer, job.place.device, job.place.precision,
        job.backend.threads(),
    )  # fmt: skip
    trainer = job.backend.trainer(stage.graph, stage.params, stage.recipe, job.place)
    if job.model.home is not None and not (job.mode.then_all and stage.name == ALL_STAGE):
        check_trained(stage.graph, trainer, feeds, job.backend, job.place, job.model.graph)
    if job.settings.debug_nans:
        from headstart.training.nans.watch import watched

        trainer, feeds = watched(trainer, stage, feeds, job.backend, job.place)
    return trainer, feeds
