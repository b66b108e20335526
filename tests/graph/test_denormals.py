"""Weights that a CPU is slow at, because they are next to nothing."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from headstart.features.inference import frozen
from headstart.graph import Builder, Graph, without_denormals
from headstart.graph.denormals import NEGLIGIBLE

pytestmark = pytest.mark.neutral


def graph_of_norms() -> Graph:
    b = Builder()
    x = b.add("bn", "batch_norm", b.conv("conv", "input", 3, 4, 3, bias=False), channels=4)
    return b.graph(b.linear("fc", b.add("pool", "global_avg_pool", x), 4, 2))


def params_of(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {k: rng.uniform(0.5, 1, shape).astype(np.float32) for k, shape in graph.param_shapes().items()}


def test_what_is_next_to_nothing_is_nothing() -> None:
    graph = graph_of_norms()
    params = params_of(graph)
    weight = params["conv.weight"]
    weight[0] = 1e-40
    weight[1, 0] = -1e-31
    weight[2, 0, 0] = (0, -0.0, 1.1e-30)
    given = {name: value.copy() for name, value in params.items()}
    settled = without_denormals(graph, params)
    assert settled.keys() == graph.param_shapes().keys()
    expected = weight.copy()
    expected[0], expected[1, 0] = 0, 0
    np.testing.assert_array_equal(settled["conv.weight"], expected)
    np.testing.assert_array_equal(params["conv.weight"], given["conv.weight"])  # those of the model stay
    assert settled["conv.weight"].dtype == np.float32


def test_others_stay_the_same_arrays() -> None:
    """So that a trunk's weights are compared without looking at each of them."""
    graph = graph_of_norms()
    params = params_of(graph)
    params["conv.weight"][0, 0] = 0
    params["fc.weight"][0] = np.nan
    params["bn.running_var"][:] = 1e-40  # statistics, which no product meets
    params["bn.bias"][:] = 1e-40
    settled = without_denormals(graph, params)
    assert all(settled[name] is params[name] for name in graph.param_shapes())


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_precisions_stay(dtype: type) -> None:
    graph = graph_of_norms()
    params = {name: value.astype(dtype) for name, value in params_of(graph).items()}
    params["conv.weight"][0] = 1e-7 if dtype is np.float16 else 1e-36
    assert without_denormals(graph, params)["conv.weight"] is params["conv.weight"]


def test_a_norm_that_is_folded_in_makes_no_denormals_either() -> None:
    """A channel that is not used decays in its norm's scale, too."""
    graph = graph_of_norms()
    params = params_of(graph)
    params["conv.weight"][:2] *= 1e-20
    params["bn.weight"][:2] = 1e-19
    folded = frozen(graph, params, ["fc"])[1]
    (weight,) = (value for value in folded.values() if value.ndim == 4)
    assert (weight[:2] == 0).all()
    assert (np.abs(weight[2:]) > NEGLIGIBLE).all()
