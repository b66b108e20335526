"""`fit`: a model, trained in one of the modes.

`modes` says what each mode trains, and what it is fed. A call is checked as a whole (`job`), its stages are
trained (`stages`, `loop`), and the result is a `Run`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from headstart.common.errors import DivergedWarning
from headstart.data import Dataset
from headstart.data.copies import warn_of_copies
from headstart.data.id_set import IdSet
from headstart.data.summary import say
from headstart.features.feature_set import FeatureSet
from headstart.models import Model
from headstart.training.history import History
from headstart.training.job import TrainingJob, job_of
from headstart.training.observers import EpochCallback, LogLine, Observer, Observers
from headstart.training.profiling import Profiler
from headstart.training.rates import trained_count, warn_frozen
from headstart.training.run import Run
from headstart.training.run_record import data_facts, first_convolutions
from headstart.training.settings import settings_of
from headstart.training.signatures import documented
from headstart.training.stage import HEAD_STAGE
from headstart.training.stages import Finished, first, settings_record, train_stages
from headstart.training.tensorboard import TensorBoard

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
    """Train `model` on `train`, and evaluate it on `val` after every epoch. `model` is not changed. Of data that
    came in named parts, `fit(model, data)` takes `data.train` and, if there is one, `data.val`.

    `train`, `val`: data sets, or what means one: the path of a folder or a table, a set of Hugging Face's
    library, a frame, a list of pairs (image, label), another library's map-style set. Or, for mode "cached",
    features that `extract` or `load_features` gave, where the images need not be at hand. Their labels are
    compared by the names of their classes, with each other and with the model's: `val` may lack some. DataWarning
    for copies in both, and for pictures with more than one label.

    Raises SettingError and its kin for arguments, DataError for data that cannot be trained on, NonFiniteError for
    what `debug_nans` finds, ProfileError, and whatever `extract` raises.
    """
    start = time.perf_counter()
    settings = settings_of("fit", options)
    job = job_of(model, train, val, settings)
    warn_of_copies(job.train, job.val)
    warn_frozen(job.model, job.mode)
    watching = tuple(_observers(job))
    say(job.train, job.val)
    with Observers(watching) as observers:
        stages = train_stages(job, observers)
    run = _run(job, stages, time.perf_counter() - start)
    if run.diverged:
        warnings.warn(
            f"the training of {model.name} in mode {settings.mode!r} has diverged: its last loss or its weights "
            "are not finite. A lower learning rate mends that; debug_nans=True finds where it began",
            DivergedWarning,
            stacklevel=2,
        )
    return run


def _observers(job: TrainingJob) -> Iterator[Observer]:
    """The observers that the settings ask for. SettingError for folders that cannot be written."""
    s = job.settings
    if s.profile is not None:
        yield Profiler(job.backend, s.profile)
    if s.tensorboard is not None:
        yield TensorBoard(s.tensorboard, validation=job.val is not None)
    yield LogLine(staged=job.mode.then_all)
    if s.on_epoch is not None:
        yield EpochCallback(s.on_epoch)


def _run(job: TrainingJob, stages: tuple[Finished, ...], seconds: float) -> Run:
    """The result of the job, from its finished stages."""
    start, last = job.model, stages[-1]
    trained = {name: value for done in stages for name, value in done.trained.params.items()}
    optimizers = {done.stage.name: done.stage.optimizer for done in stages}
    return Run(
        model=job.objective.trained(start.with_params({**start.params, **trained}), last.trained.threshold),
        mode=job.settings.mode,
        cut=job.cut,
        backend=job.backend.name,
        history=last.trained.history,
        head_history=stages[0].trained.history if len(stages) > 1 else History(),
        extraction=first(done.extraction for done in stages),
        seconds=seconds,
        settings=settings_record(job, optimizers, first(done.placement for done in stages)),
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
