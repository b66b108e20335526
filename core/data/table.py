"""Data sets from tables: a row names an image, or holds its bytes, and says what is known of it.

Invariant: a column is guessed only where one alone can be meant, and what was guessed is said; no row is left out
silently, and no picture has two labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import DataError, SettingError
from headstart.data.annotations import MULTI, PARTS, SINGLE, Annotations
from headstart.data.any_files import files_for
from headstart.data.class_labels import Named
from headstart.data.columns import TRUTHS, label_lists, labels_in
from headstart.data.dataset import Dataset, FileSource
from headstart.data.encoded import sound
from headstart.data.frames import Column, Frame, frame_of
from headstart.data.further_columns import (
    folds_in,
    folds_named,
    groups_in,
    part_words,
    parts_in,
    warn_of_lost_folds,
    weights_in,
)
from headstart.data.image_cells import files_of, files_there, holds_bytes, rows_with_images, source_of
from headstart.data.layouts import role_of, root_of
from headstart.data.left_out import check_on_error
from headstart.data.missing_labels import labelled_rows, no_label, rows_of_classes, without_any
from headstart.data.names import twice
from headstart.data.place import stem_of
from headstart.data.predicted import predicted, predicted_several
from headstart.data.repeated_rows import joined, once, spelt_alike
from headstart.data.untrained import warn_of_untrained

IMAGE_NAMES = (
    "image file filename file_name path filepath file_path image_path imagepath image_file img img_path imgpath "
    "picture photo image_name imagename img_name jpg"
)
LABEL_NAMES = "label labels class classes category categories target targets class_name label_name species"
FURTHER = ("split", "group", "weight", "fold")
SPLIT_NAMES = "split subset partition set"
MAY_SAY_PARTS = "part parts phase usage stage fold purpose dataset data_set data_split train_test train_val_test"
"""what is never taken as the part, and is said where it tells training from other rows: these would be mixed"""
FOLD_NAMES = "fold folds kfold k_fold fold_id fold_no cv_fold"
MOST_FOLDS = 20
TELLS_PARTS = (
    "is_train is_training is_valid is_val is_validation is_test is_testing is_holdout train valid val test holdout"
)
"""likewise, where true and false, or 1 and 0, say it: fastai's `is_valid`"""
MANY = 20
"""classes that are whole numbers: from here on they may be amounts"""
YES_AND_NO = ({0, 1}, {"0", "1"}, {"0.0", "1.0"})
NOT_GUESSED = {
    "group": "group groups group_id patient patient_id subject subject_id",
    "weight": "weight weights sample_weight",
}
"""what changes the split and the figures, and may be about something else: it is said that it was not taken"""


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are; None: guessed (image, label, split), or there is none."""

    image: str | None = None
    label: str | Sequence[str] | None = None
    split: str | None = None
    group: str | None = None
    weight: str | None = None
    root: str | None = None
    separator: str | None = None
    task: str | None = None
    fold: str | None = None

    def asked(self) -> dict[str, Any]:
        """Those that somebody named."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def only(self, *names: str, kind: str) -> dict[str, Any]:
        """The same of data of another kind, which has these only. SettingError for others that were named."""
        asked = self.asked()
        if others := [name for name in asked if name not in names]:
            what = f"of {kind} only {', '.join(names)} can be named" if names else f"of tables, and not of {kind}"
            raise SettingError(f"{', '.join(f'{name}=' for name in others)}: {what}")
        return asked


def table(
    source: Any,
    *,
    image: str | None = None,
    label: str | Sequence[str] | None = None,
    split: str | None = None,
    group: str | None = None,
    weight: str | None = None,
    fold: str | None = None,
    root: str | Path | None = None,
    separator: str | None = None,
    task: str | None = None,
    classes: Sequence[str] | None = None,
    on_error: str = "raise",
    truncated: str = "raise",
) -> Dataset:
    """Images that a table names: a CSV, TSV, JSON lines or Parquet file, a frame of pandas, polars or Arrow, or a
    dict of columns.

    `image`: the column of file names, relative to `root` (default: the table's folder, of a frame the current
    one), or of the bytes of image files. The table, `root` and the names may be URLs, as of `folder`. `label`: the
    column of names or numbers, each a class; of lists, or of texts such as "cat;dog" with `separator` between
    them, each a label (task "multi"); of numbers with a fraction, a target ("regression"). Or the names of several
    columns, each a label with 0 and 1, or each a target. `split`: the column that says train, val or test, or one
    called as `is_valid` or `is_test` that says so by true and false, or 1 and 0, where the others are to train on;
    then the data set has the parts `.train`, `.val` and `.test`. `group`: the column of names that no split cuts.
    `weight`: the column of how much a sample counts, 0 or more. `fold`: the column that says in which fold of a
    cross-validation a sample is held out, by names or numbers; -1: in none, and always trained on. `fit` and
    `sweep` then hold out each of these folds in turn. Where a column says the part as well, the folds are of those
    to train on.

    Where `image`, `label` or `split` is None, a column that is called so is taken, if there is only one, and said.
    `task`: where the values do not tell: "single", "multi" or "regression". `classes`: their order, as of
    `folder`. A picture that several rows name with one label is taken once; with `task="multi"` the labels of all
    its rows are joined, as annotation tools write a row a label, and an empty cell of one column of labels is a
    sample without any; unasked it is none, as it may not be labelled yet. With `on_error="skip"`, rows without
    a label, or of none of `classes`, and files that are not there or do not decode, are left out and listed in
    `.skipped`. `truncated`: as of `folder`.

    Raises DataError for a table that cannot be read or has no rows, for missing or mixed labels, files that are
    not there, unknown words in the column of parts, a picture with two labels; UnknownNameError for a column that
    is not there.
    """
    check_on_error(on_error)
    asked = Columns(image, label, split, group, weight, None if root is None else str(root), separator, task, fold)
    frame, folder = frame_of(source)
    roles, notes = roles_of(frame, asked)
    values = frame.columns(
        [name for role in roles.values() for name in ([role] if isinstance(role, str) else role)]
    )
    further = f"{SPLIT_NAMES} {TELLS_PARTS} {FOLD_NAMES} {' '.join(NOT_GUESSED.values())}"
    notes += [
        f"{name!r} is in none of the first rows, and not looked at (name it: split=, group=, weight=, fold=)"
        for name in frame.late
        if _is_called(name, further)
    ]
    if "split" in roles:
        values[roles["split"]] = part_words(roles["split"], values[roles["split"]])
    if "split" in roles and split is None and not _says_parts(values[roles["split"]]):
        unsaid = f"{roles.pop('split')!r} is not taken as split: it does not say train, val and test"
        notes = [unsaid if note.startswith("split ") else note for note in notes]
    in_folds = folds_named(values[roles["fold"]]) if "fold" in roles and "split" not in roles else set()
    of_label = {name: values[name] for name in roles["label"]}
    for name, cells in of_label.items() if task is None else ():
        if (names_of_classes := predicted(frame.names, name, cells)) is not None:
            values[name] = of_label[name] = names_of_classes
        elif predicted_several(frame.names, name):
            task = MULTI
    is_nothing, may_be_several = no_label(classes, of_label.values()), False
    if len(of_label) == 1 and all(isinstance(cells, Named) for cells in of_label.values()):
        is_nothing, task = _is_none, SINGLE if task is None else task
    if task in (None, MULTI) and len(of_label) == 1:
        ((column, cells),) = of_label.items()
        lists = without_any(cells, separator, is_nothing, task == MULTI)
        if lists is not None and task == MULTI:
            values[column] = of_label[column] = lists
        may_be_several = lists is not None
    rows, skipped = labelled_rows(frame.name, of_label, frame.place, on_error, is_nothing, may_be_several)
    if on_error != "raise" and len(of_label) == 1:
        (cells,) = of_label.values()
        rows, of_none = rows_of_classes(frame.name, cells, rows, classes, task, separator)
        skipped += of_none
    values = {name: column if rows is None else _picked(column, rows) for name, column in values.items()}
    images, name = values[roles["image"]], stem_of(frame.name) if folder is not None else "table"
    places: Sequence[int] = range(len(images)) if rows is None else rows

    def place(i: int) -> str:
        return frame.place(places[i])

    def with_folds(data: Dataset) -> Dataset:
        warn_of_lost_folds(in_folds, data.fold_names, frame.name)
        return data

    notes = [f"{frame.name}: {', '.join(notes)}"] if notes else []
    at = root_of(root, folder)
    filled, without = rows_with_images(frame.name, images, roles["image"], place, on_error)
    if filled is not None:
        skipped += without
        values = {name: _picked(column, filled) for name, column in values.items()}
        images, places = values[roles["image"]], [places[i] for i in filled]
    in_cells = holds_bytes(images, roles["image"], place)
    files = [] if in_cells else files_of(images, roles["image"], at, place)
    if task == MULTI and files and len(roles["label"]) == 1:
        (column,) = roles["label"]
        if (lists := label_lists(values[column], separator)) is not None:
            others = {role: values[cells] for role, cells in roles.items() if role in FURTHER}
            first, labels = joined(spelt_alike(files), lists, others, place)
            if len(first) < len(files):
                notes.append(
                    f"{frame.name}: {len(files):,} rows name {len(first):,} images, whose labels are joined"
                )
            files = [files[i] for i in first]
            values = {name: _picked(cells, first) for name, cells in values.items()} | {column: labels}
            places = [places[i] for i in first]
    try:
        about = _annotations(values, roles, place, task=task, classes=classes, separator=separator)
    except DataError as error:
        raise DataError(f"{frame.name}: {error}") from None
    if asked.task is None and classes is None and (numbers := _many_numbers(about)) is not None:
        notes.append(
            f"{frame.name}: each of the {len(about.classes):,} {numbers} is a class; of amounts say "
            "task='regression' (--task)"
        )
    if about.parts is None and "split" in roles:
        notes.append(
            f"{frame.name}: all rows are of one part, {values[roles['split']][0].strip()}; taken in one piece"
        )
    if in_cells:
        encoded = source_of(images, at, frame.name, place, truncated)
        if classes is None:
            warn_of_untrained(about, frame.name)
        return with_folds(sound(encoded, about, name, skipped, on_error, notes))
    where = files_for(files)
    kept, missing = files_there(files, where, frame, at, place, on_error)
    kept, more = once(spelt_alike(files), kept, about, place, joinable=task != MULTI and len(roles["label"]) == 1)
    skipped += missing + more
    if len(kept) < len(files):
        files, about = [files[i] for i in kept], about.rows(np.array(kept, np.int64))
    if not files:
        raise DataError(f"{frame.name}: no row is left; left out {len(skipped)}, the first: {skipped[0].reason}")
    if classes is None:
        warn_of_untrained(about, frame.name)
    return with_folds(sound(FileSource(files, truncated, where), about, name, skipped, on_error, notes))


def _annotations(values: Mapping[str, Column], roles: Mapping[str, Any], place: Any, **how: Any) -> Annotations:
    """What the columns say of each row; `how`: as of `labels_in`."""
    about = labels_in([(name, values[name]) for name in roles["label"]], place=place, **how)
    if (column := roles.get("split")) is not None:
        about = replace(about, parts=parts_in(column, values[column], place))
    if (column := roles.get("group")) is not None:
        about = replace(about, groups=groups_in(column, values[column], place))
    if (column := roles.get("weight")) is not None:
        about = replace(about, weights=weights_in(column, values[column], place))
    if (column := roles.get("fold")) is not None:
        about = replace(about, folds=folds_in(column, values[column], place, about.parts))
    return about


# --- which column is which


def roles_of(frame: Frame, asked: Columns, split: bool = True) -> tuple[dict[str, Any], list[str]]:
    """Role -> the name of its column (of labels, a list of names), and what was guessed; with `split` also which
    column says the part."""
    roles: dict[str, Any] = {}
    guessed: list[str] = []
    for role in ("image", *FURTHER):
        if (column := getattr(asked, role)) is not None:
            roles[role] = frame.require(column, role)
    if asked.label is not None:
        labels = [asked.label] if isinstance(asked.label, str | int) else list(asked.label)
        roles["label"] = [frame.require(name, "label") for name in labels]
        if repeated := twice(roles["label"]):
            raise SettingError(f"label= names the column {repeated[0]!r} twice; expected each once")
    every = [(role, name) for role, of in roles.items() for name in ([of] if isinstance(of, str) else of)]
    taken: dict[str, str] = {}
    for role, name in every:
        if (other := taken.setdefault(name, role)) != role:
            raise SettingError(f"{other}= and {role}= both name the column {name!r}; expected one for each")
    free = [name for name in frame.names if name not in taken]
    for role, names in (("image", IMAGE_NAMES), ("label", LABEL_NAMES), ("split", SPLIT_NAMES)):
        if role in roles or (role == "split" and not split):
            continue
        candidates = [name for name in free if _is_called(name, names)]
        if not candidates and role == "label" and len(free) == 1 and not _is_called(free[0], SPLIT_NAMES):
            candidates = list(free)
        if role == "split" and len(candidates) > 1:
            candidates = [name for name in candidates if _says_parts(frame.columns([name])[name])] or candidates
        if len(candidates) == 1:
            roles[role] = candidates if role == "label" else candidates[0]
            free.remove(candidates[0])
            guessed.append(f"{role} from the column {candidates[0]!r}")
        elif role == "split":
            if candidates:
                which = " and ".join(map(repr, candidates))
                guessed.append(f"{which} could be split, and none is taken (say split=, --split-column)")
        else:
            which = f"{' and '.join(map(repr, candidates))} could be" if candidates else "none is called"
            raise DataError(
                f"{frame.name}: which column is the {role}? {which} {'it' if candidates else 'so'}; name it: "
                f"{role}= (--{role}), one of {', '.join(frame.names[:20])}"
            )
    if split and "split" not in roles:
        called = [name for name in free if _is_called(name, MAY_SAY_PARTS)]
        guessed += [
            f"{name!r} says train, val or test, and is not taken as split (say split=, --split-column)"
            for name in called
            if _tells_training(frame.columns([name])[name])
        ]
        guessed += [
            f"{name!r} tells rows of one part from others, and is not taken as split (of one that is called "
            "so, or as is_valid or is_test, say split=, --split-column)"
            for name in free
            if _is_called(name, TELLS_PARTS) and _is_of_truths(frame.columns([name])[name])
        ]
    guessed += [
        f"{name!r} is not taken as folds (say fold=, --fold-column; folds=, --folds makes its own)"
        for name in free
        if _is_called(name, FOLD_NAMES) and _is_of_folds(frame.columns([name])[name])
    ]
    if not split:
        called = [name for name in free if _is_called(name, SPLIT_NAMES)]
        guessed += [f"{name!r} is not taken as split (the parts of a DatasetDict are)" for name in called]
    for role, names in NOT_GUESSED.items():
        if role not in roles:
            called = [name for name in free if _is_called(name, names)]
            option = "--group" if role == "group" else "--weight-column"
            guessed += [f"{name!r} is not taken as {role} (say {role}=, {option})" for name in called]
    return roles, guessed


def image_column(frame: Frame) -> str:
    """The only column that is called as one of images is, or the only one; DataError where no one can be meant."""
    names = [name for name in frame.names if _is_called(name, IMAGE_NAMES)]
    names = names or (list(frame.names) if len(frame.names) == 1 else [])
    if len(names) != 1:
        which = f"{' and '.join(map(repr, names))} could be it" if names else "none is called so"
        raise DataError(
            f"{frame.name}: which column is the image? {which}; name it: image= (--image), one of "
            f"{', '.join(frame.names[:20])}"
        )
    return names[0]


def _is_called(name: str, names: str) -> bool:
    """Whether a column has one of these names."""
    return name.strip().lower().replace(" ", "_") in names.split()


def _says_parts(values: Column) -> bool:
    """Whether a column that nobody named says train, val and test; else it is about something else, as one of
    "test" and "control" is."""
    said = _roles_said(values)
    parts = said & set(PARTS)
    return PARTS[0] in parts or len(parts) > 1 or (bool(said) and parts == said)


def _roles_said(values: Column) -> set[str | None]:
    """What the texts of a column are words for, as `role_of` has it; None is in it for any other text."""
    return {role_of(text.strip()) for text in {value for value in values if isinstance(value, str)}}


def _tells_training(values: Column) -> bool:
    """Whether a column says of some rows that they are to train on, and of others that they are not."""
    said = _roles_said(values)
    return PARTS[0] in said and len(said & set(PARTS)) > 1


def _is_of_folds(values: Column) -> bool:
    """Whether a column holds few whole numbers."""
    texts = {str(value).strip() for value in values if isinstance(value, str | int | float | np.generic)}
    return 1 < len(texts) <= MOST_FOLDS and all(text.removesuffix(".0").isdecimal() for text in texts)


def _is_of_truths(values: Column) -> bool:
    """Whether a column says yes of some rows and no of others."""
    scalars = (value if isinstance(value, str | int | float | np.generic) else None for value in values)
    return {TRUTHS.get(value, value) if isinstance(value, str) else value for value in scalars} in YES_AND_NO


def _many_numbers(about: Annotations) -> str | None:
    """What the classes are called where they are many whole numbers, and not all from 0 or 1 on, as amounts are;
    else None."""
    if about.task != SINGLE or len(about.classes) < MANY or not all(map(str.isdecimal, about.classes)):
        return None
    numbers = sorted(map(int, about.classes))
    return None if numbers[-1] <= len(numbers) else f"whole numbers from {numbers[0]} to {numbers[-1]}"


def _is_none(value: Any) -> bool:
    return value is None


def _picked(column: Column, rows: Sequence[int]) -> Column:
    cells = [column[i] for i in rows]
    return Named(cells) if isinstance(column, Named) else cells
