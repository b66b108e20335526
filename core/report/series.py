"""The numbers behind the curves, so that what is drawn can be held to known answers without a browser.

Seconds are those of the wall clock since the run began to compute: extraction first, then epoch by epoch. What is
drawn is a pure function of a comparison's entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FAR_APART = 20
"""how many times later than the first of all epochs the last ends, beyond which an axis of time is logarithmic"""
Entry = Mapping[str, Any]
"""what a comparison has of one run"""

PHASES = {
    "data": "waiting for samples",
    "trunk": "the frozen part",
    "head": "what is trained, with its validation",
}
"""what an epoch's seconds are spent on"""
FOUND_FULL = "to find it full already, and to check a few of another backend's rows when it first reads them"
FOUND_PART = "to fill what it lacked, as a part of it was there already"
"""what the seconds of an extraction with a star are, in tables"""


@dataclass(frozen=True)
class Point:
    """The end of an epoch."""

    epoch: int
    """from 1, through both stages of a staged run"""
    seconds: float
    """since the start, extraction included"""
    stage: str
    """"head" in the first stage of a staged run, else "all" """
    loss: float | None
    score: float | None
    """of the training data, the run's headline score; None where that is no accuracy, as it is not measured"""
    val_loss: float | None
    val_score: float | None
    kept: bool = False
    """whether its head was kept"""


@dataclass(frozen=True)
class BreakEven:
    """When the cache has paid: two straight lines over the number of epochs, and where they cross."""

    extraction: float
    """seconds, once"""
    cached: float
    """seconds an epoch"""
    frozen: float
    """seconds an epoch"""
    after: int
    """the number of whole epochs from which the cache has saved time"""

    @property
    def crossing(self) -> tuple[float, float]:
        """Epochs, not whole, and seconds at which both have taken equally long."""
        epochs = self.extraction / (self.frozen - self.cached)
        return epochs, self.frozen * epochs

    @property
    def last(self) -> int:
        """The number of epochs up to which the lines are worth drawing."""
        return max(5, math.ceil(2 * self.crossing[0]))

    def seconds(self, epochs: float) -> tuple[float, float]:
        """Of so many epochs: cached with the extraction, and frozen."""
        return self.extraction + self.cached * epochs, self.frozen * epochs


def found_there(entry: Entry) -> str:
    """What the seconds of a run's extraction are where the cache had features already; "" where it had none."""
    if not entry.get("reused"):
        return ""
    return FOUND_PART if entry.get("extracted") else FOUND_FULL


def meaning_of_star(entries: Iterable[Entry]) -> str:
    """What a star beside such seconds means, in a table of these runs; "" where none has one."""
    return "; or ".join(dict.fromkeys(filter(None, map(found_there, entries))))


def finite(value: Any) -> float | None:
    """`value` as a number, None where it is none or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def label_counts(entry: Entry, classes: Sequence[Any]) -> tuple[tuple[str, int], ...] | None:
    """The classes of the samples that a run was validated on, by name, and how many each has: by these, runs on
    the same pictures are told apart that were asked different things of them. None where that is not known: of
    other tasks, or where outputs that are not finite are left out of the counts. `classes`: of the comparison's
    data, where the entry has none of its own."""
    validation, names = entry.get("validation") or {}, entry.get("classes") or classes
    cells = validation.get("confusion")
    if not cells or validation.get("not_finite") or list(names) == [str(k) for k in range(len(names))]:
        return None
    counts: dict[str, int] = {}
    for label, _, count in cells:
        if not isinstance(label, int) or not 0 <= label < len(names):
            return None
        counts[str(names[label])] = counts.get(str(names[label]), 0) + count
    return tuple(sorted(counts.items()))


def finite_ends(ends: Any) -> tuple[float, float] | None:
    """The ends of an interval, None where it is not known or one of them is not finite."""
    low, high = map(finite, ends or (None, None))
    return None if low is None or high is None else (low, high)


def lost(record: Mapping[str, Any]) -> bool:
    """Whether a loss of this epoch was not finite. In JSON it is null then, and only one of validation may be
    missing."""
    validated = any(record.get(name) is not None for name in ("val_loss", "val_accuracy", "val_score"))
    names = [name for name, there in (("loss", "loss" in record), ("val_loss", validated)) if there]
    return any(finite(record.get(name)) is None for name in names)


def diverged(entry: Entry) -> bool:
    """Whether a run's last loss or its weights were not finite: its accuracy says nothing then. Entries of earlier
    versions have no mark that says so."""
    mark, history = entry.get("diverged"), entry.get("history") or ()
    return mark if isinstance(mark, bool) else any(map(lost, history[-1:]))


def points(entry: Entry) -> list[Point]:
    """A run's epochs in the order in which they were trained; those of a staged run's first stage come first."""
    clock = finite(entry.get("extraction_seconds")) or 0.0
    every: list[Point] = []
    for stage, name, best in (("head", "head_history", "head_best_epoch"), ("all", "history", "best_epoch")):
        for number, record in enumerate(entry.get(name) or (), 1):
            clock += finite(record["seconds"].get("total")) or 0.0
            score = record.get("accuracy") if headline_name(entry) == "accuracy" else None
            loss, score, val_loss = map(finite, (record.get("loss"), score, record.get("val_loss")))
            figures = (loss, score, val_loss, headline_value(record))
            every.append(Point(len(every) + 1, clock, stage, *figures, kept=number == entry.get(best)))
    return every


def spans_decades(entries: Iterable[Entry]) -> bool:
    """Whether epochs end so far apart, extraction aside, that on a linear axis the quickest run is a stroke."""
    ends = [
        point.seconds - (finite(entry.get("extraction_seconds")) or 0.0)
        for entry in entries
        for point in points(entry)
    ]
    positive = [seconds for seconds in ends if seconds > 0]
    return bool(positive) and max(positive) > FAR_APART * min(positive)


def waits_for_features(entries: Iterable[Entry]) -> bool:
    """Whether every run's extraction takes longer than its epochs: counted, it leaves them an end of the axis."""
    drawn = [(finite(entry.get("extraction_seconds")) or 0.0, points(entry)) for entry in entries]
    curves = [(extraction, run[-1].seconds) for extraction, run in drawn if run]
    return bool(curves) and all(2 * extraction > end for extraction, end in curves)


def is_weighted(entry: Entry) -> bool:
    """Whether samples count by weights of theirs in what a run's validation says."""
    return bool((entry.get("validation") or {}).get("weights"))


def headline_name(entry: Entry) -> str:
    """Which score the run is known by; entries of before there were several have no name of one."""
    return str(entry.get("score") or "accuracy")


def headline_value(figures: Mapping[str, Any]) -> float | None:
    """Of an entry, or of a record of an epoch, the headline score on the validation data."""
    value = figures.get("val_score")
    return finite(figures.get("val_accuracy") if value is None and headline_name(figures) == "accuracy" else value)


def guessing_loss(task: str | None, classes: int) -> float:
    """What guessing costs: log(classes), of each label log(2), of standardised numbers their variance."""
    return {"multi": math.log(2), "regression": 1.0}.get(str(task), math.log(max(classes, 2)))


def break_even(entry: Entry) -> BreakEven | str:
    """Of a run on the cache; a sentence where there is nothing to draw. The frozen epoch is the one that the run's
    speed-up was taken over, so that the figure and the table cannot disagree."""
    label = entry["label"]
    cached = finite(entry["seconds_per_epoch"].get("total"))
    speedup, after = finite(entry.get("speedup_over_frozen")), entry.get("pays_off_after_epochs")
    extraction = finite(entry.get("extraction_seconds"))
    if cached is None or speedup is None or extraction is None:
        return f"{label}: there is no frozen run to compare with."
    frozen = cached * speedup
    if after is None or frozen <= cached:
        return f"{label}: the cache never pays, since an epoch on it takes as long as a frozen one or longer."
    return BreakEven(extraction, cached, frozen, int(after))


def loss_limit(losses: Iterable[float | None], guessing: float) -> float | None:
    """Where the axis of losses has to end so that a run that diverged leaves the others readable; None: it may end
    where they do. What is far worse than `guessing` tells no more than that it is."""
    largest = max((loss for loss in losses if loss is not None), default=0.0)
    return 4 * guessing if largest > 8 * guessing else None


def confused(confusion: Iterable[tuple[int, int, int]], most: int) -> list[tuple[int, int, int]]:
    """(true, predicted, count) of the pairs of classes that are taken for each other most often, most first."""
    wrong = [(true, predicted, count) for true, predicted, count in confusion if true != predicted and count]
    return sorted(wrong, key=lambda cell: (-cell[2], cell[0], cell[1]))[:most]
