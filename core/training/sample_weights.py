"""How much each sample counts in the loss: what the data say of it, times what was asked for its class.

Invariant: only how samples count beside each other matters, since a batch's loss is divided by its weights' sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import DataError, SettingError, UnknownNameError
from headstart.common.numbers import FLOAT32_LARGEST
from headstart.data import Dataset
from headstart.data.annotations import MULTI, SINGLE
from headstart.data.further_columns import weights_in_range
from headstart.data.names import normal
from headstart.features.feature_set import FeatureSet

BALANCED = "balanced"
ClassWeights = None | str | Mapping[str, float]


def checked_weights(option: str, weights: Any, zero: bool = True) -> ClassWeights:
    """`weights` of classes or labels as None, "balanced" or a dict of floats; SettingError for anything else.
    `zero`: whether one may be 0."""
    if weights is None or (isinstance(weights, str) and weights == BALANCED):
        return weights
    numbers = "numbers of 0 or more" if zero else "numbers above 0"
    if not isinstance(weights, Mapping) or not weights:
        raise SettingError(
            f"{option}={weights!r}; expected {BALANCED!r}, or a dict from names to {numbers}, such as "
            '{"rare": 5.0}'
        )
    for name, weight in weights.items():
        number = isinstance(weight, int | float | np.number) and not isinstance(weight, bool)
        if not number or not 0 <= weight <= FLOAT32_LARGEST or (not zero and not weight):
            expected = numbers.replace("numbers", "a number")
            raise SettingError(
                f"{option}[{name!r}]={weight!r}; expected {expected}, {FLOAT32_LARGEST:.1e} at most"
            )
    return {normal(str(name)): float(weight) for name, weight in weights.items()}


def sample_weights(data: Dataset | FeatureSet, class_weights: ClassWeights) -> NDArray[np.float32] | None:
    """float32 `(n,)`; None where all samples count alike. `class_weights`: of data of
    one class a sample.

    "balanced" counts the classes alike, each sample n / (classes x samples of its class), of the classes that have
    samples, by the data's weights where these have such: scikit-learn's `compute_class_weight`. A class that a
    dict leaves out counts 1.
    Raises UnknownNameError for a class that the data have not, DataError where no sample counts.
    """
    if class_weights is None:
        check_counting(data)
        return data.weights
    if isinstance(class_weights, Mapping):
        of_class = np.ones(len(data.classes), np.float32)
        for name, weight in class_weights.items():
            if name not in data.classes:
                raise UnknownNameError("class", name, data.classes)
            of_class[data.classes.index(name)] = weight
    else:
        # a sample of weight 2 is there twice, here as well: else the classes would not count alike
        counts = np.bincount(data.labels, data.weights, len(data.classes)).astype(np.float64)
        there = max(1, np.count_nonzero(counts))
        of_class = (counts.sum() / there / np.where(counts > 0, counts, 1)).astype(np.float32)
    weights = of_class[data.labels].astype(np.float64)
    in_range, _ = weights_in_range(weights if data.weights is None else weights * data.weights)
    _check_counting(data, in_range)
    return in_range


def check_counting(data: Dataset | FeatureSet) -> None:
    """DataError where no sample counts."""
    _check_counting(data, data.weights)


def check_learnable(
    data: Dataset | FeatureSet, weights: np.ndarray | None, what: str = "training samples"
) -> None:
    """DataError where the samples that count by these weights `(n,)`, of which one does at least, are all of one
    class, or have all the same labels: one of weight 0 is not there, and its class is then not learnt. Numbers
    that do not vary are found where they are scaled. `what`: the samples, in words."""
    there = np.arange(len(data)) if weights is None else np.flatnonzero(weights)
    labels = data.labels[there]
    all_of_them = f"all {len(there)} {what}{'' if len(there) == len(data) else ' that count'}"
    if data.task == SINGLE and (labels == labels[0]).all():
        raise DataError(f"{all_of_them} are of one class; at least two are needed")
    if data.task == MULTI and (labels == labels[0]).all():
        raise DataError(
            f"{all_of_them} have the same labels ({data.annotations.label_text(int(there[0]))}); there is nothing "
            "to learn"
        )


def _check_counting(data: Dataset | FeatureSet, weights: NDArray[np.float32] | None) -> None:
    if weights is not None and not weights.any():
        raise DataError(f"no sample of {data.name!r} counts: all of their weights are 0")
