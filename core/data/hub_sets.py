"""Data sets of Hugging Face's library `datasets`: their encoded bytes, and what their features say of the labels.

Invariant: an image is not decoded to be read; its id is of the bytes that the set holds, or of the file it names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import DataError, ImageError
from headstart.common.places import reachable
from headstart.data.annotations import MULTI, PARTS, REGRESSION, Annotations, unlabelled
from headstart.data.class_labels import check_numbers
from headstart.data.columns import check_task, labels_in
from headstart.data.dataset import Dataset
from headstart.data.decode import read_file
from headstart.data.encoded import EncodedSource, sound
from headstart.data.frames import Frame
from headstart.data.further_columns import folds_in, folds_named, groups_in, warn_of_lost_folds, weights_in
from headstart.data.image_cells import is_empty
from headstart.data.layouts import role_of
from headstart.data.left_out import check_on_error
from headstart.data.missing_labels import labelled_rows, no_label, rows_of_classes
from headstart.data.names import check_told_apart, class_list
from headstart.data.pairs import PREPROCESSING
from headstart.data.place import current_folder, expanded
from headstart.data.table import Columns, image_column, roles_of
from headstart.data.untrained import warn_of_untrained

CELLS = ("binary", "large_binary", "binary_view", "string", "large_string", "string_view")
"""of which kinds cells are that hold the bytes of an image, or a file's name"""
YES, NO = (
    frozenset({"yes", "true", "present", "positive", "1"}),
    frozenset({"no", "false", "absent", "negative", "0"}),
)
"""what numbers of a column of 0 and 1 may be called"""
LOOKED_AT = 50
"""rows, one of each label, of a set with a transform"""
SAVED_BY_HUB = ("dataset_info.json", "dataset_dict.json")
"""what the library `datasets` writes into a folder that `save_to_disk` made"""


def huggingface(
    source: Any,
    *,
    image: str | None = None,
    label: str | Sequence[str] | None = None,
    group: str | None = None,
    weight: str | None = None,
    fold: str | None = None,
    task: str | None = None,
    classes: Sequence[str] | None = None,
    on_error: str = "raise",
    truncated: str = "raise",
) -> Dataset:
    """A `datasets.Dataset`, or a `DatasetDict` whose splits train, validation and test become the data set's
    parts; or the path of a folder that `save_to_disk` wrote, or the name of a set on the hub.

    `image`: the column of images, with their encoded bytes or the names of files. `label`: the column of class
    numbers (named by the set's `ClassLabel`), names, lists of these (task "multi") or numbers ("regression"); or
    several columns. A column that is called so, or the only one of images, is taken where none is named. The
    others: as in `table`. A transform of the set (`set_transform`), and the mode of its images, are not heeded,
    which is said. Raises DataError where the set cannot be opened, for labels that are missing (-1), or that a
    transform changes, and what `table` raises.
    """
    check_on_error(on_error)
    check_task(task)
    rows = _Rows(source)
    sets, first = rows.sets, rows.first
    asked = Columns(image, label, None, group, weight, fold=fold)
    frame = rows.frame
    if image is None and len(of_images := _image_columns(first)) == 1:
        asked = replace(asked, image=of_images[0])
    roles, notes = roles_of(frame, asked, split=False)
    of_label = {name: rows.values(name) for name in roles["label"]}
    is_nothing = no_label(classes, of_label.values()) if _names(first, roles["label"]) is None else _no_number
    kept, skipped = labelled_rows(frame.name, of_label, rows.place, on_error, is_nothing)
    if on_error != "raise" and len(of_label) == 1:
        (cells,) = of_label.values()
        in_words = _in_words(first, roles["label"][0], cells)
        kept, of_none = rows_of_classes(frame.name, in_words, kept, classes, task, None)
        skipped += of_none
    at: Sequence[int] = range(len(rows)) if kept is None else kept

    def values(name: str) -> list[Any]:
        every = of_label.get(name) or rows.values(name)
        return every if kept is None else [every[i] for i in kept]

    def place(i: int) -> str:
        return rows.place(at[i])

    about = _labels(first, roles["label"], values, task, classes, place)
    if "group" in roles:
        about = replace(about, groups=groups_in(group or "", values(roles["group"]), place))
    if "weight" in roles:
        about = replace(about, weights=weights_in(weight or "", values(roles["weight"]), place))
    if len(sets) > 1:
        parts = [PARTS.index(part) for part, dataset in sets.items() for _ in range(len(dataset))]
        about = replace(about, parts=np.array(parts, np.int8)[np.array(at, np.int64)])
    if "fold" in roles:
        about = replace(about, folds=folds_in(fold or "", values(roles["fold"]), place, about.parts))
    if classes is None:
        if about.task != REGRESSION and _names(first, roles["label"]) is not None:
            check_told_apart([about.classes[k] for k in about.used().tolist()])
        warn_of_untrained(about, frame.name)
    said = [f"{frame.name}: {', '.join(notes)}"] if notes else []
    if role_of(rows.only) != PARTS[0]:
        said.append(f"{frame.name}: all rows are of one part, {rows.only}; taken in one piece")
    said += rows.left(roles["image"], roles["label"])
    data = sound(rows.images(roles["image"], truncated, at), about, frame.name, skipped, on_error, said)
    if "fold" in roles and about.parts is None:
        warn_of_lost_folds(folds_named(rows.values(roles["fold"])), data.fold_names, frame.name)
    return data


def hub_pictures(
    source: Any, image: str | None = None, on_error: str = "raise", truncated: str = "raise"
) -> Dataset:
    """The images of such a set, in their order, without labels. `image`: as there."""
    rows = _Rows(source)
    if image is not None:
        column = rows.frame.require(image, "image")
    else:
        of_images = _image_columns(rows.first)
        column = of_images[0] if len(of_images) == 1 else image_column(rows.frame)
    pictures = rows.images(column, truncated, range(len(rows)))
    return sound(pictures, unlabelled(len(pictures)), rows.frame.name, (), on_error, rows.left(column, ()))


def is_saved_hub_set(path: str | Path) -> bool:
    """Whether it is a folder that `save_to_disk` wrote."""
    folder = reachable(expanded(path))
    return any((folder / name).is_file() for name in SAVED_BY_HUB)


class _Rows:
    """The rows of a set's splits, one after another."""

    def __init__(self, source: Any) -> None:
        opened = _opened(source)
        self.sets = _splits(opened)
        self.only = str(next(iter(opened))) if isinstance(opened, Mapping) and len(self.sets) == 1 else PARTS[0]
        """the name of the split where there is one alone"""
        self.first = first = next(iter(self.sets.values()))
        plain = first.with_format(None)
        self.frame = Frame(
            _name_of(source), first.column_names, lambda names: {name: plain[name] for name in names}
        )
        self._starts = np.cumsum([0, *(len(dataset) for dataset in self.sets.values())])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def values(self, name: str) -> list[Any]:
        return [value for dataset in self.sets.values() for value in dataset.with_format(None)[name]]

    def place(self, i: int) -> str:
        part, row = self._locate(i)
        return f"row {row + 1}{f' of {part}' if part else ''}"

    def images(self, column: str, truncated: str, rows: Sequence[int]) -> EncodedSource:
        """Of these rows."""
        self._check_images(column)
        encoded = {part: _encoded(dataset, column) for part, dataset in self.sets.items()}

        def fetch(i: int) -> bytes:
            part, row = self._locate(rows[i])
            cell = encoded[part][row][column]
            if is_empty(cell):
                raise ImageError(source_name(i), "names no image")
            if isinstance(cell, Mapping):
                cell = cell.get("bytes") or cell.get("path")
            return read_file(Path(folder, cell)) if isinstance(cell, str) else bytes(cell or b"")

        name, folder = self.frame.name, current_folder()

        def source_name(i: int) -> str:
            return f"{name}, {self.place(rows[i])}"

        return EncodedSource(len(rows), fetch, source_name, truncated)

    def left(self, image: str, labels: Sequence[str]) -> list[str]:
        """What is said of a transform that is not applied, and of the mode of images. `image`, `labels`: the
        columns. DataError where a transform gives another label."""
        said = []
        if any(_has_transform(dataset) for dataset in self.sets.values()):
            said.append(f"{self.frame.name}: its transform is not applied, {PREPROCESSING}")
        if (mode := getattr(self.first.features[image], "mode", None)) not in (None, "RGB"):
            said.append(f"{self.frame.name}: its images are read in RGB, and not in the mode {mode!r}")
        for part, dataset in self.sets.items():
            for column in labels if _has_transform(dataset) else ():
                if (changed := _changed_by_transform(dataset, column)) is not None:
                    row, mine, theirs = changed
                    raise DataError(
                        f"{self.frame.name}: the transform of the set makes {theirs!r:.60} of {mine!r:.60} in "
                        f"column {column!r}, row {row + 1}{f' of {part}' if part else ''}, and is not applied; "
                        "have the set hold what it makes: data.map(...)"
                    )
        return said

    def _check_images(self, column: str) -> None:
        """DataError for a column that holds neither images, nor their bytes or names."""
        feature = self.first.features[column]
        kind = getattr(feature, "dtype", None)
        if (
            isinstance(feature, _library().Image)
            or kind in CELLS
            or (isinstance(feature, Mapping) and feature.keys() <= {"bytes", "path"})
        ):
            return
        raise DataError(
            f"{self.frame.name}: the column {column!r} holds {' '.join(str(feature).split())[:100]}; expected "
            "images, their bytes or the names of their files. Of pixels: "
            f"hs.data.arrays(np.array(data[{column!r}], 'uint8'), labels)"
        )

    def _locate(self, i: int) -> tuple[str, int]:
        k = int(np.searchsorted(self._starts, i, "right")) - 1
        return list(self.sets)[k], i - int(self._starts[k])


def _library() -> Any:
    try:
        return import_module("datasets")
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise DataError(
            "Hugging Face's data sets need its library, which is not installed: pip install 'headstart[datasets]'"
        ) from error


def _opened(source: Any) -> Any:
    library = _library()
    if not isinstance(source, str | os.PathLike):
        return source
    try:
        if os.path.isdir(source):  # noqa: PTH112 - as it was written
            return library.load_from_disk(os.fspath(source))
        return library.load_dataset(os.fspath(source))
    except Exception as error:  # the library raises anything: of networks, of parsers, of its own
        raise DataError(
            f"{source} cannot be opened as a Hugging Face data set: {' '.join(str(error).split())[:300]}"
        ) from error


def _splits(opened: Any) -> dict[str, Any]:
    """Part -> its set; "" for a set in one piece. DataError for what is none."""
    library = _library()
    if isinstance(opened, library.DatasetDict):
        sets: dict[str, Any] = {}
        for name, dataset in opened.items():
            part = role_of(str(name))
            if part not in PARTS or part in sets:
                raise DataError(
                    f"the splits are {', '.join(map(str, opened))}; expected train, validation and test, each "
                    f"once. Take one of them: data[{name!r}]"
                )
            sets[part] = dataset
        sets = {part: sets[part] for part in PARTS if part in sets}
        if len(sets) > 1 and (empty := [part for part, dataset in sets.items() if not len(dataset)]):
            raise DataError(f"the part {empty[0]!r} of the data set has no rows; leave that split out")
        if len(sets) == 1:
            sets = {"": next(iter(sets.values()))}
        first = next(iter(sets.values())).features
        if any(dataset.features != first for dataset in sets.values()):
            raise DataError("the splits have differing columns or classes; expected the same in each")
    elif isinstance(opened, library.Dataset):
        sets = {"": opened}
    else:
        raise DataError(
            f"the data set is a {type(opened).__name__}; expected a datasets.Dataset or DatasetDict, or a name. "
            f"Of one that is streamed: {streamed_line('stream')}"
        )
    if not sum(map(len, sets.values())):
        raise DataError("the data set has no rows")
    return sets


def streamed_line(argument: str) -> str:
    """What to write of a set that is streamed, which `argument` is the name of."""
    return f"datasets.Dataset.from_generator(lambda: iter({argument}), features={argument}.features)"


def _name_of(source: Any) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source).rstrip("/").rpartition("/")[2]
    first = next(iter(source.values())) if isinstance(source, Mapping) else source
    about = getattr(first, "info", None)
    return str(getattr(about, "dataset_name", None) or "the data set")


def _image_columns(dataset: Any) -> list[str]:
    kind = _library().Image
    return [name for name, feature in dataset.features.items() if isinstance(feature, kind)]


def _encoded(dataset: Any, column: str) -> Any:
    """The set with its images left encoded, and only these."""
    library = _library()
    dataset = dataset.select_columns([column]).with_format(None)
    if isinstance(dataset.features[column], library.Image):
        dataset = dataset.cast_column(column, library.Image(decode=False))
    return dataset


def _has_transform(dataset: Any) -> bool:
    """Whether it makes its rows by code of the user's, as of `set_transform`."""
    return bool((dataset.format or {}).get("type") == "custom")


def _changed_by_transform(dataset: Any, column: str) -> tuple[int, Any, Any] | None:
    """The first row, of one of each label, of which a set's transform makes another number or name, and both. What
    it makes of another kind, such as one-hot rows, or under another name, tells nothing."""
    labels = dataset.with_format(None)[column]
    first: dict[str, int] = {}
    for i, label in enumerate(labels):
        first.setdefault(str(label), i)
        if len(first) == LOOKED_AT:
            break
    for i in first.values():
        try:
            made = dataset[i][column]
        except Exception:  # the user's code
            continue
        made, label = made.tolist() if hasattr(made, "tolist") else made, labels[i]
        if isinstance(label, int | str) and type(made) is type(label) and made != label:
            return i, label, made
    return None


def _names(dataset: Any, columns: Sequence[str]) -> Any:
    """What names the numbers in a column of labels, or in its lists; None where nothing does."""
    if len(columns) > 1:
        return None
    feature = dataset.features[columns[0]]
    kinds = (feature, getattr(feature, "feature", None))
    return next((kind for kind in kinds if hasattr(kind, "names") and hasattr(kind, "int2str")), None)


def _in_words(dataset: Any, column: str, cells: Sequence[Any]) -> Sequence[Any]:
    """The names of the numbers in a column that names them; any other column as it is."""
    feature = dataset.features[column]
    if not hasattr(feature, "int2str"):
        return cells
    names = dict(enumerate(feature.names))
    return [names.get(cell) for cell in cells]


def _check_truths(dataset: Any, columns: Sequence[str]) -> None:
    """DataError where one of several columns of labels names its 1 "no", which is taken for having the label."""
    for column in columns if len(columns) > 1 else ():
        names = [str(name).strip().lower() for name in getattr(dataset.features[column], "names", None) or ()]
        if len(names) == 2 and names[0] in YES and names[1] in NO:
            turned = f"data.map(lambda row: {{{column!r}: 1 - row[{column!r}]}})"
            raise DataError(
                f"in column {column!r} 0 is {names[0]!r} and 1 is {names[1]!r}, and of several columns of labels "
                f"1 is taken for a label that the row has: {turned}"
            )


def _unnamed(row: str, number: int, column: str, count: int) -> DataError:
    return DataError(
        f"{row} has the label {number} in column {column!r}, whose {count} classes are numbered from 0"
    )


def _no_number(value: Any) -> bool:
    """Whether a cell holds no number of a class: none, or -1, which test sets without labels have."""
    if isinstance(value, list | tuple | np.ndarray):
        return any(number is None or number < 0 for number in value)
    return value is None or value < 0


def _labels(
    dataset: Any, columns: Sequence[str], values: Any, task: str | None, classes: Sequence[str] | None, place: Any
) -> Annotations:
    """Labels, of which the set's features may say the names."""
    named = _names(dataset, columns)
    if named is None:
        _check_truths(dataset, columns)
        lists = [(name, values(name)) for name in columns]
        return labels_in(lists, task=task, classes=classes, separator=None, place=place)
    names, numbers = list(named.names), values(columns[0])
    if not hasattr(dataset.features[columns[0]], "int2str"):  # lists of such
        check_numbers(numbers, len(names), columns[0])
        labels = np.zeros((len(numbers), len(names)), np.uint8)
        for i, listed in enumerate(numbers):
            if (largest := max(listed, default=0)) >= len(names):
                raise _unnamed(place(i), largest, columns[0], len(names))
            labels[i, listed] = 1
        about = Annotations(labels, tuple(names), MULTI)
    else:
        if (largest := max(numbers)) >= len(names):
            raise _unnamed(place(numbers.index(largest)), largest, columns[0], len(names))
        about = Annotations(np.array(numbers, np.int64), tuple(names))
    if task not in (None, about.task):
        raise DataError(f"the labels in column {columns[0]!r} are of task {about.task!r}, and task={task!r}")
    return about if classes is None else _in_order(about, class_list(classes), columns[0])


def _in_order(about: Annotations, classes: Sequence[str], column: str) -> Annotations:
    """With these classes, or labels, of which some may have no sample. DataError where one that has is not among
    them: a sample would lose its label."""
    place = {name: k for k, name in enumerate(classes)}
    numbers = np.array([place.get(name, -1) for name in about.classes])
    if missing := [about.classes[k] for k in about.used().tolist() if numbers[k] < 0]:
        raise DataError(f"classes= does not name {', '.join(missing[:5])} of column {column!r}")
    return about.renumbered(classes, numbers, True)
