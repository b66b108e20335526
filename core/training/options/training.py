"""What is trained, and how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING

from headstart.training.option import (
    FUNCTIONS,
    NAME,
    POSITIVE,
    SHARE,
    SWITCH,
    THAT_TRAIN,
    Rule,
    one_known,
    one_of,
    option,
    whole,
)
from headstart.training.options.texts import class_weights_of, pos_weight_of, scale_of, threshold_of

if TYPE_CHECKING:
    from headstart.contract.optimizers import Optimizer, Schedule
    from headstart.data.augment import Augment

STEPS = "steps"
"""the solver that is none"""


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

    return STEPS, *SOLVERS


def _is_threshold(value: object) -> bool:
    return value == "best" or (isinstance(value, Real) and 0 < float(value) < 1)


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
        # What help calls the default is what people write for it.
        replace(one_of(_solvers), kept=lambda value: None if value == STEPS else value),
        takers=("fit",),
        unset=STEPS,
        recorded=False,
        more='"ridge": least squares, in closed form. "logistic": logistic regression, to convergence. Features '
        "are standardised; of a path of penalties the one is taken that does best on training samples which are "
        "held out in turn, by leave-one-out or in five folds, groups whole. The validation data choose nothing. "
        "What is returned, saved and exported is the plain linear layer, and `run.settings['solved']` says how it "
        "was chosen.",
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
        more='"balanced": each n / (classes x samples of its class), counted by what the data say of each sample '
        '(`weights`). In Python also a dict such as {"daisy": 2.0}, of which a class that is left out counts 1. '
        "It multiplies these weights.",
    )
    pos_weight: str | Mapping[str, float] | None = option(
        None,
        "With several labels a sample, how much their being there counts: balanced, or daisy=2,roses=0.5.",
        Rule('"balanced", or a dict from labels to positive numbers'),
        takers=THAT_TRAIN,
        parse=pos_weight_of,
        unset="as much as not",
        more='"balanced": samples without the label over samples with it, counted by their weights. In Python '
        'also a dict such as {"daisy": 2.0}, of which a label that is left out counts 1.',
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
        POSITIVE,
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
    seed: int = option(
        0,
        "Seed of all that is drawn: split, order, initial weights, dropout and augmentation.",
        whole(0, bits=32),
        takers=THAT_TRAIN,
        text=int,
    )
