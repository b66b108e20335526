"""Samples whose encoded bytes come from somewhere else than files: a column of a table, another library's data
set, an archive. The id is the digest of those bytes, so a picture is one sample wherever it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from headstart.common.errors import ImageError
from headstart.data.annotations import Annotations
from headstart.data.dataset import Dataset, FileSource, Source, sample_id
from headstart.data.decode import WHOLE, Jpegs
from headstart.data.left_out import Skipped, Unread
from headstart.data.limits import MAX_NBYTES
from headstart.data.workers import in_threads


class EncodedSource(Source):
    """Encoded images that `fetch(index)` gives, a `bytes`; it is called from many threads."""

    def __init__(
        self,
        count: int,
        fetch: Callable[[int], bytes],
        name_of: Callable[[int], str],
        truncated: str = "raise",
    ) -> None:
        super().__init__(count, truncated)
        self._fetch = fetch
        self._name_of = name_of

    def source_name(self, index: int) -> str:
        return self._name_of(index)

    def read(self, index: int) -> tuple[bytes, str]:
        encoded = self._fetch(index)
        if len(encoded) > MAX_NBYTES:
            raise ImageError(
                self.source_name(index), f"has {len(encoded):,} bytes; an encoded image may have {MAX_NBYTES:,}"
            )
        return encoded, sample_id(encoded)

    def open(self, encoded: bytes, index: int, jpegs: Jpegs = WHOLE) -> Image.Image:
        return self.decode(encoded, index, jpegs)

    def errors(self) -> dict[int, ImageError]:
        """Index -> what is wrong with that image, of those that do not decode; all are decoded once, in
        threads."""
        errors: dict[int, ImageError] = {}

        def examine(index: int) -> ImageError | None:
            try:
                self.load(index)
            except ImageError as error:
                return error
            return None

        def take(index: int, error: ImageError | None) -> None:
            if error is not None:
                errors[index] = error

        in_threads(examine, range(len(self)), "checking images", take)
        return errors


def sound(
    source: FileSource | EncodedSource,
    annotations: Annotations,
    name: str,
    left_out: Sequence[Skipped],
    on_error: str,
    notes: Sequence[str] = (),
) -> Dataset:
    """The data set of a source; with `on_error="skip"` without what does not decode, which is listed."""
    if on_error == "raise":
        return Dataset(source, annotations, name, skipped=left_out, notes=notes)
    errors: dict[int, Any] = source.errors()
    kept = np.array([i for i in range(len(source)) if i not in errors], np.int64)
    read: Callable[[int], bool] = source.was_read if isinstance(source, FileSource) else lambda i: True
    skipped = [
        *left_out,
        *((Skipped if read(i) else Unread)(error.source, error.reason) for i, error in errors.items()),
    ]
    return Dataset(source, annotations.rows(kept), name, kept, skipped, notes=notes)
