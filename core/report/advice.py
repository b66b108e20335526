"""The report of advice: what each mode is expected to come to against what it takes, what the features tell, and a
map of the features whose points show the samples' pictures.

The figures are SVG in the page's own colours, so the page is small, follows dark and light, and prints. As of
`headstart.report`: nothing is fetched, and what comes from data is text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from headstart.common.table import places_with_values
from headstart.common.text import headline_text, nbytes_text, share_text, time_text
from headstart.report import figures
from headstart.report.build import script_json
from headstart.report.looks import COLOURS
from headstart.report.series import finite
from headstart.report.templates import FOLDER, template

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 404, 76, 14, 16, 50
"""of a figure, in its own units, and of its margins"""
SIDE = 640
"""of the map"""
SHAPES = {
    "linear": "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
    "cut": "M0-6 5.5 4.5H-5.5Z",
    "staged": "M-4.5-4.5h9v9h-9Z",
    "full": "M0-6.5 5.5 0 0 6.5-5.5 0Z",
    "scratch": "M-5-3-3-5 0-2 3-5 5-3 2 0 5 3 3 5 0 2-3 5-5 3-2 0Z",
}
"""what is trained -> its marker, around 0"""
WORDS = {"linear": "classifier", "cut": "from a cut", "staged": "staged", "full": "full", "scratch": "scratch"}
NAMES = {
    "accuracy": "accuracy",
    "micro_f1": "micro F1",
    "mae": "mean absolute error, less is better",
    "standardised_mae": "standardised mean absolute error, less is better",
}
CUT_COLUMNS = (
    "trunk",
    "cut",
    "ridge",
    "95 %",
    "seen",
    "kNN",
    "learnt from: score",
    "silhouette",
    "LogME",
    "spread",
)
TICKS = (1e-3, 0.01, 0.1, 1, 10, 60, 600, 3600, 36000, 360000)
STEPS = (1, 2, 5, 10)


def advice_page(content: Mapping[str, Any]) -> str:
    """The whole page, as HTML. `content`: what `Advice.as_dict` gives, and "map", of
    `headstart.training.advice.maps`, or None."""
    known = figures.cleaned(content)
    score = known["score"]
    trunks = [trunk["trunk"] for trunk in known["trunks"]]
    colours = {trunk: COLOURS[i % len(COLOURS)] for i, trunk in enumerate(trunks)}
    shown = known.get("map")
    html: str = template("advice.html").render(
        title=f"Advice for {known['data'].get('name')}",
        known=known,
        css=(FOLDER / "page.css").read_text("utf-8") + (FOLDER / "advice.css").read_text("utf-8"),
        js=(FOLDER / "advice.js").read_text("utf-8"),
        sentence=figures.capital(known["sentence"]),
        plot=_plot(known["rows"], known["best"], score, colours),
        shapes=SHAPES,
        words=WORDS,
        colours=colours,
        rows=[_row(row, row == known["best"], score) for row in known["rows"]],
        cuts=_cuts(known["trunks"], score),
        familiar=[_familiar(trunk) for trunk in known["trunks"] if trunk.get("familiarity")],
        drawn=None if shown is None else _map(shown),
        pictures=script_json({} if shown is None else _pictures(shown)),
        side=SIDE,
        width=WIDTH,
        height=HEIGHT,
    )
    return html


def _row(row: Mapping[str, Any], advised: bool, score: str) -> dict[str, Any]:
    return {
        "advised": advised,
        "cells": [
            row["trunk"],
            _train(row),
            headline_text(score, row["score"]),
            " to ".join(headline_text(score, end) for end in row["interval"]),
            time_text(row["seconds"]),
            nbytes_text(row["bytes"]) if row["bytes"] else figures.NONE,
            ", ".join(
                ["advised"] * advised
                + ["nothing is quicker and better"] * bool(row["pareto"])
                + ["over budget"] * (not row["within_budget"])
            ),
        ],
    }


def _train(row: Mapping[str, Any]) -> str:
    return WORDS[row["what"]] + (f" ({row['cut']})" if row.get("cut") else "")


def _cuts(trunks: Sequence[Mapping[str, Any]], score: str) -> dict[str, Any]:
    """A row a cut, without the columns that have no value in any."""
    rows = [_cut(trunk, cut, score) for trunk in trunks for cut in trunk["cuts"]]
    kept = places_with_values(len(CUT_COLUMNS), rows, (figures.NONE,))
    return {
        "columns": [CUT_COLUMNS[place] for place in kept],
        "rows": [[row[place] for place in kept] for row in rows],
    }


def _cut(trunk: Mapping[str, Any], cut: Mapping[str, Any], score: str) -> list[str]:
    interval = cut.get("interval")
    return [
        trunk["trunk"],
        cut["cut"],
        headline_text(score, cut["score"]),
        figures.NONE if interval is None else " to ".join(headline_text(score, end) for end in interval),
        headline_text(score, cut["seen"]),
        headline_text(score, cut["knn"]),
        ", ".join(f"{samples:,}: {headline_text(score, value)}" for samples, value in cut["curve"]),
        figures.NONE if cut.get("silhouette") is None else f"{cut['silhouette']:.2f}",
        f"{cut['logme']:.2f}",
        share_text(cut["spread"]),
    ]


def _familiar(trunk: Mapping[str, Any]) -> str:
    known = trunk["familiarity"]
    return (
        f"{trunk['trunk']} gives the likeliest of its own {known['classes']:,} classes {known['confidence']:.0%} "
        f"in the mean; the entropy of what it says is {known['entropy']:.0%} of that of knowing nothing."
    )


# ---- what is expected against what it takes


def _plot(
    rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any], score: str, colours: Mapping[str, str]
) -> dict[str, Any]:
    """Places of markers, lines and ticks, in the figure's own units. Seconds are on a logarithmic scale."""
    usable = [row for row in rows if finite(row["seconds"]) and finite(row["score"]) is not None]
    logs: list[float] = [math.log10(max(row["seconds"], 1e-4)) for row in usable] or [0.0]
    ends: list[float] = [value for row in usable for value in (row["score"], *_held(row, usable))] or [0.0, 1.0]
    low, high = min(logs) - 0.15, max(logs) + 0.15
    least, most = min(ends), max(ends)
    room = 0.06 * (most - least) or 0.05
    least, most = least - room, most + room

    def x(seconds: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(max(seconds, 1e-4)) - low) / (high - low), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - least) / float(most - least), 1)

    step = _step(most - least)
    first = math.ceil(least / step)
    front = sorted((row for row in usable if row["pareto"]), key=lambda row: row["seconds"])
    share = score in ("accuracy", "micro_f1")
    return {
        "marks": [
            {
                "x": x(row["seconds"]),
                "y": y(row["score"]),
                "low": y(max(min(row["interval"]), least)),
                "high": y(min(max(row["interval"]), most)),
                "shape": SHAPES[row["what"]],
                "colour": colours[row["trunk"]],
                "best": row == best,
                "over": not row["within_budget"],
                "text": f"{row['trunk']}, {_train(row)}: {headline_text(score, row['score'])} in "
                f"{time_text(row['seconds'])}",
            }
            for row in usable
        ],
        "front": " ".join(f"{x(row['seconds'])},{y(row['score'])}" for row in front),
        "xticks": [
            {"x": x(tick), "text": time_text(tick).replace(".0 ", " ")}
            for tick in TICKS
            if low <= math.log10(tick) <= high
        ],
        "yticks": [
            {"y": y(k * step), "text": _tick(100 * k * step, 100 * step, " %") if share else _tick(k * step, step)}
            for k in range(first, math.floor(most / step) + 1)
        ],
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "words": NAMES[score],
    }


def _held(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The ends of a row's interval, those of them that do not squeeze all scores into a corner."""
    scores = [other["score"] for other in rows]
    reach = max(max(scores) - min(scores), 0.02)
    return [end for end in row["interval"] if min(scores) - 0.3 * reach <= end <= max(scores) + 0.3 * reach]


def _step(span: float) -> float:
    """Of about five ticks."""
    power = math.pow(10, math.floor(math.log10(span / 5)))
    return next(step * power for step in STEPS if step * power >= span / 5)


def _tick(value: float, step: float, unit: str = "") -> str:
    """With as many digits as tell it from the next one."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{digits}f}{unit}"


# ---- the map


def _map(shown: Mapping[str, Any]) -> dict[str, Any]:
    single = shown["task"] == "single"
    # the commonest classes have colours of their own
    order: dict[Any, int] = {}
    for point in shown["points"]:
        order[point["class"]] = order.get(point["class"], 0) + 1
    common = sorted(order, key=lambda k: (-order[k], str(k)))[: len(COLOURS) - 1]
    colour = {k: COLOURS[i] for i, k in enumerate(common)} if single else {}
    grey = COLOURS[-1] if single else COLOURS[0]
    names = shown["classes"]
    legend = [{"name": names[k], "colour": colour[k]} for k in sorted(colour)]
    if single and len(order) > len(common):
        legend.append({"name": f"{len(order) - len(common)} other classes", "colour": grey})
    share = shown.get("share")
    return {
        "method": "the first two principal components"
        + ("" if share is None else f", which hold {share:.0%} of what varies")
        if shown["method"] == "PCA"
        else "UMAP, which keeps neighbours and no distances",
        "legend": legend,
        "has_pictures": any(point["picture"] for point in shown["points"]),
        "points": [
            {
                "number": number,
                "x": round(20 + (SIDE - 40) * point["x"], 1),
                "y": round(20 + (SIDE - 40) * (1 - point["y"]), 1),
                "colour": colour.get(point["class"], grey),
                "label": point["label"],
            }
            for number, point in enumerate(shown["points"])
        ],
    }


def _pictures(shown: Mapping[str, Any]) -> dict[str, str]:
    return {str(number): point["picture"] for number, point in enumerate(shown["points"]) if point["picture"]}
