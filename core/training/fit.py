"""`fit`: a model, trained in one of the modes.

`modes` says what each mode trains, and what it is fed. A call is checked as a whole (`job`), its stages are
trained (`stages`, `loop`), and the result is a `Run`. What only some settings ask for is imported where they do: a
short training takes little longer than its imports.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from headstart.common.errors import DivergedWarning
from headstart.common.log import LOG
from headstart.common.text import folds_line
from headstart.data import Dataset
from headstart.data.copies import warn_of_copies, warn_of_copies_across
from headstart.data.summary import say
from headstart.data.untrained import warn_of_single, warn_of_single_in_folds
from headstart.features.feature_set import FeatureSet
from headstart.models import Model
from headstart.training.finished import run_of
from headstart.training.folds import CrossValidated, cross_validated, in_folds
from headstart.training.job import TrainingJob, job_of
from headstart.training.observers import EpochCallback, LogLine, Observer, Observers
from headstart.training.rates import warn_frozen
from headstart.training.run import Run
from headstart.training.settings import settings_of
from headstart.training.signatures import documented
from headstart.training.stages import train_stages
from headstart.training.unheeded import tell_unheeded

if TYPE_CHECKING:
    from typing import Unpack

    from headstart.training.checkpoints.keeping import Checkpoints
    from headstart.training.keywords import FitOptions

NOT_VALIDATED = (
    "{name}: nothing is validated, as there are no validation data, so the run has no scores; "
    "`train, val = data.split(0.8)` holds some out, and `fit(model, train, val)` takes them (--split, --val)"
)


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
    for copies in both, for pictures with more than one label, and for classes of one sample, which is on one side
    alone. With `folds`, `train` is cut into them, and there is no `val`; data that came in folds (`fold=` of
    `hs.data.table`) are held out in these.

    Raises SettingError and its kin for arguments, DataError for data that cannot be trained on, NonFiniteError for
    what `debug_nans` finds, ProfileError, CheckpointError for what `resume` cannot go on from, and whatever
    `extract` raises.
    """
    start = time.perf_counter()
    settings = settings_of("fit", options)
    train, val, settings = in_folds(train, val, settings)
    job = job_of(model, train, val, settings)
    if settings.solver is not None:
        from headstart.training.solving import check_solvable

        check_solvable(job)
    checkpoints = _checkpoints(job)
    warn_of_copies(job.train, job.val)
    warn_of_single(job.train, job.val)
    if settings.folds is not None:
        numbers = job.train.fold_numbers(settings.folds, settings.seed)
        warn_of_copies_across(job.train, numbers)
        warn_of_single_in_folds(job.train, numbers)
    warn_frozen(job.model, job.mode)
    tell_unheeded(job)
    watching = tuple(_observers(job))
    say(job.train, job.val)
    if job.val is None and settings.folds is None:
        LOG.info("%s", NOT_VALIDATED.format(name=job.train.name))
    of_folds = None if settings.folds is None else _of_folds(model, job)
    job = job if of_folds is None else of_folds.last(job)
    with Observers(watching) as observers:
        stages = train_stages(job, observers, checkpoints)
    earlier = 0.0 if checkpoints is None else checkpoints.earlier
    run = run_of(job, stages, earlier + time.perf_counter() - start)
    run = run if of_folds is None else of_folds.completed(run, job)
    if run.diverged:
        warnings.warn(
            f"the training of {model.name} in mode {settings.mode!r} has diverged: its last loss or its weights "
            "are not finite. A lower learning rate mends that; debug_nans=True finds where it began",
            DivergedWarning,
            stacklevel=2,
        )
    return run


def _checkpoints(job: TrainingJob) -> Checkpoints | None:
    if job.settings.checkpoint is None and job.settings.resume is None:
        return None
    from headstart.training.checkpoints.keeping import checkpoints_of

    return checkpoints_of(job)


def _of_folds(model: Model, job: TrainingJob) -> CrossValidated:
    from headstart.training.fold_heads import cross_validated_heads

    side_by_side = cross_validated_heads(job, [job])
    result = cross_validated(model, job, job.settings.seed) if side_by_side is None else side_by_side[0][0]
    LOG.info("%s; now on all %d samples", folds_line(result.scores), len(job.train))
    return result


def _observers(job: TrainingJob) -> Iterator[Observer]:
    """The observers that the settings ask for. SettingError for folders that cannot be written."""
    s = job.settings
    if s.profile is not None:
        from headstart.training.profiling import Profiler

        yield Profiler(job.backend, s.profile)
    if s.tensorboard is not None:
        from headstart.training.tensorboard import TensorBoard

        yield TensorBoard(s.tensorboard, validation=job.val is not None)
    yield LogLine(staged=job.mode.then_all, is_result=True)
    if s.on_epoch is not None:
        yield EpochCallback(s.on_epoch)
