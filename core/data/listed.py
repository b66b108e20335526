"""Images that a table lists, without labels, to be classified: a row an image, in the order of the rows, also
where one is named twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headstart.common.errors import DataError, ImageError
from headstart.common.places import reachable
from headstart.data.annotations import unlabelled
from headstart.data.any_files import files_for
from headstart.data.dataset import Dataset, FileSource
from headstart.data.encoded import sound
from headstart.data.file_system import Files
from headstart.data.frames import KINDS, frame_of
from headstart.data.image_cells import files_of, files_there, holds_bytes, rows_with_images, source_of
from headstart.data.layouts import root_of
from headstart.data.left_out import Skipped, check_on_error
from headstart.data.place import expanded, is_remote, stem_of, suffix_of
from headstart.data.table import image_column

EMPTY = "names no image: its cell is empty"


def is_table(path: str | Path) -> bool:
    """Whether there is a file, or a URL, with the suffix of a table."""
    if suffix_of(path) not in KINDS:
        return False
    return is_remote(path) or reachable(expanded(path)).is_file()


def images_listed(
    source: Any,
    on_error: str = "raise",
    image: str | None = None,
    root: str | Path | None = None,
    *,
    examine: bool = True,
    truncated: str = "raise",
) -> Dataset:
    """The images of a table, as of `table`, without labels. `image`, `root`: as there; a table of one column needs
    no `image`. With `on_error="skip"`, files that are not there or do not decode are left out and listed in
    `.skipped`, as are rows without a name; with `examine=False` as well, all rows are kept and nothing is decoded.
    `truncated`: as of `folder`. Raises DataError as `table` does."""
    check_on_error(on_error)
    decoding = on_error if examine else "raise"
    frame, folder = frame_of(source)
    column = frame.require(image, "image") if image is not None else image_column(frame)
    images = frame.columns([column])[column]
    if not len(images):
        raise DataError(f"{frame.name} has no rows")

    def place(i: int) -> str:
        return frame.place(i)

    name = stem_of(frame.name) if folder is not None else "table"
    filled, _ = rows_with_images(frame.name, images, column, place, on_error)
    rows: Sequence[int] = range(len(images)) if filled is None else filled
    at = root_of(root, folder)
    if holds_bytes(images, column, place, rows[0]):
        encoded = source_of(images, at, frame.name, place, truncated)
        return sound(encoded, unlabelled(len(images)), name, (), decoding)

    def place_of_row(k: int) -> str:
        return place(rows[k])

    files = files_of([images[i] for i in rows], column, at, place_of_row)
    places = files_for(files)
    kept, left_out = files_there(files, places, frame, at, place_of_row, on_error)
    if examine:
        named = set(rows)
        empty = [Skipped(f"{frame.name}, {place(i)}", EMPTY) for i in range(len(images)) if i not in named]
        source = FileSource([files[k] for k in kept], truncated, places)
        return sound(source, unlabelled(len(kept)), name, [*left_out, *empty], decoding)
    paths = [f"{frame.name}, {place(i)}" for i in range(len(images))]
    for i, file in zip(rows, files, strict=True):
        paths[i] = file
    return sound(_Listed(paths, frozenset(rows), truncated, places), unlabelled(len(paths)), name, (), decoding)


class _Listed(FileSource):
    """Files of a table, of which some rows name none: `named` are the others."""

    def __init__(self, paths: Sequence[str], named: frozenset[int], truncated: str, files: Files) -> None:
        super().__init__(paths, truncated, files)
        self._named = named

    def read(self, index: int) -> tuple[bytes, str]:
        if index not in self._named:
            raise ImageError(self.paths[index], EMPTY)
        return super().read(index)
