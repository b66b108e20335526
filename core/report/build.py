"""From a comparison to its page: what the template shows, decided in Python, where it can be tested.

All texts are cleaned before anything else is done with them, and the template escapes what it is given; JSON,
which no template escapes, is made so that it cannot end the element it is in.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, replace
from typing import Any

from headstart.report import curves as bokeh
from headstart.report import figures
from headstart.report.cards import LARGEST, Images, errors_card, kernel_cards
from headstart.report.conclusion import conclusion, interval_of
from headstart.report.endings import sentence
from headstart.report.folds import fold_cards
from headstart.report.headlines import headline_of, headlines_of, is_drawn, ranked
from headstart.report.looks import looks
from headstart.report.repeat import machine_line, repetition
from headstart.report.runs import runs_table
from headstart.report.scores import outputs_text
from headstart.report.series import (
    FOUND_FULL,
    FOUND_PART,
    PHASES,
    BreakEven,
    Entry,
    Point,
    break_even,
    diverged,
    finite,
    found_there,
    guessing_loss,
    loss_limit,
    lost,
    points,
    spans_decades,
    waits_for_features,
)
from headstart.report.templates import FOLDER, template

PICTURES = "<!-- pictures -->"  # where they go once all else is there


def build(content: Mapping[str, Any]) -> str:
    """See `headstart.report.page`."""
    known = figures.cleaned(content)
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
        runs=runs_table(entries),
        measures=_measures(known["rows"]),
        repeats=all(entry["label"] == f"{entry.get('backend')} {entry.get('mode')}" for entry in entries),
        keys=_keys(known["rows"]),
        has_curves=any(points(entry) for entry in entries),
        axis="log" if spans_decades(entries) else "linear",
        extracts=any(points(entry) and finite(entry.get("extraction_seconds")) for entry in entries),
        counts=not waits_for_features(entries),
        intervals=_has_intervals(entries),
        marked=any(point.kept for entry in entries for point in points(entry)),
        endings={entry["label"]: words for entry in entries if len(entries) > 1 and (words := sentence(entry))},
        diverged=_diverged(entries),
        bars=_bars(known["rows"]),
        phases=_phases(known["rows"]),
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
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


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
    losses = [loss for curve in drawn for point in curve for loss in (point.loss, point.val_loss)]
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
                "points": [_rounded(point, finite(entry.get("extraction_seconds")) or 0.0) for point in curve],
            }
            for entry, look, curve in zip(entries, looks(entries), drawn, strict=True)
        ],
    }


def _rounded(point: Point, extraction: float) -> list[Any]:
    """As page.js reads it, to six digits: a screen has not more. Seconds are without those of the extraction, to
    which the page adds them or not: beside hours, six digits would not tell the epochs of a head apart."""
    values = astuple(replace(point, seconds=point.seconds - extraction))
    return [_to_six_digits(value) if isinstance(value, float) else value for value in values]


def _to_six_digits(value: float) -> float:
    """But for what is nearly 1, which is told apart from it."""
    rounded = float(f"{value:.6g}")
    return value if rounded == 1 else rounded


def _diverged(entries: Sequence[Entry]) -> list[str]:
    """The runs in which a loss was not finite, which no curve can show."""
    return [
        entry["label"]
        for entry in entries
        if diverged(entry) or any(map(lost, (*(entry.get("head_history") or ()), *(entry.get("history") or ()))))
    ]


def _phases(entries: Sequence[Entry]) -> dict[str, str]:
    """What the bars have parts of, those that some run spent time on, and what each means."""
    return {
        phase: meaning
        for phase, meaning in PHASES.items()
        if any(finite(entry["seconds_per_epoch"].get(phase)) for entry in entries)
    }


def _bars(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Bars in percent of the longest."""
    totals = [finite(entry["seconds_per_epoch"].get("total")) or 0.0 for entry in entries]
    longest = max(totals, default=0.0) or 1.0
    phases, bars = _phases(entries), []
    for entry, total in zip(entries, totals, strict=True):
        seconds = {phase: finite(entry["seconds_per_epoch"].get(phase)) or 0.0 for phase in phases}
        bars.append(
            {
                "label": entry["label"],
                "total": figures.seconds(total),
                "parts": {phase: f"{100 * value / longest:.3f}" for phase, value in seconds.items() if value},
                "phases": {
                    phase: figures.seconds(value) if value else figures.NONE for phase, value in seconds.items()
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
    filled = {
        FOUND_FULL: ", finding the cache full already",
        FOUND_PART: ", finding a part of it there already",
    }
    there = filled.get(found_there(entry), "")
    return {
        "label": entry["label"],
        "sentence": f"Extraction {figures.seconds(even.extraction)} s{there}; an epoch "
        f"{figures.seconds(even.cached)} s on the cache, {figures.seconds(even.frozen)} s without. The lines "
        f"cross at {figures.seconds(even.crossing[0])} epochs: paid after {figures.epochs(even.after)}.",
        "figure": f"break-even {number}",
    }


# ---- errors and kernels


# ---- how to repeat it
