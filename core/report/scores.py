"""Scores in words: what they are called, and how many digits tell something; a run's classes as the page shows
them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from headstart.common.text import amount_text, plain_text, share_text
from headstart.report.series import Entry, finite, finite_ends

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
        return amount_text(value)
    return plain_text(value) if name in PLAIN else share_text(value)


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
    """A table of a run's classes with their scores; None where there are none."""
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
    return {
        "noun": noun(task)[0],
        "title": f"Scores by {noun(task)[0]}{f': {title}' if title else ''}",
        "columns": ["samples", *(CLASS_SCORES[name] for name in names)],
        "lines": lines,
    }


def scores_card(entry: Entry) -> dict[str, Any] | None:
    """A table of a run's scores on the validation data and, where there were any, on test data, each with its
    interval where one is known; None where there are no scores. Of folds all samples are scored together, which
    is not quite the mean over the folds that the run is known by: the head of their column says so."""
    test = entry.get("test")
    validation = "all folds together" if entry.get("folds") else "validation"
    parts = {validation: entry.get("scores"), "test": test.get("scores") if isinstance(test, Mapping) else None}
    known = {part: scores for part, scores in parts.items() if scores and scores.get("values")}
    names = dict.fromkeys(name for scores in known.values() for name in scores["values"])
    if not names:
        return None
    # a column of intervals that would be empty says nothing
    ranged = {part: bool(scores.get("intervals")) for part, scores in known.items()}
    return {
        "columns": [column for part in known for column in (part, *(["95 %"] if ranged[part] else []))],
        "lines": [
            {
                "name": score_name(name),
                "texts": [
                    text
                    for part, scores in known.items()
                    for text in _score_texts(name, scores)[: 2 if ranged[part] else 1]
                ],
            }
            for name in names
        ],
    }


def _score_texts(name: str, scores: Mapping[str, Any]) -> tuple[str, str]:
    """A score and its interval."""
    value, ends = finite(scores["values"].get(name)), finite_ends((scores.get("intervals") or {}).get(name))
    interval = "" if ends is None else " to ".join(score_text(name, end) for end in ends)
    return "–" if value is None else score_text(name, value), interval
