"""Frozen convolutions in JAX by another library than XLA: the same numbers, whatever stands around them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.contract.recipe import Place
from headstart.graph import Graph, Node
from headstart.testing import relative_error

pytestmark = pytest.mark.of("jax")


@pytest.fixture(scope="module")
def fused(backend: str) -> Any:
    from headstart.backends.jax import fused

    if not fused.available():
        pytest.skip("this jaxlib has no oneDNN, or is one that it was not tried with")
    return fused


def conv(name: str, source: str, cin: int, cout: int, **attrs: Any) -> Node:
    given = {"kernel": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1)), **attrs}
    return Node(name, "conv", (source,), {"in_channels": cin, "out_channels": cout, **given})


def graph() -> Graph:
    """Groups, uneven windows, sums of two convolutions, of one and of none, and what ends in no convolution."""
    window = {"kernel": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1))}
    nodes = [
        Node("input", "input"),
        conv("stem", "input", 3, 16, kernel=(5, 3), stride=(2, 1), padding=((2, 1), (0, 1)), bias=False),
        Node("stem_relu", "relu", ("stem",)),
        Node("pool", "max_pool", ("stem_relu",), {**window, "ceil": True}),
        conv("a", "pool", 16, 16, groups=4),
        Node("a_relu", "relu6", ("a",)),
        conv("b", "a_relu", 16, 24, stride=(2, 2)),
        conv("beside", "pool", 16, 24, kernel=(1, 1), stride=(2, 2), padding=((0, 0), (0, 0))),
        Node("sum", "add", ("b", "beside")),
        Node("sum_relu", "relu", ("sum",)),
        conv("deep", "sum_relu", 24, 24, groups=24),
        Node("sum2", "add", ("sum_relu", "deep")),
        Node("silu", "silu", ("sum2",)),
        conv("shared", "silu", 24, 24),
        Node("shared_relu", "relu", ("shared",)),
        Node("sum3", "add", ("shared", "shared_relu")),
        Node("mean", "global_avg_pool", ("sum3",)),
    ]
    return Graph(nodes, "mean")


@pytest.mark.parametrize(
    ("units", "precision"),
    [
        (True, "bfloat16"),
        (False, "float32"),
        *(pytest.param(*more, marks=pytest.mark.slow) for more in [(True, "float32"), (False, "bfloat16")]),
    ],
)
def test_outputs_are_those_of_the_layers(
    fused: Any, precision: str, units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.backends.jax.emit import Network
    from headstart.backends.jax.trunk import JaxTrunk

    given: set[str] = set()
    own = fused.convolution
    monkeypatch.setattr(
        fused, "convolution", lambda a, *more: given.update(str(x.dtype) for x in a) or own(a, *more)
    )
    units = units and fused.bfloat16_units()
    monkeypatch.setattr(fused, "bfloat16_units", lambda: units)
    g, rng = graph(), np.random.default_rng(0)
    params = {
        name: rng.standard_normal(shape, np.float32) * np.float32(math.prod(shape[1:]) ** -0.5)
        for name, shape in g.param_shapes().items()
    }
    images = rng.standard_normal((6, 19, 23, 3), np.float32)
    for outputs in (["mean"], ["pool", "b", "sum", "sum2", "shared", "mean"]):
        trunk = JaxTrunk(g, params, outputs, Place("cpu", precision))
        assert isinstance(trunk.fused, fused.FusedNetwork)
        found, expected = trunk.run(images), Network(g, params, outputs)(images)
        assert set(found) == set(outputs)
        for name in outputs:
            assert relative_error(found[name], expected[name]) < (1e-5 if precision == "float32" else 0.03)
        for name, value in trunk.params().items():
            np.testing.assert_array_equal(value, params[name])
    assert given == {precision if units else "float32"}


def test_what_follows_a_convolution_is_part_of_its_call(fused: Any) -> None:
    g = graph()
    steps = {step.output: step for step in fused.steps(g, ["mean"])}
    expected = "stem_relu pool a_relu beside sum_relu sum2 silu shared shared_relu sum3 mean"
    assert [*steps] == expected.split()
    assert (steps["sum_relu"].node.name, steps["sum_relu"].other) == ("b", "beside")
    assert (steps["sum2"].node.name, steps["sum2"].other) == ("deep", "sum_relu")
    assert [name for name, step in steps.items() if fused.only_pooled(g, step, ["mean"])] == ["stem_relu"]
    assert not fused.only_pooled(g, steps["stem_relu"], ["stem_relu", "mean"])


@pytest.fixture
def anew(fused: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whether the calls are possible is asked again, in this process whichever jaxlib it has."""
    monkeypatch.setattr(fused, "TRIED", (version("jaxlib"),))
    fused.available.cache_clear()
    yield
    fused.available.cache_clear()


def test_an_unknown_version_is_tried_in_another_process(
    fused: Any, anew: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wrong call ends the process that makes it."""
    from headstart.backends.jax.trunk import JaxTrunk

    called: list[Any] = []
    monkeypatch.setattr(fused, "TRIED", ("0.0.",))
    assert fused.available()
    fused.available.cache_clear()
    monkeypatch.setattr(fused, "convolution", lambda *a: called.append(a))
    ends = {"dies": "kill -SEGV $$", "refuses": "exit 3", "hangs": "exec sleep 60", "is not there": None}
    for name, script in ends.items():
        program = tmp_path / name
        if script is not None:
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o700)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(program))
            patch.setattr(fused, "TRIAL_SECONDS", 0.3)
            assert not fused.available(), name
            g = graph()
            params = {name: np.ones(shape, np.float32) for name, shape in g.param_shapes().items()}
            trunk = JaxTrunk(g, params, ["mean"], Place("cpu", "float32"))
        assert trunk.fused is None
        fused.available.cache_clear()
    assert trunk.run(np.ones((1, 19, 23, 3), np.float32))["mean"].shape == (1, 24)
    assert not called


def test_the_trial_keeps_to_the_cpu(fused: Any, anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU that is the first device, and has no such call."""
    import jax

    devices: set[Any] = set()
    own = fused.convolution
    monkeypatch.setattr(fused, "convolution", lambda *a: devices.add(jax.config.jax_default_device) or own(*a))
    assert fused.available()
    assert {device.platform for device in devices} == {"cpu"}


@pytest.mark.parametrize("form", range(4))
def test_wrong_numbers_are_noticed_in_every_form(
    fused: Any, anew: None, monkeypatch: pytest.MonkeyPatch, form: int
) -> None:
    own, kernel = fused.convolution, fused.TRIALS[form][1]
    monkeypatch.setattr(
        fused, "convolution", lambda given, *a: own(given, *a) * (1.01 if given[1].shape == kernel else 1)
    )
    assert not fused.available()


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "precision"),
    [
        ((3, 3), (1, 1), ((1, 1), (1, 1)), "float32"),
        pytest.param((5, 5), (2, 2), ((2, 2), (2, 2)), "float32", marks=pytest.mark.slow),
        ((3, 5), (2, 1), ((0, 1), (2, 0)), "float32"),
        ((5, 5), (1, 1), ((2, 2), (2, 2)), "bfloat16"),
    ],
)
def test_a_filter_a_channel(kernel: Any, stride: Any, padding: Any, precision: str) -> None:
    from headstart.backends.jax.cpu_forms import DepthwiseConv

    # more images than eight, which the weights' gradient is added up of, and not twice as many
    compare_with_xla(DepthwiseConv, 12, (11, 13, 10), kernel, stride, padding, precision)


@pytest.mark.parametrize(
    "size, groups, kernel, stride, padding, precision",
    [
        ((31, 29), 1, (3, 3), (1, 1), ((1, 1), (1, 1)), "float32"),
        ((31, 29), 1, (7, 7), (2, 2), ((3, 3), (3, 3)), "float32"),
        ((31, 29), 1, (1, 7), (1, 2), ((0, 1), (2, 3)), "float32"),
        ((31, 29), 1, (3, 3), (1, 1), ((1, 1), (1, 1)), "bfloat16"),
        # in groups
        ((5, 6), 3, (3, 3), (2, 1), ((1, 1), (0, 2)), "float32"),
        ((2, 2), 4, (3, 3), (1, 1), ((1, 1), (1, 1)), "float32"),
        ((5, 6), 2, (1, 1), (1, 1), ((0, 0), (0, 0)), "float32"),
        # smaller than the kernel: what comes in, and what comes out
        ((2, 2), 1, (3, 3), (1, 1), ((1, 1), (1, 1)), "float32"),
        ((4, 3), 1, (3, 3), (2, 2), ((1, 1), (1, 0)), "float32"),
        ((7, 5), 1, (5, 7), (2, 1), ((2, 1), (3, 3)), "bfloat16"),
    ],
)
def test_windows(size: Any, groups: int, kernel: Any, stride: Any, padding: Any, precision: str) -> None:
    from headstart.backends.jax.cpu_forms import WindowedConv

    compare_with_xla(WindowedConv, groups, (3, *size), kernel, stride, padding, precision)


@pytest.mark.parametrize("size", [2, 3], ids=["comes in", "comes out"])
def test_maps_smaller_than_the_kernel_are_products(size: int) -> None:
    """There and back: XLA's own form of such a convolution is the naive loop."""
    import jax
    import jax.numpy as jnp

    from headstart.backends.jax.cpu_forms import Window, convolved

    x, kernel = jnp.ones((1, size, size, 4)), jnp.ones((3, 3, 4, 4))
    how = Window((size - 1, size - 1), ((1, 1), (1, 1)), 1)

    def total(x: jax.Array) -> jax.Array:
        return convolved(x, kernel, how).sum()

    of_weights, forward = 1, size == 3
    assert str(jax.make_jaxpr(total)(x)).count("conv_general") == forward
    assert str(jax.make_jaxpr(jax.grad(total))(x)).count("conv_general") == forward + of_weights


def compare_with_xla(
    form: Any, groups: int, size: tuple[int, int, int], kernel: Any, stride: Any, padding: Any, precision: str
) -> None:
    """Outputs and gradients are those of XLA's own convolution."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from headstart.backends.jax.emit import Network

    rng = np.random.default_rng(0)
    node = conv("conv", "input", 12, 12, groups=groups, kernel=kernel, stride=stride, padding=padding)
    shapes = {"conv.weight": (12, 12 // groups, *kernel), "conv.bias": (12,)}
    params = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    network = Network(Graph([Node("input", "input"), node], "conv"), params, ["conv"], Place("cpu", precision))
    layer = network.layers["conv"]
    assert type(layer) is form
    x = jnp.asarray(rng.standard_normal((*size, 12)), layer.dtype or jnp.float32)

    def gradients(call: Any) -> list[jax.Array]:
        def squares(layer: nnx.Conv, x: jax.Array) -> jax.Array:
            return jnp.square(call(layer, x).astype(jnp.float32)).sum()

        # compiled as one: step by step XLA would compile each shape of each map
        return jax.tree.leaves(nnx.jit(nnx.grad(squares, argnums=(0, 1)))(layer, x))

    calls = form.__call__, nnx.Conv.__call__
    assert layer(x).dtype == x.dtype
    tolerance = 1e-5 if precision == "float32" else 2e-2
    assert relative_error(*(np.float32(call(layer, x)) for call in calls)) < tolerance
    ours, theirs = map(gradients, calls)
    assert len(ours) == 3
    for one, other in zip(ours, theirs, strict=True):
        assert relative_error(np.float32(one), np.float32(other)) < tolerance


@pytest.mark.parametrize(
    "kernel, stride, padding", [((3, 3), (2, 2), ((1, 1), (1, 1))), ((2, 3), (3, 1), ((0, 1), (1, 0)))]
)
def test_the_largest_of_windows(kernel: Any, stride: Any, padding: Any) -> None:
    """As XLA's own: of equal values the first has the gradient, and what is no number stays one of none."""
    import jax
    import jax.numpy as jnp

    from headstart.backends.jax.emit import FUNCTIONS, ON_CPU

    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, (2, 11, 10, 3)).astype(np.float32)
    attrs = {"kernel": kernel, "stride": stride, "padding": padding, "ceil": True}

    def both(op: Any) -> tuple[jax.Array, jax.Array]:
        y, back = jax.vjp(op(attrs), jnp.asarray(x))
        return y, back(jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), jnp.float32))[0]

    ours, theirs = (jax.jit(both, static_argnums=0)(ops["max_pool"]) for ops in (ON_CPU, FUNCTIONS))
    assert np.array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5, atol=1e-6)
    x[0, 3, 5, 1] = np.nan
    here = np.isnan(both(ON_CPU["max_pool"])[0])
    assert np.array_equal(here, np.isnan(ON_CPU["max_pool"](attrs)(jnp.asarray(x)))) and here.any()


@pytest.mark.parametrize("op", ["conv", "linear"])
def test_a_weights_gradient_copies_no_maps(op: str) -> None:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from headstart.backends.jax.emit import Network

    if op == "conv":
        node = conv("layer", "input", 8, 24, kernel=(1, 1), padding=((0, 0), (0, 0)))
        shape: tuple[int, ...] = (24, 8, 1, 1)
    else:
        node = Node("layer", "linear", ("input",), {"in_features": 8, "out_features": 24})
        shape = (24, 8)
    params = {"layer.weight": np.ones(shape, np.float32), "layer.bias": np.zeros(24, np.float32)}
    network = Network(Graph([Node("input", "input"), node], "layer"), params, ["layer"], Place("cpu", "float32"))

    def squares(layer: nnx.Module, x: jax.Array) -> jax.Array:
        return jnp.square(layer(x)).sum()

    x = jnp.ones((4, 32, 32, 8) if op == "conv" else (4, 1024, 8))
    step = nnx.jit(nnx.grad(squares, argnums=(0, 1)))
    text = step.lower(network.layers["layer"], x).compile().as_text()
    assert "transpose(" in text or "dot" in text, "a program that can be looked at"
    assert not [line for line in text.splitlines() if "[8,4096]" in line or "[24,4096]" in line]
