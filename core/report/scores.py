"""Scores in words: what they are called, and how many digits tell something; a run's classes as the page shows
them."""

from __future__ import annotations

import math
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
    "standardised_mae": "standardised mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R2",
}
PLAIN = ("log_loss", "mae", "standardised_mae", "rmse", "r2")
"""scores that are no shares"""
OF_ANY_SIZE = ("mae", "standardised_mae", "rmse")
"""scores that are as large as the units make them"""
NOUNS = {"single": ("class", "classes"), "multi": ("label", "labels"), "regression": ("target", "targets")}

SMALLER_IS_BETTER = ("calibration_error", "log_loss", "hamming_loss", "mae", "standardised_mae", "rmse")

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
    if name in SCORE_NAMES:
        return SCORE_NAMES[name]
    first, _, rest = name.partition("_")
    return f"{rest}, {first}".replace("_", " ") if first in ("macro", "micro") else name.replace("_", " ")


def score_text(name: str, value: float) -> str:
    if name in OF_ANY_SIZE:
        return f"{value:.4g}"
    return f"{value:.4f}" if name in PLAIN else f"{value:.1%}"


def noun(task: str | None) -> tuple[str, str]:
    """What the outputs of a model for `task` are called, one and several; None, in figures of before: single."""
    return NOUNS.get(task or "single", NOUNS["single"])


def outputs_text(task: str | None, count: int) -> str:
    """ "5 classes", "1 label"."""
    return f"{count:,} {noun(task)[count != 1]}"


def worst_classes(
    rows: Sequence[Mapping[str, Any]], task: str | None = None
) -> tuple[list[Mapping[str, Any]], str]:
    """The rows to show, and of many classes a title that says which they are: those with the lowest F1, or R2."""
    if len(rows) <= SHOWN_CLASSES:
        return list(rows), ""
    name = "r2" if task == "regression" else "f1"
    lowest = sorted(rows, key=lambda row: math.inf if finite(row.get(name)) is None else row[name])
    return lowest[:SHOWN_CLASSES], (
        f"the {SHOWN_CLASSES} of {outputs_text(task, len(rows))} with the lowest {CLASS_SCORES[name]}"
    )


def classes_card(entry: Entry) -> dict[str, Any] | None:
    """A table of a run's classes with their scores, and a line of those of the run; None where there are none."""
    scores = entry.get("scores") or {}
    if not (rows := scores.get("per_class")):
        return None
    task = scores.get("task")
    shown, title = worst_classes(rows, task)
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
        "noun": noun(task)[0],
        "title": f"Scores by {noun(task)[0]}{f': {title}' if title else ''}",
        "columns": ["samples", *(CLASS_SCORES[name] for name in names)],
        "lines": lines,
        "scores": "; ".join(
            f"{score_name(n)} {score_text(n, x)}" for n, v in values if (x := finite(v)) is not None
        ),
    }
