"""Scores in words: what they are called, and how many digits tell something; a run's classes as the page shows
them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.report.series import Entry, finite

SCORE_NAMES = {
    "top5_accuracy": "among the first 5",
    "macro_auc": "AUC, macro",
    "macro_f1": "F1, macro",
    "micro_f1": "F1, micro",
    "calibration_error": "calibration error",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R2",
}
PLAIN = ("log_loss", "mae", "rmse", "r2")
"""scores that are no shares"""

CLASS_SCORES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auc": "AUC",
    "average_precision": "avg precision",
    "mae": "mean abs error",
    "rmse": "RMSE",
    "r2": "R2",
}
"""of a class, and the head of their column"""
SHOWN_CLASSES = 30


def score_name(name: str) -> str:
    """A score's name in words."""
    return SCORE_NAMES.get(name) or (
        f"{name.removeprefix('macro_').replace('_', ' ')}, macro"
        if name.startswith("macro_")
        else name.replace("_", " ")
    )


def score_text(name: str, value: float) -> str:
    return f"{value:.4f}" if name in PLAIN else f"{value:.1%}"


def worst_classes(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], str]:
    """The rows to show, and of many classes a title that says which they are: those with the lowest F1."""
    if len(rows) <= SHOWN_CLASSES:
        return list(rows), ""
    by_f1 = sorted(rows, key=lambda row: 2.0 if finite(row.get("f1")) is None else row["f1"])
    return by_f1[:SHOWN_CLASSES], f"the {SHOWN_CLASSES} of {len(rows):,} classes with the lowest F1"


def classes_card(entry: Entry) -> dict[str, Any] | None:
    """A table of a run's classes with their scores, and a line of those of the run; None where there are none."""
    scores = entry.get("scores") or {}
    if not (rows := scores.get("per_class")):
        return None
    shown, title = worst_classes(rows)
    names = [name for name in CLASS_SCORES if any(name in row for row in rows)]
    lines = [
        {
            "name": row["class"],
            "texts": [
                f"{row['samples']:,}",
                *("–" if (x := finite(row.get(n))) is None else score_text(n, x) for n in names),
            ],
        }
        for row in shown
    ]
    values = (scores.get("values") or {}).items()
    return {
        "title": f"Scores by class{f': {title}' if title else ''}",
        "columns": ["samples", *(CLASS_SCORES[name] for name in names)],
        "lines": lines,
        "scores": "; ".join(
            f"{score_name(n)} {score_text(n, x)}" for n, v in values if (x := finite(v)) is not None
        ),
    }
