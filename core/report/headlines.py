"""The score that a run is known by, in words and figures: accuracy, of several labels a sample micro F1, of
numbers the mean absolute error, of several in deviations of each.

Entries of before there were several have no `score` and no `val_score`: theirs is accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart.common.text import points_text
from headstart.report import figures
from headstart.report.scores import SMALLER_IS_BETTER
from headstart.report.series import Entry, diverged, finite, headline_name, headline_value


@dataclass(frozen=True)
class Headline:
    name: str
    """as in figures: "accuracy", "micro_f1", "mae", "standardised_mae" """
    column: str
    """for the head of a column"""
    words: str
    """in a sentence"""
    best: str
    """says of the run that follows that it has the best"""

    @property
    def is_share(self) -> bool:
        return not self.smaller_is_better

    @property
    def smaller_is_better(self) -> bool:
        return self.name in SMALLER_IS_BETTER

    @property
    def axis(self) -> str:
        """Of a figure."""
        return f"{self.words}, %" if self.is_share else self.words

    def text(self, value: Any) -> str:
        return figures.percent(value) if self.is_share else figures.of_any_size(value)

    def interval(self, ends: Sequence[Any]) -> str:
        low, high = (self.text(end).removesuffix(f"{figures.SPACE}%") for end in ends)
        return f"{low} to {high}"

    def difference(self, value: float) -> str:
        """With its sign; of shares in points of a percentage."""
        of_units = f"{value:+,.0f}" if 999.5 <= abs(value) < 1e6 else f"{value:+.3g}"
        text = points_text(value, "+") if self.is_share else of_units
        return text.replace("-", "\N{MINUS SIGN}")

    def rank(self, entry: Entry) -> tuple[bool, float]:
        """For sorting, what is best first; what is missing or not finite last."""
        value = headline_value(entry)
        return value is None, (1 if self.smaller_is_better else -1) * (value or 0.0)


ACCURACY = Headline("accuracy", "accuracy", "accuracy", "The most accurate")
HEADLINES: Mapping[str, Headline] = {
    "accuracy": ACCURACY,
    "micro_f1": Headline("micro_f1", "micro F1", "micro F1", "The highest micro F1"),
    "mae": Headline("mae", "MAE", "mean absolute error", "The least mean absolute error"),
    "standardised_mae": Headline(
        "standardised_mae",
        "MAE in sd",
        "mean absolute error in deviations",
        "The least mean absolute error, in deviations of the targets,",
    ),
}


def headline_of(entry: Entry) -> Headline:
    return HEADLINES.get(headline_name(entry), ACCURACY)


def headlines_of(entries: Sequence[Entry]) -> list[Headline]:
    """Those of these entries, each once, in their order; accuracy where there are no entries."""
    return list(dict.fromkeys(map(headline_of, entries))) or [ACCURACY]


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """What is best first, of what is equally good the quicker; runs that are known by one score together, those
    that diverged last."""
    headlines = headlines_of(entries)

    def rank(entry: Entry) -> tuple[Any, ...]:
        headline, seconds = headline_of(entry), finite(entry.get("total_seconds"))
        place = (diverged(entry), headlines.index(headline), *headline.rank(entry))
        return *place, float("inf") if seconds is None else seconds

    return sorted(entries, key=rank)


def is_drawn(headline: Headline, entries: Sequence[Entry]) -> bool:
    """Whether there is a figure to draw of it: of what is no accuracy only validation data tell."""
    records = (
        record
        for entry in entries
        if headline_of(entry) is headline
        for record in (*(entry.get("head_history") or ()), *(entry.get("history") or ()))
    )
    return headline is ACCURACY or any(finite(record.get("val_score")) is not None for record in records)
