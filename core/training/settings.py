"""The settings of a run, checked as one, before anything is read, extracted or started.

Invariant: settings that exist are sensible in themselves; only the data, the model and the machine can still be
at odds with them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.common.errors import SettingError
from headstart.common.places import expanded
from headstart.contract.optimizers import SGD, Schedule, optimizer_of, schedule_of
from headstart.contract.recipe import FLOAT16
from headstart.contract.registry import check_place
from headstart.data.augment import Augment
from headstart.features.trunk_keys import INPUT
from headstart.training.modes import MODES, Mode, mode_of
from headstart.training.options import OPTIONS, Caching, Computing, Folding, Keeping, Stopping, Training, Watching
from headstart.training.options.stopping import monitor_named
from headstart.training.placement import memory_limit
from headstart.training.rates import checked_scale
from headstart.training.sample_weights import checked_weights
from headstart.training.signatures import check_keywords

OF_STEPS = (
    *("epochs", "max_epochs", "patience", "monitor", "min_delta"),
    *("optimizer", "lr", "lr_scale", "schedule", "warmup"),
    *("checkpoint", "resume"),
)
"""options that a head that is solved does not read"""
OF_ONE_TRAINING = ("checkpoint", "resume", "debug_nans")


def checked_folder(option: str, folder: str | Path) -> Path:
    """The folder that `option` names, made if need be. SettingError unless files can be written there."""
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise SettingError(f"{option}={folder!r}; expected the path of a folder")
    expanded(folder)
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
class Settings(Keeping, Watching, Caching, Computing, Folding, Stopping, Training):
    """All options of one run, by their names; see `options`. Raises SettingError and its kin."""

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            object.__setattr__(self, name, option.checked(getattr(self, name)))
        object.__setattr__(self, "monitor", monitor_named(self.monitor))
        mode = self.training_mode
        check_place(self.device, self.precision)
        if self.precision == FLOAT16 and (not mode.frozen or mode.then_all):
            raise SettingError(
                f"precision='float16' with mode {mode.name!r}, which trains the whole network: gradients leave "
                "float16's range; use precision='bfloat16', or mode 'cached' or 'frozen'"
            )
        optimizer_of(self.optimizer, SGD(), self.lr)
        object.__setattr__(self, "lr_scale", checked_scale(self.lr_scale))
        object.__setattr__(self, "class_weights", checked_weights("class_weights", self.class_weights))
        object.__setattr__(self, "pos_weight", checked_weights("pos_weight", self.pos_weight, zero=False))
        self._check_schedule()
        self._check_length()
        object.__setattr__(self, "memory", memory_limit(self.memory))
        if self.cut == INPUT and mode.frozen:
            raise SettingError(
                f"cut 'input' with mode {mode.name!r}: there is no trunk before it to keep frozen; it goes with "
                "'full' and 'scratch', which then read decoded images from the cache"
            )
        for name, why in unread(mode, self.cut).items():
            if getattr(self, name) is not None:
                raise SettingError(why)
        self._check_augmentation(mode)
        self._check_solver(mode)
        self._check_folds()

    def _check_schedule(self) -> None:
        """A schedule that is made by hand has a warm-up, and there is one only."""
        schedule = self.schedule_with(0.0)
        if self.warmup is not None and schedule.warmup != self.warmup:
            raise SettingError(
                f"warmup={self.warmup} with schedule={schedule}, which has a warm-up of its own; leave out "
                f"warmup=, or pass hs.Schedule({schedule.kind!r}, {self.warmup})"
            )

    def _check_length(self) -> None:
        """By hand, a number of epochs is just that; what is to stop has to know by what."""
        for name in ("max_epochs", "patience"):
            value = getattr(self, name)
            if value is not None and self.epochs is not None:
                raise SettingError(
                    f"{name}={value} with epochs={self.epochs}: epochs are trained to the last of them; pass "
                    "max_epochs= instead of epochs= for a training that may end earlier"
                )
        if self.patience is not None and self.monitor is None:
            raise SettingError(f"patience={self.patience} with monitor=None: nothing says which epochs are better")
        if self.min_delta and self.monitor is None:
            raise SettingError(f"min_delta={self.min_delta} with monitor=None: no epoch is better than another")

    def _check_augmentation(self, mode: Mode) -> None:
        """Views are of something, and what is cached is not augmented without them."""
        if self.views is not None and self.augmentation is None:
            raise SettingError(f"views={self.views} without augmentation; pass augment= too, such as 'flip,crop'")
        stored = mode.cached or self.cut == INPUT
        once = self.cut == INPUT or not mode.then_all
        if self.augmentation is not None and stored and once and self.views is None:
            what = "cut 'input'" if self.cut == INPUT else f"mode {mode.name!r}"
            raise SettingError(
                f"augment= with {what}: what is cached is computed once, so a random crop "
                "or flip would be drawn once and frozen into the cache; pass views= to keep several, or use mode "
                + " or ".join(repr(other.name) for other in MODES.values() if not other.cached)
            )

    def _check_solver(self, mode: Mode) -> None:
        """What is solved has its features in the cache, and takes no steps."""
        if self.solver is None:
            return
        if not mode.cached or mode.then_all:
            raise SettingError(
                f"solver={self.solver!r} with mode {mode.name!r}, which trains step by step; a head is solved on "
                "features in the cache, in mode 'cached'"
            )
        for name in OF_STEPS:
            if getattr(self, name) != OPTIONS[name].default:
                raise SettingError(
                    f"{name}={getattr(self, name)!r} with solver={self.solver!r}: a head that is solved takes no "
                    "steps; leave one of them out"
                )
        if not self.standardize:
            raise SettingError(
                f"standardize=False with solver={self.solver!r}, which is solved on standardised features; "
                "leave out one of them"
            )
        if self.views is not None:
            raise SettingError(
                f"views={self.views} with solver={self.solver!r}, which takes every sample once; leave out one of "
                "them, and augment= with views="
            )

    def _check_folds(self) -> None:
        """Folds are several trainings; these options are about one."""
        if self.folds is None:
            return
        for name in OF_ONE_TRAINING:
            if getattr(self, name):
                raise SettingError(
                    f"{name}={getattr(self, name)!r} with folds={self.folds}, which trains {self.folds + 1} "
                    f"times; {name} is about one training. Leave out one of them"
                )

    @property
    def training_mode(self) -> Mode:
        """What the mode trains, and what it is fed."""
        return mode_of(self.mode)

    @property
    def augmentation(self) -> Augment | None:
        return Augment.parse(self.augment)

    def schedule_with(self, warmup: float) -> Schedule:
        """The schedule of learning rates, with this warm-up where none is asked for."""
        return schedule_of(self.schedule, warmup if self.warmup is None else self.warmup)

    @property
    def train_statistics(self) -> bool:
        """Whether batch norms in what is trained follow the batches."""
        return self.batch_norm == "train" or (self.batch_norm == "auto" and not self.training_mode.pretrained)

    def record(self) -> dict[str, Any]:
        """JSON-able: what a run's record has of each option that it names, as it was meant for this mode."""

        def plain(value: Any) -> Any:
            return dict(value) if isinstance(value, Mapping) else value

        by_hand = self.warmup is not None or isinstance(self.schedule, Schedule)
        features = self.dtype if self.training_mode.cached else "uint8" if self.cut == INPUT else None
        meant = {
            "lr_scale": plain(self.lr_scale),
            "schedule": {**vars(self.schedule_with(0.0)), **({} if by_hand else {"warmup": None})},
            "class_weights": plain(self.class_weights),
            "pos_weight": plain(self.pos_weight),
            "augment": self.augmentation.as_dict() if self.augmentation else None,
            "batch_norm": "train" if self.train_statistics else "frozen",
            "dtype": features,
        }
        recorded = {name: option.recorded for name, option in OPTIONS.items() if option.recorded}
        return {key: meant.get(name, getattr(self, name)) for name, key in recorded.items()}


def settings_of(function: str, keywords: Mapping[str, Any]) -> Settings:
    """The settings that the keywords of the `documented` function of this name make. UnknownOptionError for one
    that it has not, SettingError and its kin for values."""
    check_keywords(function, keywords)
    return Settings(**keywords)


def unread(mode: Mode, cut: str | None) -> dict[str, str]:
    """The options that a mode does not read, each with the sentence that says so to who passes it."""
    reasons = {}
    if not mode.then_all:
        reasons["head_epochs"] = f"head_epochs goes with mode 'staged', not with {mode.name!r}"
    if not mode.cached and cut != INPUT:
        for name in ("views", "memory", "extraction_batch", "push", "engine"):
            reasons[name] = f"{name}= is about features in the cache, which mode {mode.name!r} does not read"
    return reasons


def modes_named(modes: str | Iterable[str]) -> tuple[str, ...]:
    """Those of a comparison; one name stands for a list of it. SettingError where one is named twice."""
    names = (modes,) if isinstance(modes, str) else tuple(modes)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise SettingError(f"modes named twice: {', '.join(repeated)}")
    return names


def options_by_mode(modes: Sequence[str], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each mode of a comparison, the options that go to its run: those that the mode reads. SettingError and
    its kin where one of the runs cannot be, and for an option that none of the modes reads."""
    reasons = [unread(mode_of(mode), options.get("cut")) for mode in modes]
    for name, value in options.items():
        if value is not None and reasons and all(name in reason for reason in reasons):
            raise SettingError(reasons[0][name])
    runs = []
    for mode, reason in zip(modes, reasons, strict=True):
        runs.append({"mode": mode, **{name: value for name, value in options.items() if name not in reason}})
        Settings(**runs[-1])
    return runs
