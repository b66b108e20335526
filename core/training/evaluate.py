"""`evaluate`: a run, or the folder of a saved one, on labelled data of any kind."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart.common.errors import DataError, SettingError
from headstart.common.log import LOG
from headstart.data import Dataset, folder, open_data
from headstart.data.names import normal
from headstart.data.table import Columns
from headstart.data.walk import expanded
from headstart.training.checks import trained_classes
from headstart.training.evaluation import Evaluation
from headstart.training.run import Run
from headstart.training.saved import load


def evaluate(
    run: Run | str | Path, data: Any, *, on_error: str = "raise", truncated: str = "raise", **settings: Any
) -> Evaluation:
    """How well a run does on labelled samples: accuracy and loss, `.scores` with an interval and a row a class,
    `.confusions`.

    `run`: of `fit`, or the folder that it was saved to. `data`: a data set, features of the run's trunk, what
    `fit` makes a data set of (a frame, pairs ...), or what the command line takes for --data: of a folder with a
    folder a class, some of the run's classes may be missing. Of a path to data that came in parts, the test part
    is taken. `on_error`, `truncated`: of files, see `hs.data.folder`. `settings`: of `Run.predict`. Raises what
    `load`, `hs.data.folder` and `Run.evaluate` do.
    """
    if isinstance(run, str | os.PathLike):
        run = load(run)
    if not isinstance(run, Run):
        raise SettingError(f"run is a {type(run).__name__}; expected a Run, or the folder of a saved one")
    if isinstance(data, str | os.PathLike):
        data = labelled(run, os.fspath(data), on_error, truncated=truncated)
    return run.evaluate(data, **settings)


def labelled(
    run: Run,
    text: str,
    on_error: str = "raise",
    columns: Mapping[str, Any] | None = None,
    truncated: str = "raise",
) -> Dataset:
    """The data set that a text means, for a run whose classes are known. A folder that holds folders of these
    classes is read with them, so that one may be missing, and so is a table; of data in parts the test part is
    taken, and said. `columns`: of a table, as keyword arguments of `headstart.data.table.Columns`."""
    root, classes = expanded(text), trained_classes(run.model, run.data)
    inside = {normal(entry.name) for entry in root.iterdir()} if root.is_dir() else set()
    if classes.named and inside & set(classes.names):
        Columns(**(columns or {})).only(kind="a folder of images")
        return folder(text, on_error, classes.names, truncated)
    is_table = classes.named and root.is_file()
    names = classes.names if is_table else None
    data = open_data(text, on_error, names, Columns(**(columns or {})), truncated)
    if data.parts:
        if "test" not in data.parts:
            there = ", ".join(data.parts)
            raise DataError(f"{data.name} has the parts {there}, and no test part; name one of them, its own path")
        LOG.info("%s: its test part", data.name)
        return data.test
    return data
