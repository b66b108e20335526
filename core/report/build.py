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

from headstart.report import figures
from headstart.report.cards import LARGEST, Images, errors_card, kernel_cards
from headstart.report.looks import looks
from headstart.report.repeat import machine_line, repetition
from headstart.report.series import (
    PHASES,
    BreakEven,
    Point,
    Row,
    break_even,
    diverged,
    finite,
    loss_limit,
    lost,
    points,
)

FOLDER = Path(__file__).parent
PICTURES = "<!-- pictures -->"  # where they go once all else is there
COLUMNS = (
    ("run", "text"),
    ("backend", "text"),
    ("mode", "text"),
    ("cut", "text"),
    ("val accuracy", "number"),
    ("val loss", "number"),
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
    # The order of the table at first, and of everything behind it: what is best comes first.
    rows = sorted(known["rows"], key=lambda row: (diverged(row), *_last_if_none(row.get("val_accuracy"))))
    images = Images()
    kernels = kernel_cards(known["rows"], images)  # first, so that they are the last to be left out
    html: str = _template().render(
        title=known.get("title") or f"headstart on {known['data'].get('name')}",
        created=known.get("created"),
        summary=_summary(known, rows),
        css=(FOLDER / "page.css").read_text("utf-8"),
        js=(FOLDER / "page.js").read_text("utf-8"),
        bokeh=_bokeh(),
        data=script_json(_drawn(known)),
        count=len(rows),
        columns=COLUMNS,
        table=[_cells(row) for row in rows],
        repeats=all(row["label"] == f"{row.get('backend')} {row.get('mode')}" for row in rows),
        keys=_keys(known["rows"]),
        has_curves=any(points(row) for row in rows),
        diverged=_diverged(rows),
        bars=_bars(known["rows"]),
        pays=[_paying(row, i) for i, row in enumerate(_cached(known["rows"]))],
        errors_of=[errors_card(row, known, images) for row in rows if row.get("validation")],
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
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    jinja = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return jinja.get_template("page.html")


@cache
def _bokeh() -> str:
    """Bokeh's script without its parts for widgets, tables, formulas and WebGL."""
    from bokeh.resources import Resources

    return "\n".join(Resources(mode="inline", components=["bokeh"], minified=True).js_raw)


def _last_if_none(value: Any) -> tuple[bool, float]:
    """For sorting from the largest down, with what is missing or not finite last."""
    x = finite(value)
    return x is None, -(x or 0.0)


# ---- the head of the page and its table


def _summary(known: Mapping[str, Any], rows: Sequence[Row]) -> str:
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
    samples = f"{' and '.join(counts)} samples in {len(data.get('classes') or ())} classes"
    machine = machine_line(known)
    runs = f"{len(rows)} run{'' if len(rows) == 1 else 's'}{f' on {machine}' if machine else ''}"
    text = f"{data.get('name')}: {samples if counts else 'no samples'}. "
    text += f"Model {model.get('name')} ({', '.join(about)}). {runs}."
    if rows and diverged(rows[0]):
        text += " Every run diverged: none is the most accurate." if len(rows) > 1 else " It diverged."
    elif rows and finite(rows[0].get("val_accuracy")) is not None:
        accuracy = f"{figures.percent(rows[0]['val_accuracy'])} of the validation data right"
        text += f" The most accurate: {rows[0]['label']}, {accuracy}." if len(rows) > 1 else f" {accuracy}."
    faster = [
        f"{figures.times(row['speedup_over_frozen'])} ({row['label']})"
        for row in _cached(known["rows"])
        if finite(row.get("speedup_over_frozen")) is not None
    ]
    return text + (f" Speed-up of an epoch by the cache: {', '.join(faster)}." if faster else "")


def _cells(row: Row) -> list[Cell]:
    def text(value: Any) -> Cell:
        return Cell(figures.NONE if value is None else str(value), None if value is None else str(value))

    def number(value: Any, show: Any) -> Cell:
        return Cell(show(value), finite(value))

    extracts = row.get("extracted") or row.get("reused")
    extraction = number(row.get("extraction_seconds") if extracts else None, figures.seconds)
    if extracts and not row.get("extracted"):
        extraction.text += "*"
    return [
        text(row["label"]),
        text(row.get("backend")),
        text(row.get("mode")),
        text(row.get("cut")),
        Cell("diverged", None) if diverged(row) else number(row.get("val_accuracy"), figures.percent),
        number(row.get("val_loss"), figures.loss),
        number(row["seconds_per_epoch"].get("total"), figures.seconds),
        extraction,
        number(row.get("total_seconds"), figures.seconds),
        number(row.get("speedup_over_frozen"), figures.times),
        number((row.get("parameters") or {}).get("trained"), figures.count),
        number(row.get("pays_off_after_epochs"), figures.epochs),
    ]


# ---- figures


def _keys(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What the legend shows: a line a backend, where there are several."""
    seen = looks(rows)
    keys: dict[str, list[dict[str, Any]]] = {}
    for i, (row, look) in enumerate(zip(rows, seen, strict=True)):
        group = str(row.get("backend"))
        keys.setdefault(group, []).append({"row": i, "label": row["label"], "look": look})
    return [{"name": name, "keys": found} for name, found in keys.items()]


def _drawn(known: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's script draws: figures by name, and the rows' points, which four of them share."""
    from headstart.report import plots

    rows = known["rows"]
    drawn = [points(row) for row in rows]
    figures_by_name: dict[str, Any] = {}
    if any(drawn):
        for measure, axis in itertools.product(("loss", "accuracy"), ("epoch", "seconds")):
            figures_by_name[f"{measure} {axis}"] = plots.curves(measure, axis)
    for i, row in enumerate(_cached(rows)):
        even = break_even(row)
        if isinstance(even, BreakEven):
            figures_by_name[f"break-even {i}"] = plots.break_even(even)
    losses = [loss for one in drawn for point in one for loss in (point.loss, point.val_loss)]
    return {
        "figures": figures_by_name,
        "limit": loss_limit(losses, len((known.get("data") or {}).get("classes") or ())),
        "runs": [
            {"label": row["label"], **asdict(look), "points": [_rounded(point) for point in one]}
            for row, look, one in zip(rows, looks(rows), drawn, strict=True)
        ],
    }


def _rounded(point: Point) -> list[Any]:
    """As page.js reads it, to six digits: a screen has not more."""
    return [float(f"{value:.6g}") if isinstance(value, float) else value for value in astuple(point)]


def _diverged(rows: Sequence[Row]) -> list[str]:
    """The runs in which a loss was not finite, which no curve can show."""
    return [
        row["label"]
        for row in rows
        if diverged(row) or any(map(lost, (*(row.get("head_history") or ()), *(row.get("history") or ()))))
    ]


def _bars(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Bars in percent of the longest."""
    totals = [finite(row["seconds_per_epoch"].get("total")) or 0.0 for row in rows]
    longest = max(totals, default=0.0) or 1.0
    bars = []
    for row, total in zip(rows, totals, strict=True):
        phases = {phase: finite(row["seconds_per_epoch"].get(phase)) or 0.0 for phase in PHASES}
        bars.append(
            {
                "label": row["label"],
                "total": figures.seconds(total),
                "parts": {phase: f"{100 * value / longest:.3f}" for phase, value in phases.items() if value},
                "phases": {
                    phase: figures.seconds(value) if value else figures.NONE for phase, value in phases.items()
                },
            }
        )
    return bars


def _cached(rows: Sequence[Row]) -> list[Row]:
    """None where nothing in the report says what an epoch without the cache takes."""
    found = [row for row in rows if row.get("mode") == "cached"]
    return found if any(row.get("speedup_over_frozen") is not None for row in found) else []


def _paying(row: Row, number: int) -> dict[str, Any]:
    even = break_even(row)
    if isinstance(even, str):
        return {"sentence": even, "figure": None}
    filled = "" if row.get("extracted") else ", finding the cache full already"
    return {
        "label": row["label"],
        "sentence": f"Extraction {figures.seconds(even.extraction)} s{filled}; an epoch "
        f"{figures.seconds(even.cached)} s on the cache, {figures.seconds(even.frozen)} s without. The lines "
        f"cross at {figures.seconds(even.crossing[0])} epochs: paid after {figures.epochs(even.after)}.",
        "figure": f"break-even {number}",
    }


# ---- errors and kernels


# ---- how to repeat it
