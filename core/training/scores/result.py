"""What scoring gives: named numbers, and for each that is not there the reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headstart.training.scores.resampling import NO_SPREAD

TASKS = ("single", "multi", "regression")
HEADLINES = ("accuracy", "micro_f1", "standardised_mae", "mae")
"""what `headline` gives; of scores that have several of them the first is the one"""


def headline(task: str, outputs: int) -> str:
    """The score of a task that comes first, has an interval, and ranks runs. `outputs`: how many numbers a sample
    has. Of several targets it is free of their units: else the one with the largest numbers would rule it."""
    if task == "regression":
        return "mae" if outputs == 1 else "standardised_mae"
    return {"single": "accuracy", "multi": "micro_f1"}[task]


@dataclass(frozen=True)
class Scores:
    """Scores by name: `scores["macro_f1"]`, `dict(scores)`. Shares are from 0 to 1."""

    task: str
    """"single", "multi" or "regression" """
    samples: int
    values: Mapping[str, float]
    """by name, in the order in which they are shown; without those that cannot be told"""
    undefined: Mapping[str, str] = field(default_factory=dict)
    """name of a score that is not there, or "<name> interval" -> why"""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """name -> ends of the 95 % interval for the headline score on all samples of this kind. As many new samples
    give a score outside of it more often, in 17 of 100 cases: theirs is off by luck as well"""
    per_class: tuple[Mapping[str, Any], ...] = ()
    """for each class, label or target: {"class": name, "samples": number, scores by name}, and "undefined" with
    the reasons of those that are not there"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """what the scores depend on: the threshold of "multi", and of samples in groups how many these are, which are
    drawn whole for intervals"""

    def __getitem__(self, name: str) -> float:
        """KeyError says why a score is not there."""
        if name not in self.values and name in self.undefined:
            raise KeyError(f"{name}: {self.undefined[name]}")
        return self.values[name]

    def __repr__(self) -> str:
        ends = "" if self.interval is None else " (95 %: {:.4g} to {:.4g})".format(*self.interval)
        told = (
            f"{name} {value:.4g}{ends if name == self.headline else ''}" for name, value in self.values.items()
        )
        return f"Scores({self.samples:,} samples: {', '.join(told)})"

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def keys(self) -> tuple[str, ...]:
        return tuple(self.values)

    @property
    def headline(self) -> str:
        """The name of the score that has an interval."""
        there = (name for name in HEADLINES if name in self.values or name in self.undefined)
        return next(there, headline(self.task, 1))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the headline score, 95 %."""
        return self.intervals.get(self.headline)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "task": self.task,
            "samples": self.samples,
            "values": dict(self.values),
            "undefined": dict(self.undefined),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "per_class": [dict(row) for row in self.per_class],
            "settings": dict(self.settings),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Scores:
        """The inverse of `as_dict`."""
        return cls(
            saved["task"],
            saved["samples"],
            dict(saved["values"]),
            dict(saved["undefined"]),
            {name: (float(ends[0]), float(ends[1])) for name, ends in saved["intervals"].items()},
            tuple(dict(row) for row in saved["per_class"]),
            dict(saved.get("settings") or {}),
        )


def finished(
    task: str,
    samples: int,
    values: Mapping[str, float | None],
    reason: Callable[[str], str],
    interval: tuple[float, float] | None,
    per_class: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any] | None = None,
) -> Scores:
    """`values`: None or not finite where a score cannot be told, of which `reason(name)` says why. `interval`: of
    the headline score, None where there is no spread to tell it by. `settings`: as of `Scores`."""
    known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
    undefined = {name: reason(name) for name in values if name not in known}
    name = headline(task, len(per_class))
    if name in known and interval is None:
        undefined[f"{name} interval"] = NO_SPREAD
    intervals = {} if interval is None else {name: interval}
    return Scores(task, samples, known, undefined, intervals, tuple(per_class), settings or {})


def nothing(task: str, samples: int, names: tuple[str, ...], reason: str) -> Scores:
    """Scores of which none can be told."""
    return Scores(task, samples, {}, dict.fromkeys(names, reason))


def mean_of(rows: list[dict[str, Any]], name: str) -> float | None:
    """The mean of a score over the classes that have it."""
    values = [row[name] for row in rows if name in row]
    return sum(values) / len(values) if values else None
