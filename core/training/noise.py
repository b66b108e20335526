"""Whether the samples tell one run of a comparison from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from headstart.common.text import ACCURACY
from headstart.report.scores import SMALLER_IS_BETTER
from headstart.report.series import label_counts
from headstart.training.sample_texts import bits_of, numbers_of, weights_of_text
from headstart.training.scores.resampling import Difference, paired_difference, paired_difference_of_ratios

COLUMNS = {"micro_f1": 2, "mae": 1, "standardised_mae": 1}
"""scores that are told of by `Validation.terms`, and how many a sample has"""


@dataclass(frozen=True)
class Answers:
    """How a run did on each sample, as texts, as its JSON has them."""

    score: str
    samples: int
    right: str
    """of accuracy"""
    terms: str
    """of other scores"""
    weights: str
    groups: str


def mark_noise(entries: Sequence[dict[str, Any]], classes: Sequence[str] = ()) -> None:
    """Say of each entry how its headline score differs from the best of those that were validated on the same
    samples by the same score, with the 95 % interval of a paired bootstrap, and whether that is noise: under
    `against_best`, None for the best itself and where it cannot be known. Where the samples have weights, all of
    it is weighted; where they have groups, these are drawn whole. `classes`: of the comparison's data."""
    groups: dict[Any, list[tuple[dict[str, Any], Answers, float]]] = {}
    asked: dict[Any, Any] = {}
    """of the same samples: which classes they have, by the first run that tells"""
    read = []
    for entry in entries:
        entry["against_best"] = None
        answers = _answers(entry)
        value = None if entry.get("diverged") else score_of(answers)
        if value is not None:
            ids = str(entry["validation"].get("ids"))
            same = (answers.score, ids, answers.samples, answers.weights)
            # the mean over other targets, or F1 of other labels, is another score, as is accuracy in other classes
            named: Any = tuple(sorted(entry.get("classes") or ()))
            if answers.score == ACCURACY:
                named = label_counts(entry, classes)
                asked[same] = asked.get(same) or named
            read.append((entry, answers, value, same, named))
    for entry, answers, value, same, named in read:
        groups.setdefault((*same, named or asked.get(same)), []).append((entry, answers, value))
    for (score, *_), group in groups.items():
        sign = -1 if score in SMALLER_IS_BETTER else 1
        best, of_best, _ = max(group, key=lambda of: sign * of[2])
        for entry, answers, _ in group:
            if entry is not best:
                difference = difference_of(answers, of_best)
                entry["against_best"] = {
                    "best": best["label"],
                    "difference": difference.value,
                    "interval": [difference.low, difference.high],
                    "noise": difference.is_noise,
                    "weighted": bool(answers.weights),
                }


def _answers(entry: Mapping[str, Any]) -> Answers:
    validation = entry.get("validation") or {}
    texts = (validation.get(name) or "" for name in ("right", "terms", "weights", "groups"))
    return Answers(entry.get("score") or ACCURACY, validation.get("samples") or 0, *texts)


def score_of(answers: Answers) -> float | None:
    """The headline score; None where the texts do not tell it."""
    read = _read(answers)
    if read is None:
        return None
    terms, weights = read
    numerator, denominator = terms.sum(0) if weights is None else weights @ terms
    return float(numerator / denominator) if denominator else None


@lru_cache(64)  # a comparison asks again with every run that is added
def difference_of(answers: Answers, best: Answers) -> Difference:
    """Of two of which `score_of` tells the score."""
    read, other = _read(answers), _read(best)
    assert read is not None and other is not None
    (terms, weights), (of_best, _) = read, other
    text, groups = answers.groups or best.groups, None  # of the same samples, of which older files say none
    if text and (numbers := numbers_of(text, answers.samples, 1)) is not None:
        groups = numbers[:, 0]
    if answers.score == ACCURACY:
        return paired_difference(terms[:, 0] > 0, of_best[:, 0] > 0, weights, groups=groups)
    return paired_difference_of_ratios(terms, of_best, weights, groups=groups)


def _read(answers: Answers) -> tuple[np.ndarray, np.ndarray | None] | None:
    """float64 `(samples, 2)`, what each sample adds to the two sums whose ratio is the score, and the weights."""
    n, weights = answers.samples, None
    if answers.weights and (weights := weights_of_text(answers.weights, n)) is None:
        return None
    if answers.score == ACCURACY:
        right = bits_of(answers.right, n)
        return None if right is None else (np.stack([right, np.ones(n)], 1), weights)
    columns = COLUMNS.get(answers.score)
    terms = None if columns is None else numbers_of(answers.terms, n, columns)
    if terms is None:
        return None
    return (terms if columns == 2 else np.concatenate([terms, np.ones((n, 1))], 1)), weights
