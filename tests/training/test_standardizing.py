"""Standardised features: the map by itself, against scikit-learn; which heads it goes into; that it comes off and
goes on again without a trace. What is trained with it is in `test_standardized`."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from scalers import scaler_of

from headstart.graph import Builder, Graph
from headstart.models import architecture
from headstart.training import moments as moments_module
from headstart.training.moments import Moments
from headstart.training.standardizing import Readers, Standardization, readers

pytestmark = pytest.mark.neutral

CHANNELS = 5


def linear_readers(bias: bool = True, averaged: bool = False) -> Readers:
    b = Builder()
    b.add("fc", "linear", "input", in_features=CHANNELS, out_features=3, bias=bias)
    return Readers(b.graph("fc").nodes[1:], averaged)


def standardization_of(rows: np.ndarray, blocks: int = 1, **settings: Any) -> Standardization:
    moments = Moments(settings.get("averaged", False))
    for block in np.array_split(rows, blocks):
        moments.add(block)
    return Standardization.of(moments, linear_readers(**settings))


def rows_of(kind: str, count: int = 4000) -> np.ndarray:
    """float32 `(count, 5)`"""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((count, CHANNELS)).clip(-1, None) * [1, 2, 0.5, 1, 3] + [0, 1, 2, 0.1, -3]
    kinds = {
        "plain": rows,
        "tiny": rows * 0.001,
        "large": rows * 100,
        "shifted": rows + 10,
        "far": rows * 0.01 + 300,
        "badly conditioned": rows @ (rng.standard_normal((CHANNELS, CHANNELS)) * [1e-3, 1, 1, 10, 1e3]),
        "rare": np.where(rng.random(rows.shape) < 0.002, rows, 0),
        "constant": np.where(np.arange(CHANNELS) == 2, 0.1, rows),
    }
    return kinds[kind].astype(np.float32)


KINDS = ("plain", "tiny", "large", "shifted", "far", "badly conditioned", "rare", "constant")
DTYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_scikit_learns_of_even_scales(kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments_module, "MOST_ROWS", 100)  # many blocks, in threads
    rows = rows_of(kind).astype(DTYPES[dtype])
    numbers = rows.astype(np.float64)
    scaler = scaler_of(numbers)
    by = standardization_of(rows, blocks=3)
    np.testing.assert_allclose(by.mean, scaler.mean_, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(by.deviation, scaler.scale_, rtol=2e-5)
    mapped = rows.copy()
    assert by.map(mapped) is mapped
    assert mapped.dtype == rows.dtype
    rounding = {"float32": 3e-5, "float16": 2**-11, "bfloat16": 2**-8}[dtype]
    worst = np.abs(numbers / scaler.scale_).max(0) * 1e-7  # of a mean that is rounded to float32
    np.testing.assert_allclose(
        mapped.astype(np.float64), scaler.transform(numbers), rtol=2 * rounding, atol=1e-4 + worst.max()
    )


def test_a_constant_channel_keeps_its_scale() -> None:
    rows = rows_of("constant")
    by = standardization_of(rows)
    assert by.deviation[2] == 1 and by.mean[2] == rows[0, 2]
    assert (by.map(rows)[:, 2] == 0).all()


def test_what_is_not_finite_makes_its_own_channel_none_of_the_others() -> None:
    rows = rows_of("plain")
    rows[7, 1], rows[9, 3] = np.nan, np.inf
    by = standardization_of(rows)
    assert (by.mean[[1, 3]] == 0).all() and (by.deviation[[1, 3]] == 1).all()
    scaler = scaler_of(rows_of("plain")[:, [0, 2, 4]])
    np.testing.assert_allclose(by.deviation[[0, 2, 4]], scaler.scale_, rtol=1e-5)
    mapped = by.map(rows)
    assert np.isnan(mapped[7, 1]) and np.isposinf(mapped[9, 3]), "as they came"


def test_what_float16_does_not_hold_is_its_largest() -> None:
    rows = rows_of("plain").astype(np.float16) * np.float16(0.001)
    by = standardization_of(rows)
    outliers = np.array([[500.0] * CHANNELS, [-500.0] * CHANNELS], np.float16)
    mapped = by.map(outliers)
    assert (mapped[0] == 65504).all() and (mapped[1] == -65504).all()


def test_maps_by_channel_and_by_their_means() -> None:
    rng = np.random.default_rng(0)
    maps = (rng.standard_normal((300, 4, 3, CHANNELS)) * [1, 2, 3, 4, 5] + [5, 4, 3, 2, 1]).astype(np.float32)
    for averaged, seen in ((False, maps.reshape(-1, CHANNELS)), (True, maps.mean((1, 2)))):
        by = standardization_of(maps, blocks=4, averaged=averaged)
        np.testing.assert_allclose(by.mean, seen.mean(0), rtol=1e-5)
        np.testing.assert_allclose(by.deviation, scaler_of(seen).scale_, rtol=1e-5)
        mapped = by.map(maps.copy())
        np.testing.assert_allclose(mapped, (maps - by.mean) / by.deviation, atol=1e-4)


def test_without_a_bias_only_the_spread_around_0_is_taken_off() -> None:
    rows = rows_of("shifted")
    by = standardization_of(rows, bias=False)
    assert (by.mean == 0).all()
    around = np.concatenate([rows, -rows])  # of which the mean is 0
    np.testing.assert_allclose(by.deviation, scaler_of(around).scale_, rtol=1e-5)


# --- the layer


@pytest.mark.parametrize("kind", KINDS)
def test_folded_and_unfolded(kind: str) -> None:
    """A layer for standardised rows gives the same for raw ones once the map is in it, and the other way round."""
    rows, rng = rows_of(kind), np.random.default_rng(3)
    by = standardization_of(rows)
    params = {
        "fc.weight": rng.standard_normal((3, CHANNELS)).astype(np.float32),
        "fc.bias": np.ones(3, np.float32),
        "other.weight": np.ones((3, CHANNELS), np.float32),
    }
    plain = by.folded(params)
    standardised = (rows - by.mean) / by.deviation
    expected = standardised @ params["fc.weight"].T.astype(np.float64) + params["fc.bias"]
    computed = rows.astype(np.float64) @ plain["fc.weight"].T + plain["fc.bias"]
    size = np.abs(rows * plain["fc.weight"][:, None]).sum(2).max()  # of what is added up, in float32's digits
    np.testing.assert_allclose(computed, expected, atol=1e-6 * size + 1e-5)
    assert plain["fc.weight"].dtype == plain["fc.bias"].dtype == np.float32
    assert plain["other.weight"] is params["other.weight"]
    back = by.unfolded(plain)
    np.testing.assert_allclose(back["fc.weight"], params["fc.weight"], rtol=1e-6)
    np.testing.assert_allclose(back["fc.bias"], params["fc.bias"], atol=1e-6 * size + 1e-5)
    drawn = by.unfolded(params, fresh={"fc.weight", "fc.bias"})
    assert all(drawn[name] is params[name] for name in params), "what was drawn stays as it was drawn"


def test_of_flattened_maps_each_channel_has_several_inputs() -> None:
    """In torchvision's layout, `(c, h, w)`."""
    rng = np.random.default_rng(0)
    maps = (rng.standard_normal((50, 2, 3, CHANNELS)) * [1, 2, 3, 4, 5] + 7).astype(np.float32)
    by = standardization_of(maps)
    params = {
        "fc.weight": rng.standard_normal((3, 6 * CHANNELS)).astype(np.float32),
        "fc.bias": np.ones(3, np.float32),
    }

    def outputs(rows: np.ndarray, of: Any) -> np.ndarray:
        flat = rows.transpose(0, 3, 1, 2).reshape(len(rows), -1)
        return np.asarray(flat @ of["fc.weight"].T.astype(np.float64) + of["fc.bias"])

    expected = outputs((maps - by.mean) / by.deviation, params)
    np.testing.assert_allclose(outputs(maps, by.folded(params)), expected, atol=1e-4)


# --- which heads


def head_of(name: str) -> Graph:
    b = Builder()
    if name == "linear":
        return b.graph(b.linear("fc", "input", CHANNELS, 3))
    if name == "hidden":
        x = b.add("relu", "relu", b.linear("fc1", b.add("drop", "dropout", "input", rate=0.5), CHANNELS, 4))
        return b.graph(b.linear("fc2", x, 4, 3))
    if name == "pooled":
        return b.graph(b.linear("fc", b.add("pool", "global_avg_pool", "input"), CHANNELS, 3))
    if name == "flattened":
        return b.graph(b.linear("fc", b.add("flat", "flatten", "input", features=2 * CHANNELS), 2 * CHANNELS, 3))
    if name == "activated":
        return b.graph(b.linear("fc", b.add("relu", "relu", "input"), CHANNELS, 3))
    if name == "convolution":
        x = b.conv("conv", "input", CHANNELS, 4, 1)
        return b.graph(b.linear("fc", b.add("pool", "global_avg_pool", x), 4, 3))
    assert name == "beside"  # a linear layer and something else read the features
    return b.graph(b.add("sum", "add", "input", b.linear("fc", "input", CHANNELS, CHANNELS)))


@pytest.mark.parametrize(
    ("name", "layers", "averaged"),
    [
        ("linear", ["fc"], False),
        ("hidden", ["fc1"], False),
        ("pooled", ["fc"], True),
        ("flattened", ["fc"], False),
        ("activated", None, None),
        ("convolution", None, None),
        ("beside", None, None),
    ],
)
def test_the_layers_that_a_map_goes_into(name: str, layers: list[str] | None, averaged: bool | None) -> None:
    result = readers(head_of(name))
    assert (result and [node.name for node in result.layers]) == layers
    assert (result and result.averaged) == averaged


@pytest.mark.parametrize(
    ("name", "cut", "layers"),
    [
        ("resnet18_half", "avgpool", ["fc"]),
        ("resnet18_half", "layer4", ["fc"]),
        ("resnet18_half", "layer3", None),
        ("lenet", "relu4", ["fc3"]),
        ("vgg11", "avgpool", ["classifier.0"]),
        ("mobilenet_v2", "avgpool", ["classifier.1"]),
    ],
)
def test_of_the_zoos_networks(name: str, cut: str, layers: list[str] | None) -> None:
    graph, size = architecture(name).graph(3).main, architecture(name).preprocess.size
    result = readers(graph.after(graph.resolve(cut), (size, size, 3)))
    assert (result and [node.name for node in result.layers]) == layers


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("shape", [(6, CHANNELS), (6, 2, 2, CHANNELS)])
def test_a_sample_counts_by_its_weight(shape: tuple[int, ...], averaged: bool) -> None:
    """One of weight 2 is there twice, one of weight 0 not at all; of maps in each of its positions."""
    rng = np.random.default_rng(0)
    rows = rng.normal(3, 2, shape).astype(np.float32)
    counts = np.array([0, 1, 2, 3, 0, 2])
    weighted, repeated = Moments(averaged), Moments(averaged)
    weighted.add(rows, counts.astype(np.float32))
    repeated.add(np.repeat(rows, counts, 0))
    one, other = (moments.standard() for moments in (weighted, repeated))
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-6)
    np.testing.assert_allclose(one.deviation, other.deviation, rtol=1e-5)
