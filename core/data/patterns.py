"""Patterns of file names, which a shell expands and Python or a quoted argument does not."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from headstart.common.errors import DataError
from headstart.data.walk import expanded


def without_patterns(paths: Iterable[str | Path]) -> list[str | Path]:
    """The paths, with each pattern (`*`, `?`, `[...]`, `**` for folders at any depth) replaced by what matches it,
    sorted. What is there under just that name is no pattern. DataError where nothing matches."""
    plain: list[str | Path] = []
    for path in paths:
        text = str(expanded(path))
        if not glob.has_magic(text) or os.path.lexists(text):
            plain.append(path)
            continue
        matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - pathlib takes no pattern with a root
        if not matches:
            raise DataError(f"{path}: no file or folder matches this pattern")
        plain += matches
    return plain
