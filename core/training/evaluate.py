"""`evaluate`: a run, or the folder of a saved one, on labelled data of any kind."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headstart.common.errors import DataError, SettingError
from headstart.common.log import LOG
from headstart.contract import registry
from headstart.data import Dataset, folder, open_data
from headstart.data.annotations import SINGLE
from headstart.data.any_files import folder_at
from headstart.data.file_system import Folder
from headstart.data.frames import frame_of
from headstart.data.layouts import refuse_url
from headstart.data.listed import is_table
from headstart.data.names import normal
from headstart.data.table import Columns
from headstart.training.checks import trained_classes
from headstart.training.evaluation import Evaluation
from headstart.training.run import Run
from headstart.training.saved import load


def evaluate(
    run: Run | str | Path,
    data: Any,
    *,
    on_error: str = "raise",
    truncated: str = "raise",
    backend: str | None = None,
    **settings: Any,
) -> Evaluation:
    """How well a run does on labelled samples: accuracy and loss, `.scores` with an interval and a row a class,
    `.confusions`.

    `run`: of `fit`, or the folder that it was saved to. `data`: a data set, features of the run's trunk, what
    `fit` makes a data set of (a frame, pairs ...), or what the command line takes for --data: of a folder with a
    folder a class, some of the run's classes may be missing. Of data that came in parts, the test part is taken.
    `on_error`, `truncated`: of files, see `hs.data.folder`. `backend`: None: of a run its own, of a folder as
    `load` chooses it. `settings`: of `Run.evaluate`, such as `cached=True`. Raises what `load`, `hs.data.folder`
    and `Run.evaluate` do.
    """
    if isinstance(run, str | os.PathLike):
        run = load(run, backend)
        backend = None
    if not isinstance(run, Run):
        raise SettingError(f"run is a {type(run).__name__}; expected a Run, or the folder of a saved one")
    if backend is not None:
        run = replace(run, backend=registry.choose(backend, run.model.home))
    if isinstance(data, str | os.PathLike):
        data = labelled(run, os.fspath(data), on_error, truncated=truncated)
    elif (on_error, truncated) != ("raise", "raise"):
        raise SettingError(
            f"on_error={on_error!r}, truncated={truncated!r}: they are about the files of a path, and data is a "
            f"{type(data).__name__}; pass them where it is opened, such as hs.data.folder(path, on_error='skip')"
        )
    return run.evaluate(data, **settings)


def labelled(
    run: Run,
    text: str,
    on_error: str = "raise",
    columns: Mapping[str, Any] | None = None,
    truncated: str = "raise",
) -> Dataset:
    """The data set that a text means, for a run whose classes are known. A folder that holds folders of these
    classes is read with them, so that one may be missing, and so is a table, of which the columns that are called
    as the run's labels or targets are these; of data in parts the test part is taken, and said. `columns`: of a
    table, as keyword arguments of `headstart.data.table.Columns`."""
    refuse_url(text)
    root, classes = folder_at(text), trained_classes(run.model, run.data)
    a_table = is_table(root.path)
    inside = set() if a_table else {normal(name) for name in root.folders()}
    if classes.named and inside & set(classes.names):
        Columns(**(columns or {})).only(kind="a folder of images")
        return folder(text, on_error, classes.names, truncated)
    by_name = classes.named and (a_table or Path(root.path).is_file())
    names = classes.names if by_name else None
    named = Columns(**(columns or {}))
    if by_name and named.task is None and run.model.task != SINGLE:
        named = replace(named, task=run.model.task)  # whole numbers, and cells of one label, do not tell it
        columns_there = set(map(normal, frame_of(root.path)[0].names)) if a_table else set[str]()
        if named.label is None and set(classes.names) <= columns_there:
            named = replace(named, label=classes.names)
    data = open_data(text, on_error, names, named, truncated)
    if data.parts:
        if "test" not in data.parts:
            there = ", ".join(data.parts)
            raise DataError(f"{data.name} has the parts {there}, and no test part{_one_of(root, data)}")
        LOG.info("%s: its test part", data.name)
        return data.test
    return data


def _one_of(root: Folder, data: Dataset) -> str:
    """How to name one part of data that have no test part."""
    folders = root.folders()
    here = next((root / part for part in data.parts if part in folders), None)
    if here is not None:
        return f"; name one of them, such as {here}"
    part = next(iter(data.parts))
    return f"; pass one of them from Python, such as run.evaluate(data.{part}), or a table of its rows alone"
