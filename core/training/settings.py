"""The settings of a run, checked as one, before anything is read, extracted or started.

Invariant: settings that exist are sensible in themselves; only the data, the model and the machine can still be
at odds with them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headstart.common.errors import SettingError
from headstart.contract.optimizers import SGD, Optimizer, Schedule, optimizer_of, schedule_of
from headstart.contract.recipe import check_place
from headstart.data.augment import Augment
from headstart.features.extract import DTYPES, INPUT
from headstart.training.modes import MODES, Mode, mode_of
from headstart.training.placement import memory_limit
from headstart.training.rates import checked_scale

STATISTICS = ("auto", "frozen", "train")


def checked_folder(option: str, folder: str | Path) -> Path:
    """The folder that `option` names, made if need be. SettingError unless files can be written there."""
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise SettingError(f"{option}={folder!r}; expected the path of a folder")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingError(
            f"{option}={str(folder)!r}: nothing can be written there ({error.strerror or error})"
        ) from error
    return Path(folder)


@dataclass(frozen=True)
class Settings:
    """What `fit` was asked for; see there. Raises SettingError and its kin."""

    mode: str = "cached"
    cut: str | None = None
    epochs: int = 5
    batch_size: int = 64
    optimizer: str | Optimizer | None = None
    lr: float | None = None
    lr_scale: float | Mapping[str, float] | None = None
    schedule: str | Schedule = "constant"
    warmup: float = 0.0
    label_smoothing: float = 0.0
    augment: str | Augment | None = None
    batch_norm: str = "auto"
    head_epochs: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    dtype: str = "float16"
    workers: int | None = None
    views: int | None = None
    memory: int | str | None = None

    def __post_init__(self) -> None:
        for name in ("mode", "cut"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and (name == "mode" or value is not None):
                raise SettingError(f"{name}={value!r}; expected a name")
        mode = self.row
        for name in ("epochs", "batch_size", "head_epochs", "workers", "views", "seed"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if value is None and name in ("head_epochs", "workers", "views"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise SettingError(f"{name}={value!r}; expected an integer of {least} or more")
            object.__setattr__(self, name, int(value))  # numpy's integers are none to JSON
        if self.seed >= 2**32:
            raise SettingError(f"seed={self.seed}; expected an integer below 2**32")
        if self.head_epochs is not None and not mode.then_all:
            raise SettingError(f"head_epochs goes with mode 'staged', not with {mode.name!r}")
        number = isinstance(self.label_smoothing, int | float | np.integer | np.floating)
        if not number or not 0 <= self.label_smoothing < 1:
            raise SettingError(f"label_smoothing={self.label_smoothing!r}; expected 0 <= label_smoothing < 1")
        object.__setattr__(self, "label_smoothing", float(self.label_smoothing))
        for name, allowed in (("dtype", DTYPES), ("batch_norm", STATISTICS)):
            if getattr(self, name) not in allowed:
                raise SettingError(f"{name}={getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        check_place(self.device, self.precision)
        optimizer_of(self.optimizer, SGD(), self.lr)
        object.__setattr__(self, "lr_scale", checked_scale(self.lr_scale))
        schedule_of(self.schedule, self.warmup)
        object.__setattr__(self, "memory", memory_limit(self.memory))
        self._check_cache(mode)

    def _check_cache(self, mode: Mode) -> None:
        """What is asked of features must go with there being any."""
        if self.cut == INPUT and mode.frozen:
            raise SettingError(
                f"cut 'input' with mode {mode.name!r}: there is no trunk before it to keep frozen; it goes with "
                "'full' and 'scratch', which then read decoded images from the cache"
            )
        stored = mode.cached or self.cut == INPUT
        for name in ("views", "memory"):
            if getattr(self, name) is not None and not stored:
                raise SettingError(
                    f"{name}= is about features in the cache, which mode {mode.name!r} does not read"
                )
        if self.views is not None and self.augmentation is None:
            raise SettingError(f"views={self.views} without augmentation; pass augment= too, such as 'flip,crop'")
        once = self.cut == INPUT or not mode.then_all
        if self.augmentation is not None and stored and once and self.views is None:
            what = "cut 'input'" if self.cut == INPUT else f"mode {mode.name!r}"
            raise SettingError(
                f"augment= with {what}: what is cached is computed once, so a random crop "
                "or flip would be drawn once and frozen into the cache; pass views= to keep several, or use mode "
                + " or ".join(repr(other.name) for other in MODES.values() if not other.cached)
            )

    @property
    def row(self) -> Mode:
        """The mode's row of the table."""
        return mode_of(self.mode)

    @property
    def augmentation(self) -> Augment | None:
        return Augment.parse(self.augment)

    @property
    def rates(self) -> Schedule:
        """The schedule of learning rates."""
        return schedule_of(self.schedule, self.warmup)

    @property
    def train_statistics(self) -> bool:
        """Whether batch norms in what is trained follow the batches."""
        return self.batch_norm == "train" or (self.batch_norm == "auto" and not self.row.pretrained)
