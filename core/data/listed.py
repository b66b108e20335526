"""Images that a table lists, without labels, to be classified: a row an image, in the order of the rows, also
where one is named twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import DataError
from headstart.data.annotations import unlabelled
from headstart.data.dataset import Dataset, FileSource, Skipped
from headstart.data.encoded import EncodedSource, sound
from headstart.data.frames import KINDS, frame_of
from headstart.data.image_cells import bytes_of, files_of, files_there, holds_bytes
from headstart.data.table import image_column
from headstart.data.walk import check_on_error, expanded


def is_table(path: str | Path) -> bool:
    """Whether there is a file with the suffix of a table."""
    path = expanded(path)
    return path.suffix.lower() in KINDS and path.is_file()


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
    `.skipped`; with `examine=False` as well, all rows are kept and nothing is decoded. `truncated`: as of
    `folder`. Raises DataError as `table` does."""
    check_on_error(on_error)
    decoding = on_error if examine else "raise"
    frame, folder = frame_of(source)
    column = frame.require(image, "image") if image is not None else image_column(frame)
    images = frame.columns([column])[column]
    if not len(images):
        raise DataError(f"{frame.name} has no rows")

    def place(i: int) -> str:
        return frame.place(i)

    name = Path(frame.name).stem if folder is not None else "table"
    if holds_bytes(images, column, place):
        encoded = EncodedSource(
            len(images), lambda i: bytes_of(images[i]), lambda i: f"{frame.name}, {place(i)}", truncated
        )
        return sound(encoded, unlabelled(len(images)), name, (), decoding)
    at = expanded(root) if root is not None else folder if folder is not None else Path()
    files = files_of(images, column, at, place)
    kept, missing = files_there(files, frame, at, place, on_error)
    left_out: list[Skipped] = missing if examine else []
    about = unlabelled(len(files))
    if len(kept) < len(files) and examine:
        files, about = [files[i] for i in kept], about.rows(np.array(kept, np.int64))
    return sound(FileSource(files, truncated), about, name, left_out, decoding)
