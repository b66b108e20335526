"""`advise`: which trunk, which cut and how much to train, said from features before anything is trained.

One pass over the data a trunk gives the features of several cuts, in few numbers each; all figures are of these.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import DataError, SettingError
from headstart.common.log import LOG
from headstart.common.text import time_text
from headstart.contract import registry
from headstart.data import Dataset
from headstart.data.annotations import REGRESSION
from headstart.data.door import as_data_set, check_data_set
from headstart.data.summary import say
from headstart.features.engines.settings import Ray, check_engine
from headstart.models import Model
from headstart.training.advice.candidates import Candidate, candidates
from headstart.training.advice.costs import Cost, costs
from headstart.training.advice.held_out import Positions
from headstart.training.advice.looking import look_at
from headstart.training.advice.measuring import error_of, folds_for, score_of
from headstart.training.advice.result import Advice, Choice, TrunkFigures
from headstart.training.advice.rule import (
    CUT,
    Option,
    advised,
    doubt,
    pareto,
    predicted_errors,
    range_of,
)
from headstart.training.advice.words import names_of_budget, sentence
from headstart.training.checks import in_parts
from headstart.training.plan import Budget
from headstart.training.sample_weights import check_counting, check_learnable
from headstart.training.scores.result import headline

MOST = 10_000
"""samples that are looked at"""


def advise(
    data: Dataset,
    models: str | Model | Sequence[str | Model] | None = None,
    cuts: str | Sequence[str] | None = None,
    budget: float | str | Budget | None = None,
    *,
    size: int | None = None,
    decode: str | None = None,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    dtype: str = "float16",
    batch_size: int = 64,
    workers: int | None = None,
    cache: str | Path | None = None,
    seed: int = 0,
    engine: Ray | None = None,
) -> Advice:
    """Which trunk to take, where to cut it and how much of it to train, said before anything is trained.

    One pass over the data a trunk gives the features of several cuts, each averaged to a vector; at most 10,000
    samples are looked at. Of each cut come out: scores of ridge regression and nearest neighbours on held-out
    samples (five folds, or one by one; groups are not cut), with intervals and a learning curve; how far the
    classes lie apart; LogME. Of each trunk, what its own classifier makes of the data, and what `plan` says of
    seconds and bytes. From these the score of each mode is predicted, by a rule that was fitted to trainings of
    other data.

    `data`: as of `fit`; of data in parts the training part is looked at. `models`: names, `"resnet50:none"` for
    random weights and `"resnet50:NAME"` for others than the first published ones, or models; default: those of
    efficientnet_lite0 and resnet18_half whose weights are at hand. A model whose weights cannot be had is left
    out, and that is said. `cuts`: where to look beside what the classifier takes; default: the ends of the last
    stages. `budget`: seconds, or as of `plan`, "10min" or "2GB,10min": what may be advised. `size`, `decode`: as
    of `hs.model`, of models that are named. `seed`: of folds. The others are as of `extract`.

    Raises UnknownNameError for a model that is not there, CutError, SettingError and its kin (a budget that is
    none, or within which nothing is), WeightsError, DataError for data that nothing can be learnt or held out of,
    and whatever `extract` raises.
    """
    start = time.perf_counter()
    limits = _budget(budget)
    registry.check_place(device, precision)
    check_engine(engine, device)
    train = _to_train_on(data)
    looked_at, folds = _looked_at(train, seed)
    say(train)
    if train.fold_names:
        LOG.info("%s: advice holds out folds of its own; fit and sweep those that the data came in", train.name)
    where: dict[str, Any] = {
        "backend": backend,
        "device": device,
        "precision": precision,
        "dtype": dtype,
        "batch_size": batch_size,
    }
    where |= {"workers": workers, "cache": cache}
    trunks, choices, features = [], [], {}
    listed = candidates(models, cuts, train.classes if train.named_classes else len(train.classes), size, decode)
    for candidate in listed:
        LOG.info("looking at %s: %s", candidate.label, ", ".join(candidate.cuts))
        figures, last = look_at(candidate, looked_at, folds, len(train), where, seed, engine)
        took = costs(candidate, train, where)
        trunks.append(figures)
        features[figures.label] = last
        choices += _choices(candidate, figures, took, limits, train)
    return _advice(trunks, choices, limits, train, looked_at, features, where, time.perf_counter() - start)


def _budget(budget: Any) -> Budget | None:
    """Seconds, or what `plan` takes. SettingError for what is neither, or allows no time at all."""
    if isinstance(budget, bool):
        raise SettingError(f"budget={budget!r}; expected seconds, or a text such as '10min' or '2GB,10min'")
    if isinstance(budget, int | float | np.number):
        if not 0 < float(budget) < math.inf:
            raise SettingError(f"budget={budget!r}; expected a number of seconds above 0")
        return Budget(seconds=float(budget))
    limits = Budget.parse(budget)
    if limits is not None and 0 in (limits.seconds, limits.nbytes):
        raise SettingError(f"budget={budget!r} is nothing; expected more than 0 seconds, or bytes")
    return limits


def _to_train_on(data: Any) -> Dataset:
    """The data set, or its training part. DataError where there is nothing to learn."""
    data = as_data_set(data)
    check_data_set(data, "data")
    train: Dataset = in_parts(data, None)[0]
    if not len(train):
        raise DataError(f"{train.name} is empty")
    check_counting(train)
    check_learnable(train, train.weights, f"samples of {train.name}")
    counting = train.labels if train.weights is None else train.labels[train.weights > 0]
    if train.task == REGRESSION and (counting == counting[0]).all():
        that_count = "" if len(counting) == len(train) else " that count"
        raise DataError(
            f"all {len(counting)} samples of {train.name}{that_count} have the same numbers; there is nothing to "
            "learn"
        )
    return train


def _looked_at(train: Dataset, seed: int) -> tuple[Dataset, list[Positions] | None]:
    """The samples that are looked at, those that count, of many the first by a digest, and their folds."""
    if train.weights is not None and train.weights.any() and not train.weights.all():
        train = train.subset(np.flatnonzero(train.weights))
    if len(train) > MOST:
        order = np.argsort(np.array(train.ids))[:MOST]  # ids are digests
        train = train.subset(np.sort(order))
    return train, folds_for(train, seed)


def _choices(
    candidate: Candidate, figures: TrunkFigures, took: dict[str, Cost], limits: Budget | None, train: Dataset
) -> list[Choice]:
    """Every mode of a trunk, and what it is expected to come to."""
    choices = []
    for what, error in predicted_errors(figures.evidence).items():
        if what not in took:
            continue
        cost = took[what]
        within = limits is None or (
            (limits.seconds is None or cost.seconds <= limits.seconds)
            and (limits.nbytes is None or cost.nbytes <= limits.nbytes)
        )
        ends = sorted(score_of(end, train) for end in range_of(what, error))
        choices.append(
            Choice(
                trunk=figures.label,
                what=what,
                cut=candidate.earlier if what == CUT else None,
                score=score_of(error, train),
                interval=(ends[0], ends[1]),
                seconds=cost.seconds,
                nbytes=cost.nbytes,
                epochs=cost.epochs,
                within=within,
                front=False,
            )
        )
    return choices


def _advice(
    trunks: list[TrunkFigures],
    choices: list[Choice],
    limits: Budget | None,
    train: Dataset,
    looked_at: Dataset,
    features: dict[str, np.ndarray],
    where: dict[str, Any],
    seconds: float,
) -> Advice:
    """The best of the choices. SettingError where the budget allows none."""
    by = {Option(c.trunk, c.what, error_of(c.score, train), c.seconds, c.within): c for c in choices}
    picked = advised(list(by))
    if picked is None:
        assert limits is not None
        quickest = min(choices, key=lambda c: c.seconds)
        raise SettingError(
            f"budget of {names_of_budget(vars(limits))}: nothing can be trained within it; the quickest, "
            f"{quickest.trunk} with mode {quickest.mode!r}, takes about {time_text(quickest.seconds)}"
        )
    front = set(pareto(list(by)))
    made = {option: replace(choice, front=option in front) for option, choice in by.items()}
    others = [option for option in made if option.within and option is not picked]
    runner_up = min(others, key=lambda option: option.error, default=None)
    best, score = made[picked], headline(train.task, len(train.classes))
    line = sentence(
        best,
        None if runner_up is None else made[runner_up],
        doubt(picked.mode, picked.error, runner_up),
        next(trunk for trunk in trunks if trunk.label == best.trunk),
        score,
        train.task,
    )
    backend = registry.load(where["backend"])
    place = backend.place(where["device"], where["precision"])
    facts = {
        "backend": backend.name,
        "versions": registry.versions(backend.name),
        "device": place.device,
        "precision": place.precision,
        "samples": len(train),
        "looked_at": len(looked_at),
        "budget": None if limits is None else vars(limits),
        "seconds": seconds,
    }
    return Advice(
        trunks=tuple(trunks),
        choices=tuple(made[option] for option in sorted(made, key=lambda option: option.error)),
        best=best,
        sentence=line,
        headline=score,
        facts=facts,
        data=looked_at,
        about={"name": train.name, "train": len(train), "task": train.task, "classes": list(train.classes)},
        features=features[best.trunk],
    )
