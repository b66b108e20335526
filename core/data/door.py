"""The door for data sets: what can only mean one thing is opened, and what is none is refused with what it is and
the line of code that makes one of it.

Other libraries' objects are told by the names of their types, so nothing is imported to recognise them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headstart.common.errors import SettingError
from headstart.data.dataset import Dataset
from headstart.data.hub_sets import huggingface, streamed_line
from headstart.data.iterated import ARRAYS, line_of_batches, line_of_chosen, line_of_iterated
from headstart.data.pairs import columns_line, entries_of, is_map_style, pairs_line, wrap
from headstart.data.sources import open_data, takes_columns
from headstart.data.table import Columns, table

FRAMES = {"pandas", "polars", "pyarrow"}
PAIRS = "hs.data.arrays([image for image, _ in {0}], [label for _, label in {0}])"


def as_data_set(thing: Any, classes: Sequence[str] | None = None, task: str | None = None) -> Any:
    """A path (of a folder or a table), a data set of Hugging Face's library, a frame, a list of pairs (image,
    label) or another library's map-style set as the data set that it means; anything else as it is.

    `classes`: in whose order those of a path or a frame are numbered, which may lack some; None: its own. `task`:
    of what has columns, whose values alone may not tell it. Raises what opening raises.
    """
    if isinstance(thing, str | os.PathLike):
        path = os.fspath(thing)
        of_task = Columns(task=task) if takes_columns(path) else None
        return open_data(path, classes=classes, columns=of_task)
    if "headstart" in _libraries(thing) or thing is None:
        return thing
    if is_hub_set(thing):
        return huggingface(thing, task=task)
    if is_frame(thing):
        return table(thing, task=task, classes=classes)
    if _is_map_style(thing):
        return wrap(thing)
    return thing


def is_frame(thing: Any) -> bool:
    """Whether it is a table of pandas, polars or Arrow; a column of one is none."""
    return bool(_libraries(thing) & FRAMES) and hasattr(thing, "columns")


def is_hub_set(thing: Any) -> bool:
    """Whether it is a set of Hugging Face's library, and no column of one."""
    return "datasets" in _libraries(thing) and type(thing).__name__ != "Column"


def _libraries(thing: Any) -> set[str]:
    return {kind.__module__.split(".")[0] for kind in type(thing).__mro__}


def _is_map_style(thing: Any) -> bool:
    """Whether it holds pairs of an image and a label: a list of such, or a set of another library."""
    if isinstance(thing, list):
        pair = thing[0] if thing else None
        return isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], str | int)
    return is_map_style(thing)


def check_data_set(thing: Any, argument: str, kinds: tuple[type, ...] = (Dataset,)) -> None:
    """SettingError unless `thing` is of one of `kinds`; `argument` is what the caller calls it."""
    if isinstance(thing, kinds):
        return
    allowed = " or ".join("features (a FeatureSet)" if kind is not Dataset else "a data set" for kind in kinds)
    what, mend = described(thing, argument)
    raise SettingError(f"{argument} is {what}; expected {allowed}{mend and ': ' + mend}")


def described(thing: Any, argument: str) -> tuple[str, str]:
    """What something is that is no data set, and what to write to get one of it ("" where nothing is known)."""
    name = type(thing).__name__
    if thing is None:
        return "None", "hs.data.folder(path) or " + ARRAYS
    if isinstance(thing, str | os.PathLike):
        return f"the path {str(thing)!r}", f"hs.data.folder({str(thing)!r})"
    types = [(kind.__module__, kind.__name__) for kind in type(thing).__mro__]
    modules = {module.split(".")[0] for module, _ in types}
    of = f"a {types[0][0].split('.')[0]} {name}"
    if "headstart" in modules:
        kind = {"FeatureSet": "a FeatureSet", "Run": "a Run", "Model": "a model"}.get(name, f"a {name}")
        return kind, "data come second, after the model" if name == "Model" else ""
    if "datasets" in modules:
        if isinstance(thing, Mapping):
            return of, f"take one of its splits, {argument}[{next(iter(thing), 'train')!r}]"
        if "Iterable" in name:
            return of, streamed_line(argument)
        return of, (
            f"hs.data.arrays({argument}['image'], {argument}['label'], classes={argument}.features['label'].names)"
        )
    if "pandas" in modules:
        return of, "hs.data.arrays(list(table['image']), table['label']), of columns with images and labels"
    if isinstance(thing, Mapping):
        return f"a {name}", _of_mapping(thing, argument)
    if mend := _by_kind(thing, argument, {name for _, name in types}):
        return of, mend
    if isinstance(thing, Iterator):
        return f"a {name}, which can be read once only", f"make lists of images and labels, then {ARRAYS}"
    if isinstance(thing, tuple | list) and thing and all(isinstance(part, Dataset) for part in thing):
        return f"a {name} of data sets", f"pass its parts one by one, such as *{argument}"
    if isinstance(thing, tuple) and len(thing) == 2:
        return "a tuple of two", f"hs.data.arrays(*{argument}), of images and labels"
    if isinstance(thing, Sequence) and len(thing) and isinstance(thing[0], tuple | list) and len(thing[0]) == 2:
        return f"a {name} of pairs", PAIRS.format(argument)
    return f"a {name}", pairs_line(_first(thing), argument) or ARRAYS


def _of_mapping(thing: Mapping[Any, Any], argument: str) -> str:
    """What to write of a dict: of images and labels under names that say so, or of the parts of a split."""
    if line := columns_line(thing, argument):
        return line
    for name, part in thing.items():
        if (
            isinstance(part, Dataset)
            or is_frame(part)
            or _is_map_style(part)
            or hasattr(part, "as_numpy_iterator")
        ):
            return f"take one of its parts, {argument}[{name!r}]"
        if isinstance(part, Mapping) and entries_of(part):
            return f"take one of its parts, {columns_line(part, f'{argument}[{name!r}]')}"
    return ARRAYS


def _first(thing: Any) -> Any:
    """The first sample of another library's set; None where it gives none."""
    try:
        return thing[0] if hasattr(thing, "__getitem__") else next(iter(thing))
    except Exception:  # another library's
        return None


def _by_kind(thing: Any, argument: str, kinds: set[str]) -> str:
    """What to write of data sets and arrays as several libraries have them, by what they are called and can do."""
    if "DataLoader" in kinds:
        if line := line_of_chosen(thing, argument):
            return line
        return described(getattr(thing, "dataset", None), f"{argument}.dataset")[1]
    if kinds & {"ImageFolder", "DatasetFolder"}:
        return f"hs.data.folder({str(getattr(thing, 'root', 'path'))!r})"
    if "TensorDataset" in kinds:
        return (
            f"images, labels = {argument}.tensors, then {ARRAYS}, of uint8 images (n, h, w, 3) "
            "(of (n, 3, h, w): images.permute(0, 2, 3, 1))"
        )
    if hasattr(thing, "as_numpy_iterator"):
        return line_of_iterated(thing, argument)
    if "PyDataset" in kinds:
        return line_of_batches(argument)
    if hasattr(thing, "__array__"):
        return f"{ARRAYS}, of uint8 images (n, h, w, 3)"
    if kinds & {"Dataset", "IterableDataset"} and (line := pairs_line(_first(thing), argument)):
        return line
    if "IterableDataset" in kinds:
        return f"images, labels = zip(*{argument}), then {ARRAYS}"
    if "Dataset" in kinds:
        return f"{PAIRS.format(argument)}, of Pillow images or uint8 arrays, without a transform to floats"
    return ""
