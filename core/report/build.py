"""From a comparison to its page: what the template shows, decided in Python, where it can be tested.

All texts are cleaned before anything else is done with them, and the template escapes what it is given; JSON,
which no template escapes, is made so that it cannot end the element it is in.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from headstart.report import curves as bokeh
from headstart.report import figures
from headstart.report.cards import LARGEST, Images, errors_card, kernel_cards
from headstart.report.conclusion import conclusion, interval_of
from headstart.report.endings import endings, sentence
from headstart.report.folds import fold_cards
from headstart.report.headlines import Headline, headline_of, headlines_of, is_drawn, ranked
from headstart.report.looks import looks
from headstart.report.repeat import machine_line, repetition
from headstart.report.scores import outputs_text
from headstart.report.series import (
    PHASES,
    BreakEven,
    Entry,
    Point,
    break_even,
    diverged,
    finite,
    guessing_loss,
    headline_value,
    loss_limit,
    lost,
    points,
    spans_decades,
)

FOLDER = Path(__file__).parent
SCORE = "val score"
"""the column of the headline score, called by its name where all runs have the same"""
PICTURES = "<!-- pictures -->"  # where they go once all else is there
COLUMNS = (
    ("run", "text"),
    ("backend", "text"),
    ("mode", "text"),
    ("cut", "text"),
    (SCORE, "number"),
    ("95 %", "number"),
    ("against the best", "number"),
    ("val loss", "number"),
    ("kept", "number"),
    ("s/epoch", "number"),
    ("extraction, s", "number"),
    ("total, s", "number"),
    ("speed-up", "number"),
    ("trained", "number"),
    ("pays off", "number"),
)


@dataclass
class Cell:
    """Of the sortable table."""

    text: str
    value: float | str | None
    """what it is sorted by; None comes last in either direction"""


def build(content: Mapping[str, Any]) -> str:
    """See `headstart.report.page`."""
    known = figures.cleaned(content)
    headlines = headlines_of(known["rows"])
    entries = ranked(known["rows"])  # the order of the table at first, and of everything behind it
    images = Images()
    kernels = kernel_cards(known["rows"], images)  # first, so that they are the last to be left out
    html: str = template("page.html").render(
        title=known.get("title") or f"headstart on {known['data'].get('name')}",
        created=known.get("created"),
        conclusion=conclusion(known),
        failed_names=", ".join(known.get("errors") or ()),
        about=_about(known, entries),
        css=(FOLDER / "page.css").read_text("utf-8"),
        js=(FOLDER / "page.js").read_text("utf-8"),
        bokeh=bokeh.script(),
        data=script_json(_drawn(known)),
        count=len(entries),
        columns=_columns(headlines),
        score=_words(headlines),
        measures=_measures(known["rows"]),
        table=[_cells(entry) for entry in entries],
        repeats=all(entry["label"] == f"{entry.get('backend')} {entry.get('mode')}" for entry in entries),
        keys=_keys(known["rows"]),
        has_curves=any(points(entry) for entry in entries),
        axis="log" if spans_decades(entries) else "linear",
        extracts=any(points(entry) and finite(entry.get("extraction_seconds")) for entry in entries),
        intervals=_has_intervals(entries),
        marked=any(point.kept for entry in entries for point in points(entry)),
        endings={entry["label"]: words for entry in entries if len(entries) > 1 and (words := sentence(entry))},
        diverged=_diverged(entries),
        bars=_bars(known["rows"]),
        pays=[_paying(entry, i) for i, entry in enumerate(_cached(known["rows"]))],
        errors_of=[errors_card(entry, known, images) for entry in entries if entry.get("validation")],
        folds=fold_cards(entries),
        kernels=kernels,
        failed=known.get("errors") or {},
        repeat=repetition(known),
    )
    chosen = images.within(LARGEST - len(html.encode()))
    return html.replace(PICTURES, f'<script type="application/json" id="pictures">{script_json(chosen)}</script>')


def script_json(value: Any) -> str:
    """JSON for the inside of a script element: no character in it can end the element, or begin a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII only
    for one in "<>&":
        text = text.replace(one, f"\\u{ord(one):04x}")
    return text


@cache
def template(name: str) -> Any:
    """A template of this folder, which escapes all that it is given."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    jinja = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["capital"] = figures.capital
    return jinja.get_template(name)


# ---- the head of the page and its table


def _about(known: Mapping[str, Any], entries: Sequence[Entry]) -> str:
    data, model = (known.get(name) or {} for name in ("data", "model"))
    size = (model.get("preprocess") or {}).get("size")
    about = [f"weights {model['weights']}" if model.get("weights") else "random weights"]
    about += [f"{size} px"] if size else []
    about += [f"{figures.millions(model['parameters'])} parameters"] if model.get("parameters") else []
    counts = [
        f"{figures.count(data[part])} {name}"
        for part, name in (("train", "training"), ("val", "validation"))
        if data.get(part)
    ]
    task, classes = data.get("task"), len(data.get("classes") or ())
    between = "in" if task in (None, "single") else "with"
    samples = f"{' and '.join(counts)} samples {between} {outputs_text(task, classes)}"
    machine = machine_line(known)
    runs = f"{len(entries)} run{'' if len(entries) == 1 else 's'}{f' on {machine}' if machine else ''}"
    text = f"{data.get('name')}: {samples if counts else 'no samples'}. "
    text += f"Model {model.get('name')} ({', '.join(about)}). {runs}."
    if len(entries) == 1 and (words := sentence(entries[0])):
        text += f" {figures.capital(words)}."
    return text


def _columns(headlines: Sequence[Headline]) -> list[dict[str, Any]]:
    """Of the table of runs; `sort`: how it is sorted at first."""
    (headline, *others) = headlines
    by_score = "ascending" if headline.smaller_is_better else "descending"
    return [
        {
            "name": f"val {headline.column}" if name == SCORE and not others else name,
            "kind": kind,
            "sort": by_score if name == SCORE and not others else None,
        }
        for name, kind in COLUMNS
    ]


def _words(headlines: Sequence[Headline]) -> dict[str, str]:
    """What the notes of the table call the score, and what its differences are in."""
    (headline, *others) = headlines
    if others:
        return {"words": "headline score", "unit": "in percent, of errors in their units"}
    return {"words": headline.words, "unit": "in percent" if headline.is_share else "in its units, less is better"}


def _measures(entries: Sequence[Entry]) -> list[dict[str, str]]:
    """What the curves are of: the loss, and each headline score that there is a figure of."""
    scores = [headline for headline in headlines_of(entries) if is_drawn(headline, entries)]
    return [
        {"name": "loss", "words": "loss", "axis": "loss"},
        *({"name": headline.name, "words": headline.words, "axis": headline.axis} for headline in scores),
    ]


def _has_intervals(entries: Sequence[Entry]) -> bool:
    """Whether the curves show one, of a score that an epoch has."""
    return any(
        interval_of(entry)
        and not entry.get("folds")
        and any(p.kept and p.val_score is not None for p in points(entry))
        for entry in entries
    )


def _cells(entry: Entry) -> list[Cell]:
    def text(value: Any) -> Cell:
        return Cell(figures.NONE if value is None else str(value), None if value is None else str(value))

    def number(value: Any, show: Any) -> Cell:
        return Cell(show(value), finite(value))

    extracts = entry.get("extracted") or entry.get("reused")
    extraction = number(entry.get("extraction_seconds") if extracts else None, figures.seconds)
    if extracts and not entry.get("extracted"):
        extraction.text += "*"
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
        extraction,
        number(entry.get("total_seconds"), figures.seconds),
        number(entry.get("speedup_over_frozen"), figures.times),
        number((entry.get("parameters") or {}).get("trained"), figures.count),
        number(entry.get("pays_off_after_epochs"), figures.epochs),
    ]


def _kept(entry: Entry) -> Cell:
    """Of a staged run: in its second stage."""
    ends = endings(entry)
    return Cell(f"{ends[-1].kept}/{ends[-1].trained}", ends[-1].kept) if ends else Cell(figures.NONE, None)


def _noise_cells(entry: Entry) -> tuple[Cell, Cell]:
    """The headline score's interval, and what a paired bootstrap on the same samples says of it and the best."""
    ends, unknown = interval_of(entry), Cell(figures.NONE, None)
    if ends is None:
        return unknown, unknown
    headline = headline_of(entry)
    interval = Cell(headline.interval(ends), finite(ends[0]))
    against = entry.get("against_best")
    if not against:
        return interval, unknown
    difference = headline.difference(finite(against.get("difference")) or 0.0)
    words = [difference, *(["weighted"] if against.get("weighted") else [])]
    words += ["within noise"] if against.get("noise") else []
    return interval, Cell(", ".join(words), finite(against.get("difference")))


# ---- figures


def _keys(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """What the legend shows: a line a backend, where there are several."""
    seen = looks(entries)
    keys: dict[str, list[dict[str, Any]]] = {}
    for i, (entry, look) in enumerate(zip(entries, seen, strict=True)):
        group = str(entry.get("backend"))
        keys.setdefault(group, []).append({"row": i, "label": entry["label"], "look": look})
    return [{"name": name, "keys": found} for name, found in keys.items()]


def _drawn(known: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's script draws: figures by name, the runs' points, which the curves share, and how the scores
    among them are written."""
    entries = known["rows"]
    drawn = [points(entry) for entry in entries]
    figures_by_name: dict[str, Any] = {}
    if any(drawn):
        for measure, axis in itertools.product(_measures(entries), bokeh.AXES):
            name = measure["name"]
            figures_by_name[f"{name} {axis}"] = bokeh.curves(name, measure["axis"], axis)
    for i, entry in enumerate(_cached(entries)):
        even = break_even(entry)
        if isinstance(even, BreakEven):
            from headstart.report import plots

            figures_by_name[f"break-even {i}"] = plots.break_even(even)
    losses = [loss for one in drawn for point in one for loss in (point.loss, point.val_loss)]
    data = known.get("data") or {}
    return {
        "figures": figures_by_name,
        "limit": loss_limit(losses, guessing_loss(data.get("task"), len(data.get("classes") or ()))),
        "scores": {
            headline.name: {"words": headline.words, "share": headline.is_share}
            for headline in headlines_of(entries)
        },
        "runs": [
            {
                "label": entry["label"],
                **asdict(look),
                "score": headline_of(entry).name,
                "interval": None if entry.get("folds") else interval_of(entry),
                "extraction": finite(entry.get("extraction_seconds")) or 0.0,
                "points": [_rounded(point) for point in one],
            }
            for entry, look, one in zip(entries, looks(entries), drawn, strict=True)
        ],
    }


def _rounded(point: Point) -> list[Any]:
    """As page.js reads it, to six digits: a screen has not more."""
    return [float(f"{value:.6g}") if isinstance(value, float) else value for value in astuple(point)]


def _diverged(entries: Sequence[Entry]) -> list[str]:
    """The runs in which a loss was not finite, which no curve can show."""
    return [
        entry["label"]
        for entry in entries
        if diverged(entry) or any(map(lost, (*(entry.get("head_history") or ()), *(entry.get("history") or ()))))
    ]


def _bars(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Bars in percent of the longest."""
    totals = [finite(entry["seconds_per_epoch"].get("total")) or 0.0 for entry in entries]
    longest = max(totals, default=0.0) or 1.0
    bars = []
    for entry, total in zip(entries, totals, strict=True):
        phases = {phase: finite(entry["seconds_per_epoch"].get(phase)) or 0.0 for phase in PHASES}
        bars.append(
            {
                "label": entry["label"],
                "total": figures.seconds(total),
                "parts": {phase: f"{100 * value / longest:.3f}" for phase, value in phases.items() if value},
                "phases": {
                    phase: figures.seconds(value) if value else figures.NONE for phase, value in phases.items()
                },
            }
        )
    return bars


def _cached(entries: Sequence[Entry]) -> list[Entry]:
    """None where nothing in the report says what an epoch without the cache takes."""
    found = [entry for entry in entries if entry.get("mode") == "cached"]
    return found if any(entry.get("speedup_over_frozen") is not None for entry in found) else []


def _paying(entry: Entry, number: int) -> dict[str, Any]:
    even = break_even(entry)
    if isinstance(even, str):
        return {"sentence": even, "figure": None}
    filled = "" if entry.get("extracted") else ", finding the cache full already"
    return {
        "label": entry["label"],
        "sentence": f"Extraction {figures.seconds(even.extraction)} s{filled}; an epoch "
        f"{figures.seconds(even.cached)} s on the cache, {figures.seconds(even.frozen)} s without. The lines "
        f"cross at {figures.seconds(even.crossing[0])} epochs: paid after {figures.epochs(even.after)}.",
        "figure": f"break-even {number}",
    }


# ---- errors and kernels


# ---- how to repeat it
