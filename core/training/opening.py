"""The model, and the data to train, validate and test on, that a command or a comparison names by texts and
numbers.

Invariant: no framework is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from headstart.common.errors import DataError
from headstart.data import open_data
from headstart.data.annotations import SINGLE
from headstart.data.names import shown
from headstart.data.opening import opened
from headstart.data.samples import Samples
from headstart.data.sources import are_photographs, takes_columns
from headstart.data.summary import say_before
from headstart.data.table import Columns
from headstart.features.trunk_keys import cut_of
from headstart.models.default_model import Default, default_model, model_line
from headstart.models.model import Model
from headstart.models.model import model as make_model
from headstart.models.weights import weights_for

MIN_CLASSES = 2


class Prepared(NamedTuple):
    """A model, and what it is trained, validated and tested on: data sets, or features; `test` may be None, and of
    what is cut into folds `val` is."""

    model: Model
    train: Any
    val: Any
    test: Any


def model_and_data(
    *,
    data: str,
    model: str | None = None,
    weights: str | None = None,
    size: int | None = None,
    decode: str | None = None,
    head: str | Sequence[int | float] = "linear",
    cut: str | None = None,
    split: float | None = None,
    seed: int = 0,
    on_error: str = "raise",
    truncated: str = "raise",
    split_by: str = "id",
    val: str | None = None,
    test: str | None = None,
    only: Sequence[str] | None = None,
    columns: Mapping[str, Any] | None = None,
    cuts: Sequence[str] = (),
    folds: int | None = None,
    in_folds: bool = False,
) -> Prepared:
    """`model`: None for the one that suits the data, see `default_model`. `weights`: see `weights_for`.
    `val`, `test`, `only`, `split`, `folds`, `in_folds`: see `headstart.data.opening.opened`;
    `columns`: of tables, as `Columns` has them; `on_error`, `truncated`: see `hs.data.folder`. Raises DataError,
    SettingError and its kin, and CutError where `cut` is no legal cut of the model."""
    any_table = any(takes_columns(name) for name in (data, val, test) if name is not None)

    def open_one(name: str, like: Samples | None) -> Samples:
        has_columns = takes_columns(name)
        of = Columns(**(columns or {})) if has_columns or not any_table else Columns()
        if has_columns and of.task is None and like is not None and like.task != SINGLE:
            of = replace(of, task=like.task)  # whole numbers, and cells of one label, do not tell it
        if like is not None:
            of = replace(of, fold=None)  # which is of what is trained on
        return open_data(name, on_error, None if like is None else like.classes, of, truncated)

    parts = opened(
        data,
        open_one,
        val=val,
        test=test,
        only=only,
        split=split,
        seed=seed,
        split_by=split_by,
        folds=folds,
        in_folds=in_folds,
    )
    if parts.train.task == SINGLE and len(parts.train.classes) < MIN_CLASSES:
        name = ", ".join(map(shown, parts.train.classes)) or "none"
        raise DataError(f"{data} has the class {name} only; expected at least {MIN_CLASSES} to tell apart")
    of_model = cuts if cut is None else (*cuts, cut)
    default = Default(model, "") if model is not None else model_for(data, weights, of_model)
    published = weights_for(default.name, weights)
    network = make_model(
        default.name, weights=published, classes=parts.train.classes, head=head, size=size, decode=decode
    )
    if cut is not None:
        cut_of(network, cut)
    say_before(parts.train, model_line(network, default.why))
    return Prepared(network, *parts)


def model_for(data: str, weights: str | None, cuts: Sequence[str] = ()) -> Default:
    """The model for data of this name, where nobody says another."""
    return default_model(photographs=are_photographs(data), weights=weights, cuts=cuts)
