"""How far the data lie from what a trunk was trained on, asked of the trunk's own classifier, where it has one: it
is sure of what resembles its classes, and undecided about the rest."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from headstart.common.errors import HeadstartError
from headstart.graph.ops import INERT
from headstart.models import Model
from headstart.models.model import model as make_model
from headstart.training.metrics import softmax

MANY = 50
"""classes below which a classifier is sure of anything"""


@dataclass(frozen=True)
class Familiarity:
    """What the trunk's own classifier says of the samples."""

    classes: int
    """that it tells apart"""
    confidence: float
    """probability of the likeliest of its classes, in the mean over samples"""
    entropy: float
    """of its probabilities, in the mean, as a share of that of knowing nothing: 0 is sure, 1 is undecided"""

    def as_dict(self) -> dict[str, float]:
        """JSON-able."""
        return asdict(self)


def familiarity(model: Model, features: np.ndarray) -> Familiarity | None:
    """`features`: `(n, d)`, what the classifier takes. None where the trunk has no classifier of its own, or one
    of several layers or of few classes."""
    if (classifier := _classifier(model)) is None:
        return None
    weight, bias = classifier
    if weight.shape[1] != features.shape[1] or len(weight) < MANY:
        return None
    probabilities = softmax(features.astype(np.float64) @ weight.T + bias)
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(1)
    return Familiarity(
        len(weight), float(probabilities.max(1).mean()), float(entropy.mean() / np.log(len(weight)))
    )


def _classifier(model: Model) -> tuple[np.ndarray, np.ndarray] | None:
    """Weight `(classes, d)` and bias of the one linear layer that the published weights end in."""
    if model.home is not None or model.weights is None:
        return None
    try:
        published = make_model(model.name, model.weights, size=getattr(model.preprocess, "size", None))
        behind = published.graph.main.after(published.default_cut, published.input_shape).nodes[1:]
    except HeadstartError:  # weights without a classifier, or that are not here any more
        return None
    layers = [node for node in behind if node.op not in INERT]
    if len(layers) != 1 or layers[0].op != "linear":
        return None
    name = layers[0].name
    weight = published.params[f"{name}.weight"].astype(np.float64)
    bias = published.params.get(f"{name}.bias")
    return weight, np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
