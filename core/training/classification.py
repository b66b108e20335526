"""Which class images show: named, for people, and written to files a batch at a time, however many there are.

Invariant: a file has a line an image, in the order of the images, and is whole or not there; nothing is held of an
image once its line is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import SettingError
from headstart.common.outputs import check_outputs, write_bytes
from headstart.common.progress import track
from headstart.common.table import Table
from headstart.contract import registry
from headstart.data import Dataset
from headstart.data.workers import check_counts
from headstart.models import Model, check_model
from headstart.training.metrics import decided, softmax
from headstart.training.prediction import as_dataset, logits_of, predict, warn_of_lost
from headstart.training.prediction_files import WRITERS, Rows


@dataclass(frozen=True)
class Predictions:
    """Which class each image shows."""

    images: tuple[str, ...]
    """their files"""
    classes: tuple[str, ...]
    probabilities: np.ndarray
    """`(n, classes)`; rows that are not finite are of a model that has diverged"""
    top: int = 1
    """how many classes are named for an image"""

    def best(self, i: int) -> list[tuple[str, float]]:
        """The likeliest classes of image i with their probabilities; none where these are not finite."""
        row = self.probabilities[i]
        if not np.isfinite(row).all():
            return []
        return [(self.classes[k], float(row[k])) for k in row.argsort()[::-1][: self.top]]

    def as_list(self) -> list[dict[str, Any]]:
        """JSON-able: a dict for each image."""
        return [
            {"image": image, "classes": [list(pair) for pair in self.best(i)]}
            for i, image in enumerate(self.images)
        ]

    def as_table(self) -> Table:
        """For a terminal: a row for each class that is named, an image's name in its first."""
        rows: list[tuple[str, ...]] = []
        for i, image in enumerate(self.images):
            best = [(name, f"{probability:.1%}") for name, probability in self.best(i)] or [("-", "not finite")]
            rows += [(image if rank == 0 else "", *texts) for rank, texts in enumerate(best)]
        return Table(("image", "class", "probability"), rows, right=(2,))


def classify(
    model: Model,
    data: Dataset,
    *,
    top: int = 1,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> Predictions:
    """The `top` likeliest classes of each image of a data set. Errors as of `predict`."""
    logits = predict(model, data, backend=backend, device=device, precision=precision)
    images = tuple(data.source_name(i) for i in range(len(data)))
    return Predictions(images, tuple(model.classes), softmax(logits), top)


@dataclass(frozen=True)
class Written:
    """What `write_predictions` has written."""

    path: Path
    images: int
    not_finite: int
    """images without a class, since their logits are not finite"""
    counts: dict[str, int]
    """class -> images that show it, most first"""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**vars(self), "path": str(self.path)}


def write_predictions(
    model: Model,
    images: Any,
    path: str | Path,
    *,
    top: int = 1,
    backend: str | None = None,
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "float32",
    workers: int | None = None,
) -> Written:
    """Write the `top` likeliest classes of each image to a file, .csv, .tsv or .parquet: columns "file", "class",
    "probability", and with `top` above 1 "class_2", "probability_2" and so on. Of logits that are not finite the
    columns but "file" are empty.

    A batch at a time, in bounded memory, in the order of the images. `images`: files, folders or a data set, as of
    `predict`; the other arguments are its own, too. Raises what it does; SettingError where the file cannot be
    written, before anything is computed if that can be known; ExportError for Parquet without pyarrow.
    """
    check_model(model)
    check_counts(batch_size=batch_size, top=top)
    registry.check_place(device, precision)
    target = Path(path)
    if target.suffix.lower() not in WRITERS:
        raise SettingError(f"{target}: predictions are written as {', '.join(WRITERS)}, by the file's suffix")
    encode = WRITERS[target.suffix.lower()](min(top, len(model.classes)))
    check_outputs(file=target)
    data = as_dataset(images)
    logits = logits_of(
        model,
        data,
        backend=backend,
        batch_size=batch_size,
        device=device,
        precision=precision,
        workers=workers,
    )
    counts: Counter[str] = Counter()
    with track("predicting", logits.total) as advance:

        def rows() -> Iterator[Rows]:
            start = 0
            for batch in logits.batches:
                files = [data.source_name(i) for i in range(start, start + len(batch))]
                made = rows_of(files, batch, model.classes, top)
                counts.update(made.classes[0])
                yield made
                start += len(batch)
                advance(len(batch))

        write_bytes(target, encode(rows()))
    lost = counts.pop("", 0)
    warn_of_lost(model, lost, logits.total, logits.unsound)
    return Written(target, logits.total, lost, dict(counts.most_common()))


def rows_of(files: list[str], logits: np.ndarray, classes: tuple[str, ...], top: int) -> Rows:
    """`logits`: float32 `(b, k)`. The likeliest classes, of equal ones the first; "" and NaN where the logits name
    none."""
    sure, best = decided(logits), likeliest(logits, top)
    probabilities = np.where(sure[:, None], np.take_along_axis(softmax(logits), best, 1), np.nan)
    names = np.where(sure[:, None], np.array(classes, object)[best], "")
    return Rows(files, [names[:, k].tolist() for k in range(best.shape[1])], probabilities.astype(np.float32))


def likeliest(logits: np.ndarray, top: int) -> np.ndarray:
    """int64 `(b, top)`: the classes of the largest logits, the largest first, of equal ones the first class. By
    partition: a row may have 10,000 classes."""
    k = logits.shape[1]
    if top >= k:
        return np.argsort(-logits, axis=1, kind="stable")
    least = np.partition(logits, k - top, axis=1)[:, k - top]
    best = np.empty((len(logits), top), np.int64)
    for row, (values, at_least) in enumerate(zip(logits, least, strict=True)):
        # More than `top` where several equal the least of them.
        candidates = np.flatnonzero(values >= at_least) if at_least == at_least else np.arange(k)
        best[row] = candidates[np.argsort(-values[candidates], kind="stable")[:top]]
    return best
