"""Data sets from tables: a row names an image, or holds its bytes, and says what is known of it.

Invariant: a column is guessed only where one alone can be meant, and what was guessed is said; no row is left out
silently, and no picture has two labels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import DataError, SettingError
from headstart.data.annotations import PARTS, Annotations
from headstart.data.columns import groups_in, is_missing, labels_in, parts_in, weights_in
from headstart.data.dataset import Dataset, FileSource, Skipped, Unread
from headstart.data.encoded import EncodedSource, sound
from headstart.data.frames import Column, Frame, frame_of
from headstart.data.layouts import role_of
from headstart.data.walk import SUFFIXES, check_on_error, expanded

IMAGE_NAMES = (
    "image file filename file_name path filepath file_path image_path imagepath image_file img img_path imgpath "
    "picture photo image_name imagename img_name jpg"
)
LABEL_NAMES = "label labels class classes category categories target targets class_name label_name species"
SPLIT_NAMES = "split subset partition set"
SHOWN = 3


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

    def asked(self) -> dict[str, Any]:
        """Those that somebody named."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def only(self, *names: str, kind: str) -> dict[str, Any]:
        """The same of data of another kind, which has these only. SettingError for others that were named."""
        asked = self.asked()
        if others := [name for name in asked if name not in names]:
            raise SettingError(f"{', '.join(others)}: of {kind} only {', '.join(names)} can be named")
        return asked


def table(
    source: Any,
    *,
    image: str | None = None,
    label: str | Sequence[str] | None = None,
    split: str | None = None,
    group: str | None = None,
    weight: str | None = None,
    root: str | Path | None = None,
    separator: str | None = None,
    task: str | None = None,
    classes: Sequence[str] | None = None,
    on_error: str = "raise",
) -> Dataset:
    """Images that a table names: a CSV, TSV, JSON lines or Parquet file, a frame of pandas, polars or Arrow, or a
    dict of columns.

    `image`: the column of file names, relative to `root` (default: the table's folder, of a frame the current
    one), or of the bytes of image files. `label`: the column of names or numbers, each a class; of lists, or of
    texts such as "cat;dog" with `separator` between them, each a label (task "multi"); of numbers with a
    fraction, a target ("regression"). Or the names of several columns, each a label with 0 and 1, or each a
    target. `split`: the column that says train, val or test; then the data set has the parts `.train`, `.val` and
    `.test`. `group`: the column of names that no split cuts. `weight`: the column of how much a sample counts, 0
    or more.

    Where `image`, `label` or `split` is None, a column that is called so is taken, if there is only one, and said.
    `task`: where the values do not tell: "single", "multi" or "regression". `classes`: their order, as of
    `folder`. A picture that several rows name with one label is taken once. With `on_error="skip"`, rows without
    a label, and files that are not there or do not decode, are left out and listed in `.skipped`.

    Raises DataError for a table that cannot be read or has no rows, for missing or mixed labels, files that are
    not there, unknown words in the column of parts, a picture with two labels; UnknownNameError for a column that
    is not there.
    """
    check_on_error(on_error)
    asked = Columns(image, label, split, group, weight, None if root is None else str(root), separator, task)
    frame, folder = frame_of(source)
    roles, notes = roles_of(frame, asked)
    values = frame.columns(
        [name for role in roles.values() for name in ([role] if isinstance(role, str) else role)]
    )
    if "split" in roles and split is None and not _says_parts(values[roles["split"]]):
        del roles["split"]
        notes = [note for note in notes if not note.startswith("split ")]
    rows, skipped = _labelled(frame, values, roles["label"], on_error)
    values = {name: column if rows is None else _picked(column, rows) for name, column in values.items()}
    places = range(len(values[roles["image"]])) if rows is None else rows

    def place(i: int) -> str:
        return frame.place(places[i])

    about = labels_in(
        [(name, values[name]) for name in roles["label"]],
        task=task,
        classes=classes,
        separator=separator,
        place=place,
    )
    if "split" in roles:
        about = replace(about, parts=parts_in(roles["split"], values[roles["split"]], place))
    if "group" in roles:
        about = replace(about, groups=groups_in(roles["group"], values[roles["group"]], place))
    if "weight" in roles:
        about = replace(about, weights=weights_in(roles["weight"], values[roles["weight"]], place))
    images = values[roles["image"]]
    name = Path(frame.name).stem if folder is not None else "table"
    notes = [f"{frame.name}: {', '.join(notes)}"] if notes else []
    if holds_bytes(images, roles["image"], place):
        encoded = EncodedSource(len(images), lambda i: bytes_of(images[i]), lambda i: f"{frame.name}, {place(i)}")
        return sound(encoded, about, name, skipped, on_error, notes)
    at = expanded(root) if root is not None else folder if folder is not None else Path()
    files = files_of(images, roles["image"], at, place)
    kept, missing = files_there(files, frame, at, place, on_error)
    kept, more = _once(files, kept, about, place)
    skipped += missing + more
    if len(kept) < len(files):
        files, about = [files[i] for i in kept], about.rows(np.array(kept, np.int64))
    if not files:
        raise DataError(f"{frame.name}: no row is left; left out {len(skipped)}, the first: {skipped[0].reason}")
    return sound(FileSource(files), about, name, skipped, on_error, notes)


# --- which column is which


def roles_of(frame: Frame, asked: Columns, split: bool = True) -> tuple[dict[str, Any], list[str]]:
    """Role -> the name of its column (of labels, a list of names), and what was guessed; with `split` also which
    column says the part."""
    roles: dict[str, Any] = {}
    guessed: list[str] = []
    for role in ("image", "split", "group", "weight"):
        if (column := getattr(asked, role)) is not None:
            roles[role] = frame.require(column, role)
    if asked.label is not None:
        labels = [asked.label] if isinstance(asked.label, str) else list(asked.label)
        roles["label"] = [frame.require(name, "label") for name in labels]
    taken = {name for role in roles.values() for name in ([role] if isinstance(role, str) else role)}
    free = [name for name in frame.names if name not in taken]
    for role, names in (("image", IMAGE_NAMES), ("label", LABEL_NAMES), ("split", SPLIT_NAMES)):
        if role in roles or (role == "split" and not split):
            continue
        candidates = [name for name in free if name.strip().lower().replace(" ", "_") in names.split()]
        if not candidates and role == "label" and len(free) == 1:
            candidates = list(free)
        if len(candidates) == 1:
            roles[role] = candidates if role == "label" else candidates[0]
            free.remove(candidates[0])
            guessed.append(f"{role} from the column {candidates[0]!r}")
        elif role != "split":
            which = f"{' and '.join(map(repr, candidates))} could be" if candidates else "none is called"
            raise DataError(
                f"{frame.name}: which column is the {role}? {which} {'it' if candidates else 'so'}; name it: "
                f"{role}= (--{role}), one of {', '.join(frame.names[:20])}"
            )
    return roles, guessed


def _says_parts(values: Column) -> bool:
    """Whether a column that nobody named says train, val and test; else it is about something else."""
    return any(role_of(text.strip()) in PARTS for text in {value for value in values if isinstance(value, str)})


# --- rows that are left out


def _labelled(
    frame: Frame, values: Mapping[str, Column], labels: Sequence[str], on_error: str
) -> tuple[list[int] | None, list[Skipped]]:
    """The rows that have a label, None for all; with "raise" DataError where one has none."""
    without = sorted({i for name in labels for i, value in enumerate(values[name]) if is_missing(value)})
    if not without:
        return None, []
    what = (
        f"{len(without):,} of {len(values[labels[0]]):,} rows have no label in {', '.join(map(repr, labels[:3]))}"
    )
    if on_error == "raise":
        raise DataError(
            f"{frame.name}: {what}, the first: {', '.join(map(frame.place, without[:SHOWN]))}. Fill them in, or "
            'leave these rows out: on_error="skip" (--on-error skip)'
        )
    left = set(without)
    rows = [i for i in range(len(values[labels[0]])) if i not in left]
    if not rows:
        raise DataError(f"{frame.name}: no row has a label in {', '.join(map(repr, labels[:3]))}")
    return rows, [Skipped(frame.name, what)]


def _picked(column: Column, rows: Sequence[int]) -> Column:
    return [column[i] for i in rows]


def holds_bytes(images: Column, column: str, place: Any) -> bool:
    """Whether the cells are image files, and not their names. DataError where they are neither."""
    first = images[0]
    if isinstance(first, bytes | bytearray | memoryview):
        return True
    if isinstance(first, dict) and isinstance(first.get("bytes"), bytes):
        return True
    if not isinstance(first, str | os.PathLike) and not (isinstance(first, dict) and first.get("path")):
        raise DataError(
            f"the image of {place(0)} in column {column!r} is a {type(first).__name__}; expected the name of a "
            "file, "
            "or the bytes of one"
        )
    return False


def bytes_of(cell: Any) -> bytes:
    """An image file that is a cell; of one that is too large as many bytes as tell that."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes | bytearray | memoryview):
        return b""  # decoding says that it is empty
    return bytes(content)


def files_of(images: Column, column: str, root: Path, place: Any) -> list[str]:
    """The path of each row's file."""
    files = []
    before = str(Path(root, "x"))[:-1]
    for i, image in enumerate(images):
        if type(image) is str and image and image[0].isalnum() and not (os.name == "nt" and ":" in image):
            files.append(before + image)  # a plain relative name; the others in full
            continue
        if isinstance(image, dict):
            image = image.get("path")
        if is_missing(image) or not isinstance(image, str | os.PathLike):
            raise DataError(f"{place(i)} names no image in column {column!r} ({image!r:.40})")
        files.append(str(root / image))
    return files


def files_there(
    files: list[str], frame: Frame, root: Path, place: Any, on_error: str
) -> tuple[list[int], list[Skipped]]:
    """The rows whose files are there. Folders are listed, each once: a million files are not asked for one by
    one."""
    listed: dict[str, set[str]] = {}
    missing = []
    for i, path in enumerate(files):
        folder, _, name = path.rpartition(os.sep)
        if folder not in listed:
            try:
                listed[folder] = set(os.listdir(folder or "." if folder or os.sep not in path else os.sep))  # noqa: PTH208 - names only, ten times as fast
            except OSError:
                listed[folder] = set()
        if name not in listed[folder] and not os.path.exists(path):  # noqa: PTH110 - capitals, or ..
            missing.append(i)
    if not missing:
        return list(range(len(files))), []
    if on_error == "raise" or len(missing) == len(files):
        first = "; ".join(f"{files[i]} ({place(i)})" for i in missing[:SHOWN])
        raise DataError(
            f"{len(missing):,} of the {len(files):,} files that {frame.name} names are not there, the first: "
            f'{first}. {_hint(files[missing[0]], root)}, or leave them out: on_error="skip" (--on-error skip)'
        )
    gone = set(missing)
    return [i for i in range(len(files)) if i not in gone], [
        Unread(files[i], f"is not there ({place(i)} of {frame.name})") for i in missing
    ]


def _hint(path: str, root: Path) -> str:
    """What may be wrong with the name of a file that is not there."""
    for suffix in SUFFIXES:
        if Path(path + suffix).is_file():
            return f"There is a {Path(path + suffix).name}: write the names with their suffix"
    if "\\" in path and Path(path.replace("\\", "/")).is_file():
        return "The names have backslashes: write them with /"
    return f"Names are relative to {root}: root= (--root) says where they are"


def _once(
    files: Sequence[str], rows: list[int], about: Annotations, place: Any
) -> tuple[list[int], list[Skipped]]:
    """The first row of each file. DataError where two rows give one file different labels."""
    first: dict[str, int] = {}
    kept, doubles = [], []
    for i in rows:
        before = first.setdefault(files[i], i)
        if before == i:
            kept.append(i)
        elif about.same_label(i, about, before) and _same_part(about, i, before):
            doubles.append(i)
        else:
            raise DataError(
                f"{files[i]} stands twice, in {place(before)} as {about.label_text(before)}"
                f"{_part_text(about, before)} and in {place(i)} as {about.label_text(i)}{_part_text(about, i)}; "
                "keep "
                "one row of it (of several labels, one row with all of them: cat;dog)"
            )
    if not doubles:
        return kept, []
    return kept, [Skipped(files[doubles[0]], f"and {len(doubles) - 1:,} more rows name a file again")]


def _same_part(about: Annotations, i: int, j: int) -> bool:
    return about.parts is None or bool(about.parts[i] == about.parts[j])


def _part_text(about: Annotations, i: int) -> str:
    return "" if about.parts is None else f" in {PARTS[int(about.parts[i])]}"
