"""Equal pictures where they make figures mean little: in training and in validation data, or under two labels.

They are told by sample ids, digests of the encoded bytes: copies to the bit, not pictures that look alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from headstart.data import Dataset
from headstart.errors import DataWarning
from headstart.features.feature_set import FeatureSet

SHOWN = 3


def warn_of_copies(train: Dataset | FeatureSet, val: Dataset | FeatureSet | None) -> None:
    """A DataWarning, with number and examples, for samples of `val` that are in `train`, and one for samples that
    have more than one label. Both number their classes alike."""
    sets = [train] if val is None else [train, val]
    first: dict[str, tuple[Dataset | FeatureSet, int]] = {}
    at_odds: dict[str, str] = {}
    leaked: list[str] = []
    for data in sets:
        labels = data.labels.tolist()
        for i, id in enumerate(data.ids):
            if id not in first:
                first[id] = (data, i)
                continue
            other, k = first[id]
            if data is val and other is train:
                leaked.append(f"{_name(data, i)} is {_name(other, k)}")
            if other.labels[k] != labels[i] and id not in at_odds:
                at_odds[id] = (
                    f"{_name(other, k)} as {other.classes[other.labels[k]]!r}, {_name(data, i)} as "
                    f"{data.classes[labels[i]]!r}"
                )
    if leaked and val is not None:
        _warn(
            f"{len(leaked)} of {len(val)} validation samples are exact copies of training samples, so figures on "
            f"them are too good: {_few(leaked)}. Leave them out; data.split keeps copies on one side"
        )
    if at_odds:
        _warn(
            f"{len(at_odds)} pictures have more than one label, which no model can learn: "
            f"{_few(list(at_odds.values()))}. Keep one of each"
        )


def _warn(text: str) -> None:
    warnings.warn(text, DataWarning, stacklevel=4)


def _name(data: Dataset | FeatureSet, index: int) -> str:
    return data.source_name(index) if isinstance(data, Dataset) else f"sample {index} ({data.ids[index][:8]})"


def _few(examples: Sequence[str]) -> str:
    more = f"; and {len(examples) - SHOWN} more" if len(examples) > SHOWN else ""
    return "; ".join(examples[:SHOWN]) + more
