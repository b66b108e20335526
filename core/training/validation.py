"""What a run got right and wrong on the validation data: counted, and the worst of it by name.

Small enough to be saved with the run and sent between processes, however many samples there were: cells of the
confusion matrix that are zero are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from blake3 import blake3

from headstart.common.errors import HeadstartError
from headstart.contract.losses import Sigmoid, per_sample
from headstart.data import Dataset
from headstart.data.annotations import MULTI, SINGLE
from headstart.features.feature_set import FeatureSet
from headstart.training.metrics import cross_entropy, decided, named_labels, softmax
from headstart.training.sample_texts import bits_of, bits_text, numbers_text
from headstart.training.scores.regression import headline_errors

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
class Miss:
    """A sample whose labels or numbers were not met; in words, as it was not taken for one other class."""

    id: str
    index: int
    """in the validation data"""
    label: str
    """ "'cat' and 'dog'", or "1.5" """
    predicted: str
    error: float
    """of labels the cross-entropy, of numbers the error in deviations of the training targets, in the mean over
    labels or targets"""


MISS_FIELDS = tuple(Miss.__dataclass_fields__)


@dataclass(frozen=True)
class Validation:
    """The predictions on the validation data, of the epoch that was kept."""

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
    """how much each sample counts, float32, as `numbers_text` writes them; "" where the data have no weights"""
    groups: str = field(default="", repr=False)
    """the number of each sample's group, likewise; "" where the data have no groups"""
    misses: tuple[Miss, ...] = field(default=(), repr=False)
    """of several labels or numbers a sample, up to 12, the largest first"""
    terms: str = field(default="", repr=False)
    """what each sample adds to the headline score, float32, as `numbers_text` writes them. Of labels
    `(samples, 2)`, see `headstart.training.metrics.named_labels`. Of numbers `(samples, 1)`: see
    `headstart.training.scores.regression.headline_errors`. "" of classes, which have `right` """

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
            **({"right": self.right, "ids": self.ids} if self.ids else {}),
            **({"weights": self.weights} if self.weights else {}),
            **({"groups": self.groups} if self.groups else {}),
            **({"misses": [asdict(miss) for miss in self.misses]} if self.misses else {}),
            **({"terms": self.terms} if self.terms else {}),
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
        names = ("right", "ids", "weights", "groups", "terms")
        right, ids, weights, groups, terms = (saved.get(name) or "" for name in names)
        misses = tuple(Miss(**{name: miss[name] for name in MISS_FIELDS}) for miss in saved.get("misses") or ())
        lost = saved.get("not_finite") or 0
        return cls(saved["samples"], cells, mistakes, lost, right, ids, weights, groups, misses, terms)


def validation_of(
    predictions: np.ndarray,
    data: Dataset | FeatureSet,
    threshold: float = 0.5,
    deviation: Sequence[float] | None = None,
) -> Validation:
    """`predictions`: float32 `(n, k)`, logits or numbers in their units, of the samples of `data` in their order.
    `threshold`: of the task "multi"; `deviation`: `(k,)`, of the task "regression", of the training targets, None
    where it is that of `data`."""
    if data.task != SINGLE:
        return _of_many(predictions, data, threshold, deviation)
    return _of_classes(predictions, data)


def _of_many(
    predictions: np.ndarray, data: Dataset | FeatureSet, threshold: float, deviation: Sequence[float] | None
) -> Validation:
    """Of several labels, or numbers, a sample."""
    labels = data.labels
    known = np.isfinite(predictions).all(1)
    if data.task == MULTI:
        errors = per_sample(Sigmoid(), predictions, labels)
        guess, terms = named_labels(predictions, labels, threshold)
        right = (guess == (labels != 0)).all(1) & known
        guesses: np.ndarray = guess.astype(np.uint8)
    else:
        if deviation is None:
            spread = labels.std(0, dtype=np.float64)
            deviation = np.where(spread > 0, spread, 1).tolist()
        terms = headline_errors(predictions, labels, deviation)
        errors = terms if len(deviation) > 1 else terms / deviation[0]
        right, guesses = np.zeros(len(labels), bool), predictions.astype(np.float32)
    wrong = np.flatnonzero(~right & known)
    worst = wrong[np.argsort(-errors[wrong], kind="stable")[:WORST]]
    guessed = replace(data.annotations, labels=guesses)
    ids, worst, digest = _ids_of(data, worst)
    misses = (
        Miss(id, int(i), data.annotations.label_text(int(i)), guessed.label_text(int(i)), float(errors[i]))
        for id, i in zip(ids, worst, strict=True)
    )
    bits = bits_text(right) if digest and data.task == MULTI else ""
    with np.errstate(over="ignore"):
        terms = terms.astype(np.float32)
    kept = numbers_text(terms) if digest and np.isfinite(terms).all() else ""
    return Validation(
        len(labels),
        (),
        (),
        int((~known).sum()),
        bits,
        digest,
        _weights(data, digest),
        _groups(data, digest),
        tuple(misses),
        kept,
    )


def _ids_of(data: Dataset | FeatureSet, worst: np.ndarray) -> tuple[Sequence[str], np.ndarray, str]:
    """The ids of the samples at these positions, the positions whose ids are known, and a digest of all ids."""
    try:
        ids = data.subset(worst).ids if len(worst) else ()
    except HeadstartError:  # a file that has gone meanwhile: no reason to lose what was trained
        ids, worst = (), worst[:0]
    try:
        return ids, worst, blake3("".join(data.ids).encode()).hexdigest(length=16)
    except HeadstartError:
        return ids, worst, ""


def _weights(data: Dataset | FeatureSet, digest: str) -> str:
    """The samples' weights, where they have any and it is known whose they are."""
    return numbers_text(data.weights) if digest and data.weights is not None else ""


def _groups(data: Dataset | FeatureSet, digest: str) -> str:
    """The numbers of the samples' groups, likewise."""
    groups = data.annotations.groups
    return numbers_text(np.unique(groups, return_inverse=True)[1]) if digest and groups is not None else ""


def _of_classes(logits: np.ndarray, data: Dataset | FeatureSet) -> Validation:
    labels, predicted = data.labels, logits.argmax(1)
    sure = decided(logits)
    cells, counts = np.unique(np.stack([labels, predicted], 1)[sure], axis=0, return_counts=True)
    losses = cross_entropy(logits, labels)
    wrong = np.flatnonzero((predicted != labels) & sure)
    worst = wrong[np.argsort(-losses[wrong], kind="stable")[:WORST]]
    ids, worst, digest = _ids_of(data, worst)
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
        _weights(data, digest),
        _groups(data, digest),
    )
