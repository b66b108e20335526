"""A frozen trunk's weights are compared bit by bit, in the model and on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import TrunkChangedError
from headstart.features.inference import frozen, is_finite
from headstart.models import Model
from headstart.training.frozen_trunk import check_trunk

pytestmark = pytest.mark.neutral

CUT, WEIGHT = "pool1", "conv1.weight"


class Held:
    """A trunk that tells these parameters."""

    def __init__(self, params: dict[str, np.ndarray]) -> None:
        self.params = lambda: params


@pytest.fixture
def model() -> Model:
    return hs.model("lenet", classes=3)


def device_copy(model: Model, precision: str = "float32") -> dict[str, np.ndarray]:
    folded = frozen(model.graph.upto(CUT), model.params, [CUT], precision=precision)[1]
    return {name: value.copy() for name, value in folded.items()}


def test_what_is_the_same_passes(model: Model) -> None:
    strange = {WEIGHT: np.where(model.params[WEIGHT] > 0, np.float32("nan"), model.params[WEIGHT])}
    for kept in (model, model.with_params({**model.params, **strange})):
        trunk: Any = Held(device_copy(kept))
        check_trunk(kept, CUT, kept.params, trunk, "float32")
        check_trunk(kept, CUT, {name: value.copy() for name, value in kept.params.items()}, None, "float32")
        swapped = {name: value.astype(">f4") for name, value in kept.params.items()}
        check_trunk(kept, CUT, swapped, None, "float32")


@pytest.mark.parametrize(
    "change",
    [
        lambda w: np.nextafter(w, np.float32(9)),
        lambda w: np.where(w == w.flat[0], np.float32(-0.0), w),
        lambda w: w.astype(np.float64),
        lambda w: w.reshape(-1),
    ],
    ids=["a-bit", "minus-zero", "dtype", "shape"],
)
def test_what_differs_by_a_bit_is_told(model: Model, change: Any) -> None:
    params = {name: value.copy() for name, value in model.params.items()}
    params[WEIGHT].flat[0] = 0
    model = model.with_params(params)
    with pytest.raises(TrunkChangedError, match="training changed weights"):
        check_trunk(model, CUT, {**params, WEIGHT: change(params[WEIGHT])}, None, "float32")
    held = device_copy(model)
    trunk: Any = Held({**held, WEIGHT: change(held[WEIGHT])})
    with pytest.raises(TrunkChangedError, match=r"'conv1\.weight' is another one \(1 of 2 in all\)"):
        check_trunk(model, CUT, model.params, trunk, "float32")


def test_in_bfloat16_it_has_the_weights_that_were_rounded_for_it(model: Model) -> None:
    trunk: Any = Held(device_copy(model, "bfloat16"))
    check_trunk(model, CUT, model.params, trunk, "bfloat16")
    assert not (trunk.params()[WEIGHT].view(np.uint32) & 0xFFFF).any()
    with pytest.raises(TrunkChangedError, match=r"'conv1\.weight' is another one"):
        check_trunk(model, CUT, model.params, trunk, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_a_sum_that_overflows_is_no_infinity(dtype: str) -> None:
    largest = np.full((3, 4), np.finfo(dtype).max, dtype)
    assert is_finite(largest)
    assert is_finite(np.zeros((0, 2), dtype))
    for unsound in ("nan", "inf", "-inf"):
        for others in (largest, np.zeros_like(largest)):
            array = others.copy()
            array[1, 2] = unsound
            assert not is_finite(array)
    assert not is_finite(np.array([np.inf, -np.inf], dtype))
    assert is_finite(np.arange(5))
