"""Scores of any number of labels a sample, from logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart.common.slices import slices
from headstart.training.scores.per_class import (
    add_ranking,
    rows_of_classes,
    weighted_mean,
    weights_of,
    why_none_counts,
)
from headstart.training.scores.resampling import interval, ratio
from headstart.training.scores.result import Scores, finished, mean_of, nothing

THRESHOLD = 0.5
STEPS = 1000
"""thresholds that are tried: 0.001, 0.002 ... 0.999"""
NAMES = (
    *("micro_precision", "micro_recall", "micro_f1", "macro_precision", "macro_recall", "macro_f1"),
    *("mean_average_precision", "macro_auc", "subset_accuracy", "hamming_loss", "log_loss"),
)


def multi_scores(
    logits: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    weights: Any = None,
    threshold: float = THRESHOLD,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Scores:
    """`logits`: float `(n, k)`; `labels`: 0 or 1 `(n, k)`; `weights`: `(n,)` or None. A label is predicted where
    its probability is larger than `threshold`. `seed`, `groups`: of the interval.

    Averages ("macro") are over the labels that have the score. DataError for weights that are negative or not
    finite.
    """
    n, k = logits.shape
    weights = weights_of(weights, n)
    if uncounted := why_none_counts(n, weights):
        return nothing("multi", n, NAMES, uncounted)
    w = np.ones(n) if weights is None else weights
    hits, guesses, truths, losses = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    same = np.empty(n, bool)
    right, predicted, actual = np.zeros(k), np.zeros(k), np.zeros(k)
    samples = np.zeros(k, np.int64)
    lost = 0
    for part in slices(n, 8 * k):
        z, truth = logits[part].astype(np.float64), labels[part] != 0
        lost += int((np.isnan(z) | (z == np.inf)).any(1).sum())
        guess = sigmoid(z) > threshold
        hits[part], guesses[part], truths[part] = (of.sum(1) for of in (guess & truth, guess, truth))
        same[part] = (guess == truth).all(1)
        with np.errstate(invalid="ignore"):
            losses[part] = np.logaddexp(0, np.where(truth, -z, z)).mean(1)
        right += w[part] @ (guess & truth)
        predicted += w[part] @ guess
        actual += w[part] @ truth
        samples += truth.sum(0)
    if lost:
        return nothing("multi", n, NAMES, f"the logits of {lost} of {n} samples are not finite")
    per_class = rows_of_classes(classes, samples, right, actual, predicted)
    _add_rankings(per_class, logits, labels, weights)
    hit, guessed, had = (float(of.sum()) for of in (right, predicted, actual))
    values = {
        "micro_precision": hit / guessed if guessed else None,
        "micro_recall": hit / had if had else None,
        "micro_f1": 2 * hit / (guessed + had) if had else None,
        **{f"macro_{name}": mean_of(per_class, name) for name in ("precision", "recall", "f1")},
        "mean_average_precision": mean_of(per_class, "average_precision"),
        "macro_auc": mean_of(per_class, "auc"),
        "subset_accuracy": weighted_mean(same, weights),
        "hamming_loss": weighted_mean(guesses + truths - 2 * hits, weights) / k,
        "log_loss": weighted_mean(losses, weights),
    }

    def reason(name: str) -> str:
        if name == "log_loss":
            return f"infinite: {np.isinf(losses).sum()} of {n} samples have a label ruled out"
        if not had:
            return "no sample that has a label counts" if samples.any() else "no sample has any label"
        return "no label was predicted" if "precision" in name else "no label has samples with and without it"

    ends = interval(np.stack([2 * w * hits, w * (guesses + truths)], 1), ratio, seed, groups) if had else None
    return finished("multi", n, values, reason, ends, per_class, {"threshold": threshold})


def best_threshold(logits: np.ndarray, labels: np.ndarray, weights: Any = None) -> float:
    """The threshold of 0.001, 0.002 ... 0.999 with the largest micro F1; of several the one nearest to 0.5, and
    0.5 where there is no label to find or the logits are not finite. Arguments as of `multi_scores`."""
    n, k = logits.shape
    w = weights_of(weights, n)
    all_of, true = np.zeros(STEPS), np.zeros(STEPS)
    for part in slices(n, 8 * k):
        p = sigmoid(logits[part].astype(np.float64))
        if np.isnan(p).any():
            return THRESHOLD
        # Bin j holds what the thresholds up to j / STEPS still predict.
        bins = np.clip(np.ceil(p * STEPS).astype(np.int64) - 1, 0, STEPS - 1).ravel()
        weight = np.ones(bins.size) if w is None else np.repeat(w[part], k)
        all_of += np.bincount(bins, weight, STEPS)
        true += np.bincount(bins, weight * (labels[part] != 0).ravel(), STEPS)
    had = true.sum()
    if not had:
        return THRESHOLD
    predicted, hits = (np.cumsum(of[::-1])[::-1][1:] for of in (all_of, true))
    f1 = 2 * hits / (predicted + had)
    thresholds = np.arange(1, STEPS) / STEPS
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(thresholds[best[np.argmin(np.abs(thresholds[best] - THRESHOLD))]])


def sigmoid(z: np.ndarray) -> np.ndarray:
    """float64 probabilities, without overflow."""
    e = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0, 1, e) / (1 + e))


def _add_rankings(
    per_class: list[dict[str, Any]], logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None
) -> None:
    n, k = logits.shape
    for part in slices(k, 8 * n):
        columns, truths = np.ascontiguousarray(logits[:, part].T), (labels[:, part] != 0).T
        for row, column, truth in zip(per_class[part], columns, truths, strict=True):
            add_ranking(row, column, truth, weights)
