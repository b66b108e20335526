"""What a model gives for the samples on which an export of it is verified, and how far that varies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.contract import registry
from headstart.contract.programs import FEATURES
from headstart.data import Dataset
from headstart.data.annotations import MULTI, REGRESSION
from headstart.data.loader import batches
from headstart.data.rows import window
from headstart.features.feature_set import FeatureSet
from headstart.features.inference import pixel_trunk
from headstart.models.exporting.parts import HEAD, OUTPUTS, TRUNK
from headstart.training.checks import features_at
from headstart.training.exporting.request import Request
from headstart.training.metrics import softmax
from headstart.training.prediction import predict, predict_features
from headstart.training.scores.multi import sigmoid

LEAST_VARIED, LEAST_VARIED_NUMBERS = 0.1, 0.01
"""of the largest output: outputs that vary less are not told apart from rounding as finely. Numbers in their units
may be large by their origin alone, as years are, which the last bias adds and nothing before it has rounded by"""
COARSE = 2.0**-10
"""the step of float16, and more than that"""
AT_ONCE = 7  # samples: features near the input are large


@dataclass(frozen=True)
class Expected:
    """Row i of every array belongs to sample i."""

    outputs: Mapping[str, np.ndarray]
    """name -> `(n, ...)`; the first is what the graph itself ends in, the last what answers are read from"""
    scales: Mapping[str, Any]
    """name -> what a difference in it is relative to: one number, or one a target"""
    features: np.ndarray | None
    """at the cut, float32 with channels last; None where the model is exported whole"""

    @property
    def plain(self) -> str:
        return next(iter(self.outputs))

    @property
    def answer(self) -> str:
        return list(self.outputs)[-1]


def expected_of(request: Request, data: Dataset | FeatureSet, device: str, plain_only: bool) -> Expected:
    """What the request's model gives, asked as its users ask it. `plain_only`: without probabilities."""
    model = request.model
    features = _features(request, data, device) if request.part in (TRUNK, HEAD) else None
    if request.part == TRUNK:
        assert features is not None
        outputs = {FEATURES: features}
    else:
        names = OUTPUTS[model.task]
        outputs = {names.plain: _logits(request, data, device)}
        if names.probable is not None and not plain_only:
            outputs[names.probable] = (sigmoid if model.task == MULTI else softmax)(outputs[names.plain])
    return Expected(outputs, {name: _scale(values, name, request) for name, values in outputs.items()}, features)


def rows_of(data: Any, preprocess: Any) -> Any:
    """All samples of a data set as a model with this preprocessing takes them."""
    (batch,) = batches(data, preprocess, np.arange(len(data)), len(data))
    return batch.images


def _logits(request: Request, data: Dataset | FeatureSet, device: str) -> np.ndarray:
    place: dict[str, Any] = {"backend": request.backend, "device": device}
    if isinstance(data, FeatureSet):
        here = features_at(request.model, data, request.cut)
        return predict_features(request.model, here, here.cuts[0], **place)
    return predict(request.model, data, **place)


def _features(request: Request, data: Dataset | FeatureSet, device: str) -> np.ndarray:
    if isinstance(data, FeatureSet):
        here = features_at(request.model, data, request.cut)
        return np.asarray(here.numpy(here.cuts[0]), np.float32)
    loaded = registry.load(request.backend, request.model.home)
    trunk = pixel_trunk(request.model, [request.cut], loaded, loaded.place(device, "float32"))
    rows = rows_of(data, request.model.preprocess)
    parts = [trunk.run(window(rows, start, start + AT_ONCE)) for start in range(0, len(data), AT_ONCE)]
    return np.concatenate([loaded.numpy(part[request.cut]) for part in parts]).astype(np.float32, copy=False)


def _scale(values: np.ndarray, name: str, request: Request) -> Any:
    names = OUTPUTS[request.model.task]
    if request.part != TRUNK and name == names.probable:
        return np.float64(1)
    numbers = request.model.task == REGRESSION and request.part != TRUNK
    axes = 0 if numbers else None
    largest = np.abs(values).max(axes)
    varied = np.abs(values - values.mean(0, dtype=np.float64)).max(axes)
    if (request.half or request.rounding >= COARSE) and not numbers:
        varied = largest  # eleven bits, or eight: what varies little is lost in them
    least = LEAST_VARIED_NUMBERS if numbers else LEAST_VARIED
    return np.maximum(np.clip(varied, least * largest, largest), np.finfo(np.float32).tiny)  # all may be 0
