"""What a run starts from."""

from __future__ import annotations

import numpy as np
import pytest

import headstart as hs
from headstart.training.job import initial
from headstart.training.modes import MODES

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
