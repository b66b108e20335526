"""Every option of training, said once: its type, its default, what it may be, its sentence of help, who takes it.

From the fields below are made: `Settings`; the keyword arguments of `fit`, `sweep`, `plan`, `compare` and
`compare_modes`, and what their documentation says of them; the options of the command line; what a run's record
and the report list.

For whoever makes a command line (or a form) of them, with whatever library: `fields_for("fit")` has an `Option`
for each keyword of that function, in their order, and `flags_for("fit")` only those that have a place on a command
line. An `Option` has the flag ("--lr-scale"), the type of its text, `parse` where that text is to become something
else, the default (`default_of("compare")`), the sentence of help, what is done where it is
left out (`unset`), and the names that it may be, where they can be listed (`allowed`). What the text has become
goes to the function as it is, and the function checks it. `OPTIONS["device"]` is one option, for other commands.

Invariant: importing this needs no numpy; see `option`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from headstart.common.errors import SettingError
from headstart.training.option import (
    BY_ITSELF,
    FOLDER,
    FUNCTION,
    FUNCTIONS,
    IN_PROCESS,
    NAME,
    SHARE,
    SWITCH,
    THAT_TRAIN,
    Option,
    Rule,
    one_known,
    one_of,
    option,
    whole,
)

if TYPE_CHECKING:
    from headstart.contract.optimizers import Optimizer, Schedule
    from headstart.data.augment import Augment
    from headstart.training.history import OnEpoch


def class_weights_of(text: str) -> str | dict[str, float]:
    """A word as it is, or "daisy=2,roses=0.5" as a dict; SettingError otherwise."""
    return _weights_of("--class-weights", text)


def pos_weight_of(text: str) -> str | dict[str, float]:
    """As `class_weights_of`."""
    return _weights_of("--pos-weight", text)


def _weights_of(flag: str, text: str) -> str | dict[str, float]:
    if "=" not in text:
        return text
    weights = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, weight = part.rpartition("=")
        try:
            weights[name.strip()] = float(weight)
        except ValueError:
            raise SettingError(f"{flag} {text!r}; expected balanced, or names such as daisy=2,roses=0.5") from None
    return weights


def monitor_named(text: str) -> str | None:
    """A name as it is; "none" is None."""
    return None if text == "none" else text


def threshold_of(text: str) -> str | float:
    """A number where it is one, else the word."""
    try:
        return float(text)
    except ValueError:
        return text


def scale_of(text: str) -> float | dict[str, float]:
    """ "0.1", or "layer3=0.1,pretrained=0.01" as a dict; SettingError otherwise."""
    try:
        if "=" not in text:
            return float(text)
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return {name.strip(): float(rate) for name, _, rate in (part.partition("=") for part in parts)}
    except ValueError:
        raise SettingError(
            f"--lr-scale {text!r}; expected a number such as 0.1, or modules such as layer3=0.1,pretrained=0.01"
        ) from None


# ---- the names that options may be. They are imported late, as numpy comes with most


def _modes() -> Iterable[str]:
    from headstart.training.modes import MODES

    return MODES


def _optimizers() -> Iterable[str]:
    from headstart.contract.optimizers import OPTIMIZERS

    return OPTIMIZERS


def _schedules() -> Iterable[str]:
    from headstart.contract.optimizers import SCHEDULES

    return SCHEDULES


def _solvers() -> Iterable[str]:
    from headstart.training.solvers import SOLVERS

    return SOLVERS


def _backends() -> Iterable[str]:
    from headstart.contract.registry import names

    return names()


def _devices() -> Iterable[str]:
    from headstart.contract.devices import AUTO, named
    from headstart.contract.registry import device_kinds

    return (AUTO, *named(device_kinds()))


def _precisions() -> Iterable[str]:
    from headstart.contract.recipe import PRECISIONS

    return PRECISIONS


def _dtypes() -> Iterable[str]:
    from headstart.features.trunk_keys import DTYPES

    return DTYPES


def _is_positive(value: object) -> bool:
    return value is not True and isinstance(value, Real) and 0 < float(value) < float("inf")


def _is_not_negative(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and 0 <= float(value) < float("inf")


def _is_threshold(value: object) -> bool:
    return value == "best" or (isinstance(value, Real) and 0 < float(value) < 1)


# ---- the options


@dataclass(frozen=True)
class Training:
    """What is trained, and how."""

    mode: str = option(
        "cached",
        "scratch, full, frozen, cached or staged.",
        Rule("a name: one of {names}", NAME.holds, names=_modes),
        takers=("fit",),
        recorded=False,
        more='"cached": the trunk runs once, its features are stored and the head is trained on them. '
        '"frozen": the same head, with the trunk run in every epoch. "full": everything is trained from '
        'the weights. "scratch": everything, from random weights. "staged": the head on the cache for '
        "`head_epochs`, then everything for `epochs`.",
    )
    cut: str | None = option(
        None,
        "Last node of the frozen trunk; see `headstart models NAME`.",
        NAME,
        takers=THAT_TRAIN,
        unset="before the head",
        recorded=False,
        more='Everything behind it is the head. "input", in "full" and "scratch": decoded and resized images '
        "are kept in the store, and read from there.",
    )
    solver: str | None = option(
        None,
        "Solve for the head instead of stepping: ridge or logistic; for one linear layer, in mode cached.",
        one_of(_solvers),
        takers=("fit",),
        unset="steps",
        recorded=False,
        more='"ridge": least squares, in closed form. "logistic": logistic regression, to convergence. Features '
        "are standardised; of a path of penalties the one is taken that does best on training samples which are "
        "held out in turn, by leave-one-out or in five folds, groups whole. The validation data choose nothing. "
        "What is returned, saved and exported is the plain linear layer, and `run.settings['solved']` says how it "
        "was chosen.",
    )
    epochs: int | None = option(
        None,
        "Epochs of training, just so many.",
        whole(1),
        takers=FUNCTIONS,
        text=int,
        unset="up to max_epochs, while they bring something",
        defaults={"compare": 3, "compare_modes": 5},
        more="Of them the best is kept too, where there are validation data.",
    )
    max_epochs: int | None = option(
        None,
        "Epochs of training, at most; patience may end it before.",
        whole(1),
        takers=(*BY_ITSELF, "plan"),
        text=int,
        unset="by mode and number of samples",
        more="A head of linear layers on features takes about 2,000 steps, in 10 to 100 epochs, and everything "
        "else 5 epochs. Where nothing tells the best epoch, as without validation data, such a head takes about "
        "300 steps, in 5 to 50 epochs, and the last one is kept.",
    )
    patience: int | None = option(
        None,
        "Stop after so many epochs without a better one, by monitor.",
        whole(1),
        takers=BY_ITSELF,
        text=int,
        unset="a fifth of max_epochs, at least 5",
        more="It goes with `max_epochs` or its default; `epochs` given by hand are trained to the last.",
    )
    monitor: str | None = option(
        "val_loss",
        "The validation score by which the best epoch is kept, such as val_accuracy; none: the last epoch.",
        Rule("the name of a score, or None", lambda value: value is None or NAME.holds(value)),
        takers=THAT_TRAIN,
        parse=monitor_named,
        more='"val_loss", "val_accuracy", or the score that the task is known by: "accuracy", "micro_f1", "mae", '
        '"standardised_mae". '
        "None: the last epoch's head is kept, and nothing stops. In `staged` it decides in each stage.",
    )
    min_delta: float = option(
        0.0,
        "By how much an epoch has to be better; of others the earliest is kept.",
        Rule("a number of 0 or more", _is_not_negative, float),
        takers=THAT_TRAIN,
        text=float,
    )
    batch_size: int = option(
        64,
        "Samples a step, at most: all steps of an epoch have as many.",
        whole(1),
        takers=FUNCTIONS,
        text=int,
        more="An epoch takes every sample, and less than one a step twice, to fill the last batch.",
    )
    optimizer: str | Optimizer | None = option(
        None,
        "adamw or sgd.",
        one_known(_optimizers, "{names}, an hs.SGD or an hs.AdamW"),
        takers=FUNCTIONS,
        unset="by mode",
        more="In Python also an `hs.AdamW` or `hs.SGD`. The defaults are those of `headstart.training.defaults`.",
    )
    lr: float | None = option(
        None,
        "Learning rate.",
        Rule("a positive number"),
        text=float,
        unset="the optimiser's",
        recorded=False,
    )
    lr_scale: float | Mapping[str, float] | None = option(
        None,
        "Multiple of the rate for pretrained layers, such as 0.1, or by module: layer3=0.1,pretrained=0.01.",
        Rule("a positive number, or a dict from modules to such"),
        parse=scale_of,
        more='In Python a number, or a dict such as {"layer3": 0.1, "pretrained": 0.3}. The innermost module '
        "that is named counts.",
    )
    schedule: str | Schedule = option(
        "cosine",
        "constant or cosine.",
        one_known(_schedules, "{names}, or an hs.Schedule"),
        takers=THAT_TRAIN,
        more="In Python also an `hs.Schedule`, which brings its own warm-up.",
    )
    warmup: float | None = option(
        None,
        "Share of the steps in which the learning rate rises.",
        Rule("a share of the steps, 0 <= warmup < 1"),
        takers=THAT_TRAIN,
        text=float,
        unset="0.3 for linear layers on features, else 0",
        recorded=False,
    )
    label_smoothing: float = option(0.0, "Label smoothing, 0 to 1.", SHARE, takers=THAT_TRAIN, text=float)
    class_weights: str | Mapping[str, float] | None = option(
        None,
        "How much samples count by their class: balanced (all classes alike), or daisy=2,roses=0.5.",
        Rule('"balanced", or a dict from classes to numbers of 0 or more'),
        takers=THAT_TRAIN,
        parse=class_weights_of,
        unset="all alike",
        more='"balanced": each n / (classes x samples of its class). In Python also a dict such as '
        '{"daisy": 2.0}, of which a class that is left out counts 1. It multiplies what the data say of each '
        "sample (`weights`).",
    )
    pos_weight: str | Mapping[str, float] | None = option(
        None,
        "With several labels a sample, how much their being there counts: balanced, or daisy=2,roses=0.5.",
        Rule('"balanced", or a dict from labels to positive numbers'),
        takers=THAT_TRAIN,
        parse=pos_weight_of,
        unset="as much as not",
        more='"balanced": samples without the label over samples with it. In Python also a dict such as '
        '{"daisy": 2.0}, of which a label that is left out counts 1.',
    )
    threshold: float | str | None = option(
        None,
        "With several labels a sample, the probability above which one is predicted; best: by validation.",
        Rule('a number, 0 < threshold < 1, or "best"', _is_threshold),
        takers=THAT_TRAIN,
        parse=threshold_of,
        unset="0.5",
        more='"best" is the one with the largest micro F1 on the validation data, of the epoch that is kept.',
    )
    huber: float | None = option(
        None,
        "With numbers as labels, errors above so many standard deviations count in proportion, not squared.",
        Rule("a positive number", _is_positive, float),
        takers=THAT_TRAIN,
        text=float,
        unset="squared errors",
        more="So a few targets that are far off do not rule the rest. It is the Huber loss; 1 is common.",
    )
    augment: str | Augment | None = option(
        None,
        "flip, crop or flip,crop; for modes that see images.",
        Rule("flip, crop, flip,crop or none, or an hs.Augment"),
        more="In Python also an `hs.Augment`. It is drawn anew for each epoch and sample; with features from a"
        " cache that is impossible, and refused unless `views` keeps several. In `staged` it is used in "
        "the second stage, and with `views` in the first.",
    )
    standardize: bool = option(
        True,
        "Train a linear head on standardised features; what comes of it is a plain layer all the same.",
        SWITCH,
        takers=THAT_TRAIN,
        text=bool,
        more="Every channel gets mean 0 and deviation 1 over the training data, by their weights, through a fixed "
        "map that goes into the first layer afterwards: what is predicted with, saved and exported takes features "
        "as they are. It is for features, cached or of a frozen trunk, that only linear layers of the head read "
        "(averages over positions, flattening and dropout between may be; without a bias, only the deviation "
        'is taken off); all else is trained as without it. "frozen" makes one pass over the training images '
        "for it.",
    )
    batch_norm: str = option(
        "auto",
        "Statistics of trained batch norms: frozen, train, or auto (train in scratch).",
        one_of(lambda: ("auto", "frozen", "train")),
    )
    head_epochs: int | None = option(
        None,
        "Epochs on the cache before everything is trained, in mode staged.",
        whole(1),
        text=int,
        unset="as many",
        recorded=False,
    )
    seed: int = option(
        0,
        "Seed of all that is drawn: split, order, initial weights, dropout and augmentation.",
        whole(0, bits=32),
        takers=THAT_TRAIN,
        text=int,
    )


@dataclass(frozen=True)
class Computing:
    """Where and how it is computed."""

    backend: str | None = option(
        None,
        "torch, keras or jax.",
        one_known(_backends),
        takers=IN_PROCESS,
        unset="HEADSTART_BACKEND, else the only one",
        recorded=False,
    )
    device: str = option(
        "auto",
        "auto, cpu, cuda or cuda:N; mps, xpu or tpu where the backend has it.",
        one_known(_devices),
        takers=FUNCTIONS,
    )
    precision: str = option(
        "float32",
        "Arithmetic: float32, tf32, bfloat16 or, for frozen trunks, float16.",
        one_known(_precisions),
        takers=FUNCTIONS,
        more='"float32" is float32 throughout, whatever the framework\'s own default. "tf32": float32 numbers, '
        "multiplied with TF32's ten bits where the device has that. What is trained behind a trunk in "
        '"float16" computes in float32.',
    )
    workers: int | None = option(
        None,
        "Threads that decode images.",
        whole(1),
        takers=FUNCTIONS,
        text=int,
        unset="as many as CPUs",
        recorded=False,
    )


@dataclass(frozen=True)
class Caching:
    """What is cached, and how much of it is held."""

    dtype: str = option(
        "float16",
        "Type of stored features: float16, float32 or bfloat16.",
        one_of(_dtypes),
        takers=FUNCTIONS,
        recorded="feature_dtype",
    )
    cache: str | Path | None = option(
        None,
        "Folder of the feature store.",
        FOLDER,
        takers=FUNCTIONS,
        text=None,
        unset="HEADSTART_CACHE, else the user's cache folder",
        recorded=False,
    )
    views: int | None = option(
        None,
        "Keep so many augmented views of every image, for features in the cache; augment says how they are drawn.",
        whole(1),
        text=int,
        more="Epoch e reads view e mod `views`. View v is what an uncached run of that seed draws in epoch v.",
    )
    memory: int | str | None = option(
        None,
        "Bytes of cached features held at once, such as 512MB; more are streamed.",
        Rule("a number of bytes, or a text such as '512MB'"),
        takers=FUNCTIONS,
        unset="half of what is free",
        recorded=False,
        more="In Python also a number of bytes. What is streamed comes from the disk, shuffled in blocks; "
        "where the features were stands in the run's settings.",
    )


@dataclass(frozen=True)
class Watching:
    """What is watched while it trains."""

    on_epoch: OnEpoch | None = option(
        None,
        'Called with the stage ("head" or "all") and the record after each epoch.',
        FUNCTION,
        takers=("fit", "compare_modes"),
        text=None,
        recorded=False,
    )
    tensorboard: str | Path | None = option(
        None,
        "Write curves, histograms and the graph to this folder; needs headstart[tensorboard].",
        FOLDER,
        text=Path,
        recorded=False,
        more="The files are complete after every epoch: the runs `train` and `validation` with loss and "
        "accuracy, or the task's score (`micro_f1`, `mae`), and in `train` learning rates, seconds, each step's "
        "loss, histograms of the trained parameters and of how far they have moved, the model's graph and the "
        "settings. Where the folder holds a run already, that one is left as it is, and `2`, `3` ... in the "
        "folder are written.",
    )
    debug_nans: bool = option(
        False,
        "Stop at the first value that is not finite, and name node, epoch and batch.",
        SWITCH,
        text=bool,
        recorded=False,
        more="It goes step by step and looks at losses and parameters after each, and at features and logits. "
        "What is trained is the same, and takes longer.",
    )
    profile: str | Path | None = option(
        None,
        "Write the framework's own trace of each stage's second epoch to this folder.",
        FOLDER,
        text=Path,
        recorded=False,
        more="The trace, with that epoch's validation, is in `head` or `all` there, as TensorBoard or torch's "
        "viewers show it. In the first epoch things are compiled; it is taken where it is the only one.",
    )


@dataclass(frozen=True)
class Keeping:
    """What is kept of it, to go on with."""

    checkpoint: str | Path | None = option(
        None,
        "Keep the best epoch's run, and all that it takes to go on, in this folder while it trains.",
        FOLDER,
        takers=("fit",),
        text=Path,
        recorded=False,
        more="It is written after an epoch where a second has passed since the last time, and at the end of each "
        "stage, each file whole: whatever moment the process is killed at, the folder can be resumed from, and "
        "`hs.load` reads the run in it. What another training has begun there is not overwritten.",
    )
    resume: str | Path | None = option(
        None,
        "Go on with the training whose checkpoint is in this folder, and keep it there.",
        FOLDER,
        takers=("fit",),
        text=Path,
        recorded=False,
        more="Model, data and options must be those that it began with. On a CPU what comes of it is to the bit "
        "what would have come without the break; a training that had ended gives its run again. With `checkpoint` "
        "it is kept there from then on.",
    )


GROUPS = (Training, Computing, Caching, Watching, Keeping)

OPTIONS: Mapping[str, Option] = MappingProxyType(
    {of.name: Option.of(of, group.__doc__ or "") for group in GROUPS for of in fields(group)}
)
"""every option by its name"""


def fields_for(function: str) -> tuple[Option, ...]:
    """The options that are keyword arguments of "fit", "sweep", "plan", "compare" or "compare_modes"."""
    return tuple(entry for entry in OPTIONS.values() if function in entry.takers)


def flags_for(function: str) -> tuple[Option, ...]:
    """Those of them that have a place on a command line: not what only Python can hand over."""
    return tuple(entry for entry in fields_for(function) if entry.text is not None)
