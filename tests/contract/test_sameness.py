"""What frameworks would each do their own way, and the contract states: the same in all of them."""

from __future__ import annotations

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import UnknownNameError
from headstart.contract import registry
from headstart.contract.recipe import Recipe
from headstart.graph import Builder, Graph
from headstart.models.initial import initial_params


def normed(channels: int = 4) -> Graph:
    """A batch norm of the input's own channels, and a classifier of it."""
    b = Builder()
    x = b.add("norm", "batch_norm", b.conv("conv", "input", 3, channels, 1), channels=channels, momentum=0.25)
    return b.graph(b.linear("fc", b.add("pool", "global_avg_pool", x), channels, 3))


@pytest.mark.parametrize("count", [1, 2, 16])
def test_a_running_variance_follows_the_unbiased_one(backend: str, count: int) -> None:
    graph = normed()
    start = initial_params(graph, 0)
    start["norm.running_var"] = np.float32([0.5, 1, 2, 3])
    start["norm.running_mean"] = np.float32([0.5, -1, 0, 1])
    x = np.random.default_rng(0).standard_normal((count, 2, 2, 3)).astype(np.float32)
    framework = registry.load(backend)
    trainer = framework.trainer(graph, start, Recipe(hs.SGD(), 0.0, True, 0), framework.place("cpu", "float32"))
    trainer.step(x, np.zeros(count, np.int64), 0.0)
    values = (x @ start["conv.weight"][:, :, 0, 0].T).reshape(-1, 4)
    after = trainer.params()
    for name, seen in (("running_var", values.var(0, ddof=1)), ("running_mean", values.mean(0))):
        expected = 0.75 * start[f"norm.{name}"] + 0.25 * seen
        np.testing.assert_allclose(after[f"norm.{name}"], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    logits = trainer.logits(x, 0, count)
    scaled = (values - after["norm.running_mean"]) / np.sqrt(after["norm.running_var"] + 1e-5)
    pooled = scaled.reshape(count, 4, 4).mean(1)
    expected = pooled @ after["fc.weight"].T + after["fc.bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_trunk_may_be_given_more_than_its_outputs_need(backend: str) -> None:
    graph = normed()
    params = initial_params(graph, 0)
    framework = registry.load(backend)
    trunk = framework.trunk(graph, params, ["conv"], framework.place("cpu", "float32"))
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 3)).astype(np.float32)
    expected = x @ params["conv.weight"][:, :, 0, 0].T
    outputs = trunk.run(x)
    assert outputs.keys() == {"conv"}
    np.testing.assert_allclose(framework.numpy(outputs["conv"]), expected, rtol=1e-5, atol=1e-6)
    assert trunk.params().keys() == {"conv.weight"}
    framework.native(graph, params, ["conv"])


def test_a_device_that_the_backend_does_not_name_is_refused(backend: str) -> None:
    said = rf"unknown device 'tpu' \(of backend '{backend}'\); expected one of auto, cpu, cuda"
    with pytest.raises(UnknownNameError, match=said):
        registry.load(backend).place("tpu", "float32")
