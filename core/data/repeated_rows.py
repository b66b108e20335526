"""Pictures that several rows of a table name.

Invariant: a picture is one sample, with one label of its task. Rows that agree are one; what their labels are
together is made of several only where somebody has said that a picture may have many.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headstart.common.errors import DataError
from headstart.common.text import counted
from headstart.data.annotations import PARTS, REGRESSION, SINGLE, Annotations
from headstart.data.columns import is_missing
from headstart.data.left_out import Skipped
from headstart.data.place import current_folder, is_remote

Place = Callable[[int], str]
"""what messages call a row"""


class Joined(NamedTuple):
    """One row a picture."""

    rows: list[int]
    """the first of each picture's"""
    labels: list[list[Any]]
    """of each picture, those of all its rows"""


def spelt_alike(files: list[str]) -> list[str]:
    """The files with one spelling for each path: "a.jpg" may be "./a.jpg", "b/../a.jpg" and "/photos/a.jpg" as
    well. Themselves where there is no such spelling among them. URLs come in one spelling already."""
    lines = "\n" + "\n".join(files)  # of a million names, looked at as one text
    is_plain = not any(odd in lines for odd in ("//", "/.", "\n."))
    if is_plain and lines.count("\n" + os.sep) in (0, len(files)):
        return files
    folder, folders = current_folder(), dict[str, str]()

    def alike(file: str) -> str:
        place, name = os.path.split(os.path.join(folder, file))  # noqa: PTH118
        if name in ("", os.curdir, os.pardir):
            return _one_spelling(os.path.join(place, name))  # noqa: PTH118
        if place not in folders:
            folders[place] = _one_spelling(place)
        return folders[place] + os.sep + name

    return [file if is_remote(file) else alike(file) for file in files]


def _one_spelling(path: str) -> str:
    plain = os.path.normpath(path)
    if os.pardir not in Path(path).parts:
        return plain
    with contextlib.suppress(OSError):  # behind a link ".." is another folder than the one that the name stands in
        if os.path.samefile(plain, path):  # noqa: PTH121
            return plain
    return os.path.realpath(path)


def joined(
    files: Sequence[str], labels: Sequence[Sequence[Any]], others: Mapping[str, Sequence[Any]], place: Place
) -> Joined:
    """Rows with labels each, of which several may name one file. `others`: the further columns, by what they are
    (split, group, weight, fold), in which the rows of one file must agree: DataError."""
    first: dict[str, int] = {}  # file -> its place in the result
    result = Joined([], [])
    for i, file in enumerate(files):
        k = first.setdefault(file, len(result.rows))
        if k == len(result.rows):
            result.rows.append(i)
            result.labels.append(list(labels[i]))
            continue
        result.labels[k] += labels[i]
        for what, values in others.items():
            earlier, later = values[result.rows[k]], values[i]
            if earlier != later and not (is_missing(earlier) and is_missing(later)):
                raise DataError(
                    f"{file} stands in {place(result.rows[k])} with the {what} {earlier!r:.60} and in {place(i)} "
                    f"with {later!r:.60}; expected one {what} a picture"
                )
    return result


def once(
    files: Sequence[str], rows: list[int], about: Annotations, place: Place, joinable: bool
) -> tuple[list[int], list[Skipped]]:
    """Of `rows` the first of each file, and what was left out. DataError where two rows say different things of
    one file; `about` has what they say, and `joinable` whether their labels could be joined."""
    first: dict[str, int] = {}
    kept, doubles, at_odds = [], [], []
    for i in rows:
        before = first.setdefault(files[i], i)
        if before == i:
            kept.append(i)
        elif about.same_sample(i, before):
            doubles.append(i)
        else:
            at_odds.append((before, i))
    if at_odds:
        before, i = at_odds[0]
        many = len({files[i] for _, i in at_odds})
        raise DataError(
            f"{files[i]} stands twice, in {place(before)} as {_said_of(about, before)} and in {place(i)} as "
            f"{_said_of(about, i)}{f' (and so do {many - 1:,} other files)' if many > 1 else ''}; keep one row of "
            f"it{_mend(about, before, i) if joinable else ''}"
        )
    if not doubles:
        return kept, []
    more = f" (nor {counted(len(doubles) - 1, 'other row')})" if len(doubles) > 1 else ""
    return kept, [Skipped(files[doubles[0]], f"the same in {place(doubles[0])} again, which is not counted{more}")]


def _mend(about: Annotations, before: int, i: int) -> str:
    """What else may be meant by two rows of one file."""
    if about.task == REGRESSION or np.array_equal(about.labels[before], about.labels[i]):
        return ""
    many = "if a picture may have several labels, " if about.task == SINGLE else ""
    return f', or, {many}take those of all its rows: task="multi" (--task multi)'


def _said_of(about: Annotations, i: int) -> str:
    """What a row says: its label, and the part, the group, the fold and the weight where rows have such."""
    text = about.label_text(i)
    if about.parts is not None:
        text += f" in {PARTS[int(about.parts[i])]}"
    if about.groups is not None:
        text += f" of group {about.groups[i]!r:.60}"
    if about.folds is not None:
        text += f" in fold {about.folds[i]!r:.60}"
    if about.weights is not None:
        text += f" of weight {about.weights[i]:g}"
    return text
