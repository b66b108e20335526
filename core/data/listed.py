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
from headstart.data.frames import KINDS, Frame, frame_of
from headstart.data.image_cells import bytes_of, files_of, files_there, holds_bytes
from headstart.data.table import IMAGE_NAMES
from headstart.data.walk import check_on_error, expanded


def is_table(path: str | Path) -> bool:
    """Whether there is a file with the suffix of a table."""
    path = expanded(path)
    return path.suffix.lower() in KINDS and path.is_file()


def images_listed(
    source: Any, on_error: str = "raise", image: str | None = None, root: str | Path | None = None
) -> Dataset:
    """The images of a table, as of `table`, without labels. `image`, `root`: as there; a table of one column needs
    no `image`. With `on_error="skip"`, files that are not there or do not decode are left out and listed in
    `.skipped`. Raises DataError as `table` does."""
    check_on_error(on_error)
    frame, folder = frame_of(source)
    column = frame.require(image, "image") if image is not None else _image_column(frame)
    images = frame.columns([column])[column]
    if not len(images):
        raise DataError(f"{frame.name} has no rows")

    def place(i: int) -> str:
        return frame.place(i)

    name = Path(frame.name).stem if folder is not None else "table"
    if holds_bytes(images, column, place):
        encoded = EncodedSource(len(images), lambda i: bytes_of(images[i]), lambda i: f"{frame.name}, {place(i)}")
        return sound(encoded, unlabelled(len(images)), name, (), on_error)
    at = expanded(root) if root is not None else folder if folder is not None else Path()
    files = files_of(images, column, at, place)
    kept, missing = files_there(files, frame, at, place, on_error)
    left_out: list[Skipped] = missing
    about = unlabelled(len(files))
    if len(kept) < len(files):
        files, about = [files[i] for i in kept], about.rows(np.array(kept, np.int64))
    return sound(FileSource(files), about, name, left_out, on_error)


def _image_column(frame: Frame) -> str:
    """The only one that is called as a column of images is, or the only one."""
    names = [name for name in frame.names if name.strip().lower().replace(" ", "_") in IMAGE_NAMES.split()]
    names = names or (list(frame.names) if len(frame.names) == 1 else [])
    if len(names) != 1:
        which = f"{' and '.join(map(repr, names))} could be it" if names else "none is called so"
        raise DataError(
            f"{frame.name}: which column is the image? {which}; name it: image= (--image), one of "
            f"{', '.join(frame.names[:20])}"
        )
    return names[0]
