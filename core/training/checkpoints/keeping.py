"""When a training writes its checkpoint, and how it goes on from one.

Invariant: nothing here changes what is trained. A checkpoint that cannot be written, as on a full disk, is a
WatchingWarning, and the training goes on.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from blake3 import blake3

from headstart.common.errors import BackendError, CheckpointError, HeadstartError, SettingError, WatchingWarning
from headstart.common.log import LOG
from headstart.common.places import expanded
from headstart.contract import registry
from headstart.contract.checked import checked_params
from headstart.contract.description import STATE
from headstart.contract.optimizers import as_dict
from headstart.contract.running import Trainer
from headstart.store.keys import spec_digest
from headstart.training.checkpoints.files import (
    TRAINING,
    Content,
    read_stage,
    read_terms,
    stage_file,
    write_stage,
    write_terms,
)
from headstart.training.checkpoints.terms import check_terms, digest_of, terms_of
from headstart.training.feeds import Feeds
from headstart.training.finished import Finished, run_of
from headstart.training.history import History
from headstart.training.job import TrainingJob
from headstart.training.loop import Trained, result_of
from headstart.training.saving import save
from headstart.training.settings import checked_folder
from headstart.training.stage import Stage
from headstart.training.standing import Standing

LEAST_SECONDS = 1.0
"""between two writes: what a kill loses at most, where writing is quick"""
SHARE = 10.0
"""times as long as the last write took it is trained before the next: writing costs a tenth at most"""
PARAM, STATE_OF, OUTPUTS = "best.", "trainer.", "outputs"
"""how the names of arrays begin: parameters after the best epoch, the trainer's state, and the outputs"""

SoFar = Callable[[Trained], tuple[Finished, ...]]
"""what a stage has given by now -> it and the stages before it, as if it were finished"""


class Checkpoints:
    """Of one training: where it goes on from, and where it writes."""

    def __init__(self, job: TrainingJob, folder: Path, source: Path | None) -> None:
        """`folder`: where it writes; `source`: where it goes on from, None where it begins. CheckpointError and
        SettingError as `checkpoints_of` has them."""
        self.job, self.folder, self.source = job, folder, source
        self.begun, self.earlier = time.perf_counter(), 0.0
        """when this process began, and the seconds that those before it had taken until what they kept"""
        terms = terms_of(job)
        self.terms = digest_of(terms)
        if source is not None:
            check_terms(source, read_terms(source), terms)
        if source is None or source.resolve() != folder.resolve():
            if (folder / TRAINING).exists():
                raise SettingError(
                    f"checkpoint={str(folder)!r}: a training's checkpoint is there already; go on with it by "
                    "resume=, or name another folder"
                )
            write_terms(checked_folder("checkpoint", folder), terms)

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, in all processes."""
        return self.earlier + time.perf_counter() - self.begun

    def begin(self, stage: Stage, trainer: Trainer, feeds: Feeds, so_far: SoFar) -> tuple[Standing, Keeper]:
        """How far the stage is, which the trainer goes on from, and who keeps it. CheckpointError where what was
        kept is damaged, SettingError where the samples would come in another order."""
        standing = Standing(stage)
        order = order_of(stage, feeds)
        content = None if self.source is None else read_stage(stage_file(self.source, stage.name))
        keeper = Keeper(self, stage, trainer, order, so_far)
        if content is not None and self.source is not None:
            path = stage_file(self.source, stage.name)
            standing = self._standing(path, content, stage, order)
            state = {n.removeprefix(STATE_OF): a for n, a in content.arrays.items() if n.startswith(STATE_OF)}
            trainer.load_state(state)
            self.earlier = max(self.earlier, content.about.get("seconds") or 0.0)  # of the last stage all of it
            LOG.info("%s: %d of %d epochs are done in %s", stage.name, len(standing.records), stage.epochs, path)
            if self.source.resolve() != self.folder.resolve():
                keeper.write(standing)
        return standing, keeper

    def _standing(self, path: Path, content: Content, stage: Stage, order: str) -> Standing:
        about, arrays = content.about, content.arrays
        if about["terms"] != self.terms or about["stage"] != stage.name:
            raise CheckpointError(f"{path}: of another training than {TRAINING} beside it")
        if about["recipe"] != recipe_digest(stage):
            raise SettingError(
                f"resume={str(path.parent)!r}: the steps would be others than that training's: its optimizer, "
                "learning rates or loss by default are not those of this version of headstart; go on with the "
                f"version that {TRAINING} there names, or begin anew: checkpoint= and another folder"
            )
        if about["order"] != order:
            raise SettingError(
                f"resume={str(path.parent)!r}: the samples would come in another order than that training's. "
                "Features that are read from the disk come as they lie there, in pools as memory= has them: pass "
                "what it had, with the cache that it had"
            )
        validated = self.job.val is not None
        try:
            records = list(History.from_list(about["records"], validated))
        except (TypeError, KeyError) as error:
            raise CheckpointError(f"{path}: its records cannot be read ({error!r})") from error
        params = {n.removeprefix(PARAM): a for n, a in arrays.items() if n.startswith(PARAM)} or None
        outputs = arrays.get(OUTPUTS)
        standing = Standing(stage, records, params, outputs, about["over"])
        expected = {name: (value.shape, value.dtype) for name, value in stage.params.items()}
        try:
            checked_params(self.job.backend.name, params or stage.params, expected)
        except BackendError as error:
            raise CheckpointError(f"{path}: its parameters are not those of the model") from error
        known = (params is None) == (standing.best.record is None)
        rows = None if outputs is None else len(outputs)
        if not known or not 0 < len(records) <= stage.epochs or (validated and rows != len(self.job.val or ())):
            raise CheckpointError(f"{path}: its records, parameters and outputs do not go together")
        return standing


class Keeper:
    """Writes how far one stage is: what is called after each epoch."""

    def __init__(
        self,
        of: Checkpoints,
        stage: Stage,
        trainer: Trainer,
        order: str,
        so_far: SoFar,
    ) -> None:
        self.of, self.stage, self.trainer, self.order, self.so_far = of, stage, trainer, order, so_far
        self.due = time.monotonic() + LEAST_SECONDS
        self.saved: int | None = None
        """the epoch whose run was saved last"""
        self.told = False

    def __call__(self, standing: Standing) -> None:
        """Write it where it is due, or the stage is over."""
        if not standing.over and time.monotonic() < self.due:
            return
        begun = time.monotonic()
        try:
            self.write(standing)
        except (HeadstartError, OSError) as error:
            if not self.told:
                reason = getattr(error, "strerror", None) or error
                warnings.warn(
                    f"the checkpoint in {self.of.folder} cannot be written ({reason}); the training goes on, and "
                    "it is tried again",
                    WatchingWarning,
                    stacklevel=4,
                )
            self.told = True
        now = time.monotonic()
        self.due = now + max(LEAST_SECONDS, SHARE * (now - begun))

    def write(self, standing: Standing) -> None:
        """The run first: so what the state says is done has a run that is as far. Raises SettingError."""
        params = standing.params or self.trainer.params()
        best = standing.history.best_epoch
        if standing.over or best != self.saved:
            val = self.of.job.val
            plain, objective = self.stage.plain(params), self.stage.objective
            trained = result_of(plain, standing.history, objective, standing.outputs, val)
            save(run_of(self.of.job, self.so_far(trained), self.of.seconds), self.of.folder)
            self.saved = best
        arrays = {f"{STATE_OF}{name}": array for name, array in self.trainer.state().items()}
        if standing.params is not None:
            arrays |= {f"{PARAM}{name}": array for name, array in standing.params.items()}
        if standing.outputs is not None:
            arrays[OUTPUTS] = np.asarray(standing.outputs)
        about = {
            "terms": self.of.terms,
            "stage": self.stage.name,
            "recipe": recipe_digest(self.stage),
            "order": self.order,
            "records": standing.history.as_list(),
            "over": standing.ended,
            "seconds": self.of.seconds,
        }
        write_stage(stage_file(self.of.folder, self.stage.name), Content(about, arrays))


def checkpoints_of(job: TrainingJob) -> Checkpoints:
    """Those of a job whose settings ask for some. MissingAbilityError where its backend gives no state;
    SettingError where nothing can be written, another checkpoint is in the way, or the one to go on from is of a
    training that differs; CheckpointError where none is there, or it is damaged."""
    s = job.settings
    registry.describe(job.backend.name).require(job.backend.name, STATE)
    source = None if s.resume is None else expanded(s.resume)
    folder = source if s.checkpoint is None else expanded(s.checkpoint)
    assert folder is not None
    return Checkpoints(job, folder, source)


def recipe_digest(stage: Stage) -> str:
    """A digest of what its steps are, the defaults of this version included."""
    recipe = stage.recipe
    return spec_digest(
        {
            "optimizer": as_dict(recipe.optimizer),
            "loss": repr(recipe.loss),
            "statistics": recipe.train_statistics,
            "seed": recipe.seed,
            "multiples": dict(recipe.rates),
            "rates": [list(stage.rates.shape), blake3(stage.rates.tobytes()).hexdigest()],
            "monitor": repr(stage.monitor),
        }
    )


def order_of(stage: Stage, feeds: Feeds) -> str:
    """A digest of the first epoch's order: with seed and epoch it stands for all of them. What is read from the
    disk comes in blocks, as its rows lie there and as memory allows."""
    order = feeds.train.order(stage.batch_size, stage.seed, 0)
    return blake3(np.ascontiguousarray(order).tobytes()).hexdigest(length=16)
