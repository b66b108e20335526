"""Whether the samples tell one run of a comparison from another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headstart.data.annotations import SINGLE
from headstart.training.scores.resampling import paired_difference
from headstart.training.validation import bits_of, weights_in_text


def mark_noise(entries: Sequence[dict[str, Any]]) -> None:
    """Say of each entry how its accuracy differs from the best of those that were validated on the same samples,
    with the 95 % interval of a paired bootstrap, and whether that is noise: under `against_best`, None for the
    best itself, where it cannot be known, and of tasks that are ranked by another score. Where the samples have
    weights, all of it is weighted."""
    groups: dict[tuple[str, int, str], list[tuple[dict[str, Any], np.ndarray]]] = {}
    for entry in entries:
        entry["against_best"] = None
        validation = entry.get("validation") or {}
        right = bits_of(validation.get("right") or "", validation.get("samples") or 0)
        by_accuracy = (entry.get("scores") or {}).get("task", SINGLE) == SINGLE
        if right is not None and by_accuracy and not entry["diverged"]:
            key = (str(validation.get("ids")), len(right), validation.get("weights") or "")
            groups.setdefault(key, []).append((entry, right))
    for (_, count, text), group in groups.items():
        weights = weights_in_text(text, count) if text else None
        if len(group) > 1 and (weights is not None or not text):
            _mark(group, weights)


def _mark(group: Sequence[tuple[dict[str, Any], np.ndarray]], weights: np.ndarray | None) -> None:
    best, best_right = max(group, key=lambda of: float(of[1].sum() if weights is None else weights @ of[1]))
    for entry, right in group:
        if entry is not best:
            difference = paired_difference(right, best_right, weights)
            entry["against_best"] = {
                "best": best["label"],
                "difference": difference.value,
                "interval": [difference.low, difference.high],
                "noise": difference.is_noise,
                "weighted": weights is not None,
            }
