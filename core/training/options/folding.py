"""Cross-validation, in place of one validation set."""

from __future__ import annotations

from dataclasses import dataclass

from headstart.training.option import BY_ITSELF, option, whole


@dataclass(frozen=True)
class Folding:
    """Cross-validation, in place of one validation set."""

    folds: int | None = option(
        None,
        "Hold out each of so many folds in turn; the model is then trained on all of the data.",
        whole(2),
        takers=BY_ITSELF,
        text=int,
        unset="one validation set",
        recorded=False,
        more="The data are one set, without `val`. They are cut as `data.folds` cuts them, by `seed`: groups and "
        "copies stay together. Data that came in folds (`fold=` of `hs.data.table`) are held out in just "
        "these, also where `folds` is not given; samples of fold -1 are in each training. "
        "For each fold a head is trained on the others, and scored on it after its best "
        "epoch, which the fold chooses, as `val` does. `run.folds` has the scores, their mean and its interval. "
        "What is returned is trained on all samples for the folds' median best epoch, at the rates that they had. "
        "`run.validation` and `run.scores` are of the folds' heads on what each has not been trained on: they say "
        "what such a training comes to, and are not of the head that is returned. What watches a training watches "
        "this last one.",
    )
