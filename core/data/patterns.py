"""Patterns of file names, which a shell expands and Python or a quoted argument does not."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from headstart.common.errors import DataError
from headstart.data.litter import is_litter
from headstart.data.place import expanded, is_remote


def is_pattern(path: str | Path) -> bool:
    """Whether the path has `*`, `?` or `[...]`, and nothing is there under just that name. Of a
    URL these are characters like any other."""
    text = str(expanded(path))
    if is_remote(path):
        return False
    return glob.has_magic(text) and not os.path.lexists(text)


def without_patterns(paths: Iterable[str | Path]) -> list[str | Path]:
    """The paths, with each pattern (`*`, `?`, `[...]`, `**` for folders at any depth) replaced by what matches it,
    sorted. DataError where nothing matches.

    A folder that holds another match is left out, since `**` matches folders and what lies in them, and each
    image is to be there once; and so is what systems leave behind.
    """
    plain: list[str | Path] = []
    for path in paths:
        if not is_pattern(path):
            plain.append(path)
            continue
        matches = sorted(glob.glob(str(expanded(path)), recursive=True))  # noqa: PTH207 - pathlib takes no pattern with a root
        matches = [match for match in matches if not is_litter(os.path.basename(match.rstrip(os.sep)))]  # noqa: PTH119
        holders = {str(above) for match in matches for above in Path(match).parents}
        matches = [match for match in matches if str(Path(match)) not in holders]
        if not matches:
            raise DataError(f"{path}: no file or folder matches this pattern")
        plain += matches
    return plain
