"""What a run got right and wrong on the validation data: counted, and the worst of it by name.

Small enough to be saved with the run and sent between processes, however many samples there were: cells of the
confusion matrix that are zero are left out.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from blake3 import blake3

from headstart.common.errors import HeadstartError
from headstart.data import Dataset
from headstart.features.feature_set import FeatureSet
from headstart.training.metrics import cross_entropy, decided, softmax

WORST = 12


@dataclass(frozen=True)
class Mistake:
    """A sample that was taken for another class."""

    id: str
    index: int
    """in the validation data"""
    label: int
    predicted: int
    probability: float
    """that the model gives the class it predicted"""
    loss: float
    """cross-entropy"""


FIELDS = tuple(Mistake.__dataclass_fields__)


@dataclass(frozen=True)
class Validation:
    """The last epoch's predictions on the validation data."""

    samples: int
    confusion: tuple[tuple[int, int, int], ...] = field(repr=False)
    """(class, predicted class, number of samples), where that is not zero"""
    worst: tuple[Mistake, ...] = field(repr=False)
    """up to 12 mistakes, those of the largest loss first"""
    not_finite: int = 0
    """samples whose logits are not finite: they were taken for no class, and are in no cell and no mistake"""
    right: str = field(default="", repr=False)
    """which samples are right, a bit a sample in their order, as `bits_text` writes them; "" in runs of before"""
    ids: str = field(default="", repr=False)
    """digest of the samples' ids in their order: runs with the same one were validated on the same samples"""
    weights: str = field(default="", repr=False)
    """how much each sample counts, float32, as `weights_text` writes them; "" where the data have no weights"""

    def right_of_each(self) -> np.ndarray | None:
        """bool `(samples,)`; None where it is not known."""
        return bits_of(self.right, self.samples)

    def matrix(self, classes: int) -> np.ndarray:
        """int64 `(classes, classes)`: rows are the true class, columns the predicted one."""
        counts = np.zeros((classes, classes), np.int64)
        for label, predicted, count in self.confusion:
            counts[label, predicted] = count
        return counts

    def confusions(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """{"true", "predicted", "count", "of"}: classes taken for each other, most often first; "of" how many
        samples of the true class that named one. JSON-able."""
        of_class: dict[int, int] = {}
        for label, _, count in self.confusion:
            of_class[label] = of_class.get(label, 0) + count
        wrong = sorted(
            (-count, label, predicted) for label, predicted, count in self.confusion if label != predicted
        )
        return [
            {"true": classes[label], "predicted": classes[predicted], "count": -count, "of": of_class[label]}
            for count, label, predicted in wrong
        ]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "samples": self.samples,
            "confusion": [list(cell) for cell in self.confusion],
            "worst": [asdict(mistake) for mistake in self.worst],
            "not_finite": self.not_finite,
            **({"right": self.right, "ids": self.ids} if self.right else {}),
            **({"weights": self.weights} if self.weights else {}),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Validation:
        """The inverse of `as_dict`."""
        cells = tuple((int(a), int(b), int(c)) for a, b, c in saved["confusion"])
        worst: list[dict[str, Any]] = [
            {name: math.nan if mistake[name] is None else mistake[name] for name in FIELDS}
            for mistake in saved["worst"]
        ]
        mistakes = tuple(Mistake(**fields) for fields in worst)
        texts = (saved.get(name) or "" for name in ("right", "ids", "weights"))
        return cls(saved["samples"], cells, mistakes, saved.get("not_finite") or 0, *texts)


def bits_text(bits: np.ndarray) -> str:
    """bool `(n,)` as base64, eight samples a byte."""
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def bits_of(text: str, count: int) -> np.ndarray | None:
    """The inverse of `bits_text`; None where the text does not hold `count` bits."""
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    except ValueError:
        return None
    if not count or len(packed) != -(-count // 8):
        return None
    return np.unpackbits(packed, count=count).astype(bool)


def weights_text(weights: np.ndarray) -> str:
    """float `(n,)` as base64 of little-endian float32."""
    return base64.b64encode(weights.astype("<f4").tobytes()).decode()


def weights_in_text(text: str, count: int) -> np.ndarray | None:
    """The inverse of `weights_text`, as float64; None where the text does not hold `count` weights, or such as
    weigh nothing."""
    try:
        weights = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)
    except ValueError:
        return None
    sound = len(weights) == count and np.isfinite(weights).all() and (weights >= 0).all() and weights.any()
    return weights if sound else None


def validation_of(logits: np.ndarray, data: Dataset | FeatureSet) -> Validation:
    """`logits`: float32 `(n, classes)`, of the samples of `data` in their order."""
    labels, predicted = data.labels, logits.argmax(1)
    sure = decided(logits)
    cells, counts = np.unique(np.stack([labels, predicted], 1)[sure], axis=0, return_counts=True)
    losses = cross_entropy(logits, labels)
    wrong = np.flatnonzero((predicted != labels) & sure)
    worst = wrong[np.argsort(-losses[wrong], kind="stable")[:WORST]]
    try:
        ids = data.subset(worst).ids if len(worst) else ()
    except HeadstartError:  # a file that has gone meanwhile: no reason to lose what was trained
        ids, worst = (), worst[:0]
    try:
        digest = blake3("".join(data.ids).encode()).hexdigest(length=16)
    except HeadstartError:
        digest = ""
    probabilities = softmax(logits[worst])
    return Validation(
        len(labels),
        tuple((int(a), int(b), int(n)) for (a, b), n in zip(cells, counts, strict=True)),
        tuple(
            Mistake(id, int(i), int(labels[i]), int(predicted[i]), float(row[predicted[i]]), float(losses[i]))
            for id, i, row in zip(ids, worst, probabilities, strict=True)
        ),
        int((~sure).sum()),
        bits_text((predicted == labels) & sure) if digest else "",
        digest,
        weights_text(data.weights) if digest and data.weights is not None else "",
    )
