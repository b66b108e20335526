"""What a run starts from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.training.job import initial, job_of
from headstart.training.modes import MODES
from headstart.training.settings import Settings

pytestmark = pytest.mark.neutral


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("head", ["linear", [16]], ids=["linear", "hidden"])
def test_a_fresh_output_layer_on_a_frozen_trunk_starts_at_zero(mode: str, head: hs.models.Head) -> None:
    model = hs.model("resnet18_half", weights="tinyimagenet", classes=3, head=head)
    drawn = model.reseeded(1, everything=not MODES[mode].pretrained)
    cut = model.default_cut if MODES[mode].frozen else None
    output = {f"{model.graph.output}.weight", f"{model.graph.output}.bias"}
    for name, value in initial(model, MODES[mode], cut, 1).items():
        expected = np.zeros_like(value) if MODES[mode].frozen and name in output else drawn[name]
        np.testing.assert_array_equal(value, expected, name, strict=True)


@pytest.mark.parametrize("mode", ["cached", "staged"])
def test_one_that_was_trained_starts_as_it_is(mode: str) -> None:
    model = hs.model("resnet18_half", weights="tinyimagenet")
    start = initial(model, MODES[mode], model.default_cut, 1)
    np.testing.assert_array_equal(start["fc.weight"], model.params["fc.weight"])


@pytest.mark.parametrize("mode", ["cached", "full"])
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
def test_labels_start_as_often_as_they_come(mode: str, weighted: bool) -> None:
    """A head that has learnt nothing says how often each label comes: as scikit-learn's does that sees nothing."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    labels = rng.random((40, 3)) < [0.8, 0.1, 0.4]
    weights = rng.integers(1, 5, 40).astype(np.float32) if weighted else None
    options: dict[str, Any] = {"pos_weight": {"b": 3.0}} if weighted else {}
    data = hs.data.arrays(
        rng.integers(0, 256, (40, 64, 64, 3), np.uint8), labels.astype(int), classes=["a", "b", "c"],
        weights=weights, task="multi",
    )  # fmt: skip
    model = hs.model("resnet18_half", weights="tinyimagenet", classes=data.classes)
    start = job_of(model, data, None, Settings(mode=mode, **options)).model.params
    assert (start["fc.weight"] == 0).all() == (mode == "cached")
    counted = np.ones(40) if weights is None else weights
    counted = np.append(counted, np.full(2, counted.mean() / 2))  # half a sample more with it, half a one without
    for there, name, bias in zip(labels.T, data.classes, start["fc.bias"], strict=True):
        known = np.append(there, [True, False])
        factors = np.where(known, options.get("pos_weight", {}).get(name, 1.0), 1.0)
        blind = LogisticRegression(C=np.inf).fit(np.zeros((42, 1)), known, counted * factors)
        assert bias == pytest.approx(blind.intercept_[0], abs=1e-3)


def test_a_label_that_none_has_starts_at_a_number() -> None:
    labels = np.array([[1, 0, 0], [1, 0, 1]] * 3)
    images = np.zeros((6, 64, 64, 3), np.uint8)
    data = hs.data.arrays(images, labels, classes=["all", "none", "half"], task="multi")
    model = hs.model("resnet18_half", weights="tinyimagenet", classes=data.classes)
    start = job_of(model, data, None, Settings(mode="cached")).model.params["fc.bias"]
    np.testing.assert_allclose(start, [np.log(6.5 / 0.5), np.log(0.5 / 6.5), 0], rtol=1e-6, atol=1e-7)
