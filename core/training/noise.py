"""Whether the samples tell one run of a comparison from another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headstart.training.scores.resampling import paired_difference
from headstart.training.validation import bits_of


def mark_noise(entries: Sequence[dict[str, Any]]) -> None:
    """Say of each entry how its accuracy differs from the best of those that were validated on the same samples,
    with the 95 % interval of a paired bootstrap, and whether that is noise: under `against_best`, None for the
    best itself and where it cannot be known."""
    groups: dict[tuple[str, int], list[tuple[dict[str, Any], np.ndarray]]] = {}
    for entry in entries:
        entry["against_best"] = None
        validation = entry.get("validation") or {}
        right = bits_of(validation.get("right") or "", validation.get("samples") or 0)
        if right is not None and not entry["diverged"]:
            groups.setdefault((str(validation.get("ids")), len(right)), []).append((entry, right))
    for group in groups.values():
        best, best_right = max(group, key=lambda of: int(of[1].sum()))
        for entry, right in group:
            if entry is not best:
                difference = paired_difference(right, best_right)
                entry["against_best"] = {
                    "best": best["label"],
                    "difference": difference.value,
                    "interval": [difference.low, difference.high],
                    "noise": difference.is_noise,
                }
