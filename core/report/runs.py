"""The table of runs, a row each, that the page sorts.

Invariant: it has no column without a value in any row, and explains those that it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headstart.common.table import places_with_values
from headstart.report import figures
from headstart.report.conclusion import groups_of, interval_of
from headstart.report.endings import endings
from headstart.report.headlines import Headline, headline_of, headlines_of
from headstart.report.series import (
    Entry,
    diverged,
    finite,
    found_there,
    headline_value,
    is_weighted,
    meaning_of_star,
)

TEXT, NUMBER = "text", "number"


@dataclass(frozen=True)
class Column:
    name: str
    kind: str = NUMBER
    meaning: str = ""
    """`{words}`: what the score is called; `{unit}`: what its differences are in; `{how}`: what its intervals are
    by"""
    star: str = ""
    """what a star in a cell means; `{found}`: see `meaning_of_star`"""
    style: str = ""
    """"repeated": the name of a run may say it; "screen": it is not printed"""


SCORE = Column("val score")
"""the headline score, called by its name where all runs have the same"""
COLUMNS = (
    Column("run", TEXT),
    Column("backend", TEXT, style="repeated"),
    Column("mode", TEXT, style="repeated"),
    Column("cut", TEXT),
    SCORE,
    Column(
        "95 %",
        meaning="the interval for the {words} on all samples of this kind, by {how}",
    ),
    Column(
        "against the best",
        meaning="the difference in {words}, {unit}; within noise where resampling both on the same samples does "
        "not tell them apart",
        style="screen",  # the summary says what is noise
    ),
    Column("val loss"),
    Column(
        "kept",
        meaning="the epoch whose weights the run has, of those that were trained",
        style="screen",  # the curves have a ring
    ),
    Column(
        "s/epoch",
        meaning="seconds of an epoch with its validation, the median without the first, in which compilers run",
    ),
    Column("extraction, s", meaning="to fill the cache, once", star="{found}"),
    Column("total, s", meaning="of the whole run"),
    Column("speed-up", meaning="of an epoch, over a frozen one of the same backend"),
    Column("trained", meaning="parameters"),
    Column("pays off", meaning="the number of epochs from which the cache has saved time"),
)


@dataclass(frozen=True)
class Cell:
    text: str
    value: float | str | None
    """what it is sorted by; None comes last in either direction"""


UNKNOWN = Cell(figures.NONE, None)


def runs_table(entries: Sequence[Entry]) -> dict[str, Any]:
    """The columns that say something, a row of cells for each entry, and a note on what the columns are; as the
    template shows them. Without entries: all columns."""
    rows = [_cells(entry) for entry in entries]
    kept = places_with_values(len(COLUMNS), [[cell.text for cell in row] for row in rows], (figures.NONE,))
    headlines = headlines_of(entries)
    words = {**_words(headlines), "how": _how(entries), "found": meaning_of_star(entries)}
    folds = number_of_folds(entries)
    columns = [COLUMNS[place] for place in kept]
    cells = [[row[place] for place in kept] for row in rows]
    notes = [
        f"{column.name.partition(',')[0]}: {(column.meaning + _of_star(column, texts)).format(**words)}."
        for column, *texts in zip(columns, *cells, strict=True)
        if column.meaning
    ]
    notes += ["Scores of validation count samples by their weights."] if any(map(is_weighted, entries)) else []
    return {
        "columns": [_shown(column, headlines, folds) for column in columns],
        "rows": cells,
        "note": " ".join(notes),
    }


def _of_star(column: Column, cells: Sequence[Cell]) -> str:
    return f"; * {column.star}" if column.star and any(cell.text.endswith("*") for cell in cells) else ""


def _shown(column: Column, headlines: Sequence[Headline], folds: int | None) -> dict[str, Any]:
    """`folds`: of how many each score is the mean. `sort`: how the table is sorted at first; `style`: the classes
    of its cells."""
    shown = {"name": column.name, "kind": column.kind, "style": f"{column.kind} {column.style}".rstrip()}
    (headline, *others) = headlines
    if column is not SCORE or others:
        return {**shown, "sort": None}
    by_score = "ascending" if headline.smaller_is_better else "descending"
    name = f"val {headline.column}" if folds is None else f"{headline.column}, mean of {folds} folds"
    return {**shown, "name": name, "sort": by_score}


def _words(headlines: Sequence[Headline]) -> dict[str, str]:
    """What the note calls the score, and what its differences are in."""
    (headline, *others) = headlines
    if others:
        return {"words": "headline score", "unit": "in points of a percentage, of errors in their units"}
    unit = "in points of a percentage" if headline.is_share else "in its units, less is better"
    return {"words": headline.words, "unit": unit}


def _how(entries: Sequence[Entry]) -> str:
    """What the intervals of the scores are by: those of folds are of the folds' mean."""
    over_folds = [bool(entry.get("folds")) for entry in entries]
    if all(over_folds) and entries:
        return "Student's t over the folds, whose mean the score is"
    also = "; of folds, whose mean the score is, by Student's t over them" if any(over_folds) else ""
    whole = ", groups whole" if any(map(groups_of, entries)) else ""
    return f"resampling the validation data{whole}{also}"


def number_of_folds(entries: Sequence[Entry]) -> int | None:
    """How many folds each entry has, where all have as many; else None."""
    counts = {len((entry.get("folds") or {}).get("values") or ()) for entry in entries}
    return counts.pop() or None if len(counts) == 1 else None


def _cells(entry: Entry) -> list[Cell]:
    def text(value: Any) -> Cell:
        return Cell(figures.NONE if value is None else str(value), None if value is None else str(value))

    def number(value: Any, show: Any) -> Cell:
        return Cell(show(value), finite(value))

    extracts = entry.get("extracted") or entry.get("reused")
    extraction = number(entry.get("extraction_seconds") if extracts else None, figures.seconds)
    star = "*" if found_there(entry) else ""
    return [
        text(entry["label"]),
        text(entry.get("backend")),
        text(entry.get("mode")),
        text(entry.get("cut")),
        Cell("diverged", None) if diverged(entry) else number(headline_value(entry), headline_of(entry).text),
        *_noise_cells(entry),
        number(entry.get("val_loss"), figures.loss),
        _kept(entry),
        number(entry["seconds_per_epoch"].get("total"), figures.seconds),
        Cell(f"{extraction.text}{star}", extraction.value),
        number(entry.get("total_seconds"), figures.seconds),
        number(entry.get("speedup_over_frozen"), figures.times),
        number((entry.get("parameters") or {}).get("trained"), figures.count),
        number(entry.get("pays_off_after_epochs"), figures.count),
    ]


def _kept(entry: Entry) -> Cell:
    """Of a staged run: in its second stage."""
    ends = endings(entry)
    return Cell(f"{ends[-1].kept}/{ends[-1].trained}", ends[-1].kept) if ends else UNKNOWN


def _noise_cells(entry: Entry) -> tuple[Cell, Cell]:
    """The headline score's interval, and what a paired bootstrap on the same samples says of it and the best."""
    ends = interval_of(entry)
    if ends is None:
        return UNKNOWN, UNKNOWN
    headline = headline_of(entry)
    interval = Cell(headline.interval(ends), ends[0])
    against = entry.get("against_best")
    if not against:
        return interval, UNKNOWN
    difference = headline.difference(finite(against.get("difference")) or 0.0)
    words = [difference, *(["weighted"] if against.get("weighted") else [])]
    words += ["within noise"] if against.get("noise") else []
    return interval, Cell(", ".join(words), finite(against.get("difference")))
