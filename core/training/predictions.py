"""What images show: named, for people, and written to files a batch at a time, however many there are.

Invariant: there is a line an image, in the order of the images, and a file is whole or not there; nothing is held
of an image's outputs once its line is made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.common.errors import ImageError, SettingError
from headstart.common.outputs import check_outputs, write_bytes
from headstart.common.progress import track
from headstart.common.table import Table
from headstart.common.text import share_text
from headstart.data import Dataset
from headstart.data.annotations import MULTI, SINGLE
from headstart.data.left_out import check_on_error
from headstart.data.place import expanded
from headstart.data.workers import check_counts
from headstart.features.batch_sizes import check_batch_size
from headstart.features.feature_set import FeatureSet
from headstart.training.checks import features_at
from headstart.training.prediction import (
    LogitBatches,
    Predictor,
    check_predictor,
    logits_of,
    logits_of_features,
    prepared,
    warn_of_lost,
    with_trunk,
)
from headstart.training.prediction_columns import ERROR, FILE, TEXT, Cells, Reading, Tally
from headstart.training.prediction_files import WRITERS

EXAMPLES = 3  # of what could not be read, that are told


@dataclass(frozen=True)
class Predictions:
    """What each image shows."""

    images: tuple[str, ...]
    """their files"""
    reading: Reading
    cells: tuple[Cells, ...]
    """for each of the reading's columns what it holds, a cell an image"""
    errors: tuple[str | None, ...] = ()
    """why an image could not be read; None of those that were"""

    def __repr__(self) -> str:
        unread = f", {self.unread:,} of them not read" if self.unread else ""
        return f"Predictions({len(self.images):,} images{unread}, {len(self.reading.classes)} classes)"

    def best(self, i: int) -> list[tuple[str, float]]:
        """Of image i the likeliest classes, or the labels over the threshold, with their probabilities; or the
        targets with their values. None where the outputs are not finite."""
        row = [cells[i] for cells in self.cells]
        if self.reading.task == SINGLE:
            pairs = zip(row[::2], row[1::2], strict=True)
            return [(name, float(p)) for name, p in pairs if name is not None]
        values = dict(zip(self.reading.classes, map(float, row[-len(self.reading.classes) :]), strict=True))
        if self.reading.task == MULTI:
            return [(name, values[name]) for name in row[0] or ()]
        return [(name, value) for name, value in values.items() if value == value]

    def error(self, i: int) -> str | None:
        """Why image i could not be read."""
        return self.errors[i] if self.errors else None

    @property
    def unread(self) -> int:
        """How many images could not be read."""
        return sum(error is not None for error in self.errors)

    def as_list(self) -> list[dict[str, Any]]:
        """JSON-able: a dict for each image."""
        key = {SINGLE: "classes", MULTI: "labels"}.get(self.reading.task, "values")
        rows: list[dict[str, Any]] = []
        for i, image in enumerate(self.images):
            row: dict[str, Any] = {"image": image, key: [list(pair) for pair in self.best(i)]}
            if self.reading.task == MULTI:
                p = [float(cells[i]) for cells in self.cells[1:]]
                row["probabilities"] = dict(zip(self.reading.classes, p, strict=True))
            rows.append(row if self.error(i) is None else {**row, "error": self.error(i)})
        return rows

    def as_table(self) -> Table:
        """For a terminal: a row for each class, label or target that is named, an image's name in its first."""
        reading = self.reading
        is_share = reading.task in (SINGLE, MULTI)
        rows: list[tuple[str, ...]] = []
        for i, image in enumerate(self.images):
            best = [(name, share_text(value) if is_share else f"{value:.6g}") for name, value in self.best(i)]
            if not best:
                said = self.error(i)
                none = reading.task == MULTI and self.cells[0][i] is not None
                best = [("-", said or (f"none over {reading.threshold:g}" if none else "not finite"))]
            rows += [(image if rank == 0 else "", *texts) for rank, texts in enumerate(best)]
        return Table(("image", reading.noun, "probability" if is_share else "value"), rows, right=(2,))


def classify(
    model: Predictor,
    images: Any,
    *,
    top: int = 1,
    backend: str | None = None,
    device: str = "auto",
    precision: str = "float32",
    on_error: str = "raise",
    batch_size: int | str = 64,
) -> Predictions:
    """What each image shows, for people; the arguments and errors are those of `write_predictions`."""
    check_predictor(model, backend, device, precision)
    check_batch_size(batch_size)
    reading = _reading(model, top)
    made = _made(model, images, reading, on_error, backend, batch_size, device, precision, None, None)
    names: list[str] = []
    columns: list[list[Any]] = [[] for _ in reading.columns]
    for files, cells, _ in made.batches():
        names += files
        for column, more in zip(columns, cells, strict=True):
            column.extend(more)
    made.warn()
    errors = [made.errors.get(i) for i in range(len(names))] if made.errors else []
    return Predictions(tuple(names), reading, tuple(columns), tuple(errors))


@dataclass(frozen=True)
class Written:
    """What `write_predictions` has written."""

    path: Path
    images: int
    not_finite: int
    """images of which nothing is said, since the model's outputs are not finite"""
    counts: dict[str, int]
    """class or label -> images that show it, most first"""
    ranges: dict[str, tuple[float, float]]
    """of regression: target -> the smallest and the largest value"""
    noun: str = "class"
    """what is told of an image: a "class", a "label" or a "target" """
    unread: int = 0
    """images that could not be read, with `on_error="skip"`: the column "error" says why"""
    examples: tuple[str, ...] = ()
    """the first of them, and why"""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**vars(self), "path": str(self.path)}


def write_predictions(
    model: Predictor,
    images: Any,
    path: str | Path,
    *,
    top: int = 1,
    on_error: str = "raise",
    backend: str | None = None,
    batch_size: int | str = 64,
    device: str = "auto",
    precision: str = "float32",
    workers: int | None = None,
    cut: str | None = None,
) -> Written:
    """Write the `top` likeliest classes of each image to a file, .csv, .tsv or .parquet: columns "file", "class",
    "probability", and with `top` above 1 "class_2", "probability_2" and so on. Of a model of several labels:
    "labels", those over its threshold, with ";" between them (as a JSON list where a label has ";" or "|" in it),
    and "probability_<label>" of each; of one that predicts numbers: a column for each target, in its units. Where
    its outputs are not finite the columns but "file" are empty.

    A batch at a time, in bounded memory, in the order of the images. `images`: what `predict` takes; of features
    "file" holds the ids. `on_error="skip"`: an image that cannot be read has a line as well, with an empty class
    and the reason in a last column, "error". `cut`: of features, where they are from; None: before
    the classifier. The other arguments are those of `predict`. Raises what it does;
    SettingError where the file cannot be written, before anything is computed if that can be known; ExportError
    for Parquet without pyarrow.
    """
    check_predictor(model, backend, device, precision)
    check_counts(top=top)
    check_batch_size(batch_size)
    check_on_error(on_error)
    target = Path(path)
    if target.suffix.lower() not in WRITERS:
        raise SettingError(f"{target}: predictions are written as {', '.join(WRITERS)}, by the file's suffix")
    reading = _reading(model, top)
    columns = {FILE: TEXT, **reading.columns, **({ERROR: TEXT} if on_error == "skip" else {})}
    encode = WRITERS[target.suffix.lower()](columns)
    check_outputs(file=target)
    with contextlib.suppress(OSError):  # of a file that is not there yet, or a pattern
        if isinstance(images, str | Path) and expanded(target).samefile(expanded(images)):
            raise SettingError(f"{target}: this file is read, and would be replaced; name another")
    made = _made(model, images, reading, on_error, backend, batch_size, device, precision, workers, cut)

    def rows() -> Iterator[Sequence[Cells]]:
        for files, cells, errors in made.batches():
            yield [files, *cells, *([errors] if on_error == "skip" else [])]

    write_bytes(target, encode(rows()))
    made.warn()
    return Written(
        target,
        made.total,
        made.tally.lost - len(made.errors),
        made.tally.counts,
        made.tally.ranges,
        reading.noun,
        len(made.errors),
        tuple(made.examples),
    )


def _reading(model: Predictor, top: int) -> Reading:
    return Reading(tuple(model.classes), model.task, top, model.threshold)


class _Made:
    """A model's outputs on images, read batch by batch, and what is to be said of all of them."""

    def __init__(self, model: Predictor, reading: Reading, logits: LogitBatches, names: Any) -> None:
        """`names`: from a position to what the image is called."""
        self.total = logits.total
        self.tally = Tally(reading)
        self.errors: dict[int, str] = {}
        """position -> why it could not be read"""
        self.examples: list[str] = []
        self._model, self._reading, self._logits, self._names = model, reading, logits, names

    def batches(self) -> Iterator[tuple[list[str], list[Cells], list[str | None]]]:
        """Names of a batch's images, their cells, and why they could not be read."""
        start = 0
        with track("predicting", self.total) as advance:
            for outputs in self._logits.batches:
                names = [self._names(i) for i in range(start, start + len(outputs))]
                errors = [self._error(i) for i in range(start, start + len(outputs))]
                self.tally.add(outputs)
                yield names, self._reading.cells(outputs), errors
                start += len(outputs)
                advance(len(outputs))

    def _error(self, i: int) -> str | None:
        error: ImageError | None = self._logits.unread.pop(i, None)
        if error is None:
            return None
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{error.source}: {error.reason}")
        self.errors[i] = error.reason
        return error.reason

    def warn(self) -> None:
        """A DivergedWarning where the model's outputs or parameters are not finite."""
        warn_of_lost(self._model, self.tally.lost - len(self.errors), self.total, self._logits.unsound)


def _made(
    model: Predictor,
    images: Any,
    reading: Reading,
    on_error: str,
    backend: str | None,
    batch_size: int | str,
    device: str,
    precision: str,
    workers: int | None,
    cut: str | None,
) -> _Made:
    place: dict[str, Any] = {
        "backend": backend,
        "batch_size": batch_size,
        "device": device,
        "precision": precision,
    }
    if isinstance(images, FeatureSet):
        model = with_trunk(model)
        features = features_at(model, images, cut or model.default_cut)
        logits = logits_of_features(model, features, features.cuts[0], **place)
        return _Made(model, reading, logits, features.ids.__getitem__)
    ready = prepared(model, images, on_error)
    logits = logits_of(model, ready, workers=workers, on_error=on_error, **place)
    names = ready.source_name if isinstance(ready, Dataset) else "sample {}".format
    return _Made(model, reading, logits, names)
