"""Programs of users' own networks in JAX, on a CPU: convolutions and max pools in faster forms give what XLA's own
give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from whole_training import trainer_of

import headstart as hs
from headstart.contract import registry
from headstart.contract.recipe import Place
from headstart.features.inference import pixel_trunk
from headstart.models import Model

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402 - needs jax
from flax import nnx  # noqa: E402

from headstart.backends.jax import cpu_programs, fused  # noqa: E402

pytestmark = [
    pytest.mark.of("jax"),
    pytest.mark.skipif(not fused.available(), reason="this jaxlib has no oneDNN"),
]
SIZE = 12
IMAGES = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
PREPROCESS = hs.Preprocess(SIZE, SIZE, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def array(*shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(len(shape)).standard_normal(shape, np.float32))


def conv(
    x: Any,
    kernel: Any,
    stride: Any = (1, 1),
    padding: Any = "SAME",
    orders: Any = ("NHWC", "HWIO", "NHWC"),
    **how: Any,
) -> Any:
    return jax.lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=orders, **how)


MAPS, FILTERS = array(3, 9, 8, 6), array(3, 3, 6, 4)
REPLACED: dict[str, tuple[Any, ...]] = {
    "same": (conv, MAPS, FILTERS),
    "strided": (lambda x, k: conv(x, k, (2, 3)), MAPS, FILTERS),
    "valid": (lambda x, k: conv(x, k, padding="VALID"), MAPS, FILTERS),
    "uneven": (lambda x, k: conv(x, k, (2, 1), [(0, 1), (2, 0)]), MAPS, FILTERS),
    "one image": (conv, MAPS[:1], FILTERS),
    "pointwise": (lambda x, k: conv(x, k, (2, 2)), MAPS, array(1, 1, 6, 5)),
    "larger than the maps": (conv, array(2, 3, 4, 6), array(5, 5, 6, 4)),
    "groups": (lambda x, k: conv(x, k, feature_group_count=2), MAPS, array(3, 3, 3, 4)),
    "a filter a channel": (lambda x, k: conv(x, k, feature_group_count=6), MAPS, array(3, 3, 1, 6)),
    "two filters a channel": (lambda x, k: conv(x, k, feature_group_count=6), MAPS, array(3, 5, 1, 12)),
    "channels first": (
        lambda x, k: conv(x, k, orders=("NCHW", "OIHW", "NCHW")),
        array(2, 6, 9, 8),
        array(4, 6, 3, 3),
    ),
    "orders of their own": (
        lambda x, k: conv(x, k, (2, 1), orders=("CWNH", "WOHI", "HCNW")),
        array(6, 8, 2, 9),
        array(3, 4, 2, 6),
    ),
    "halves": (conv, MAPS.astype(jnp.bfloat16), FILTERS.astype(jnp.bfloat16)),
    "halves summed in float32": (
        lambda x, k: conv(x, k, preferred_element_type=jnp.float32),
        MAPS.astype(jnp.bfloat16),
        FILTERS.astype(jnp.bfloat16),
    ),
    "in a program": (lambda x, k: jax.jit(conv)(x, jax.nn.relu(k)), MAPS, FILTERS),
    "in programs": (lambda x, k: jax.jit(lambda y: jax.jit(conv)(y, k) + 1)(x), MAPS, FILTERS),
    "computed again": (lambda x, k: jax.checkpoint(conv)(x, k), MAPS, FILTERS),
    "max pool": (lambda x: nnx.max_pool(x, (3, 3), (2, 2), "SAME"), MAPS),
    "max pool, uneven": (lambda x: nnx.max_pool(x, (2, 3), (1, 2), ((1, 0), (0, 2))), MAPS),
    "max pool of halves": (lambda x: nnx.max_pool(x, (2, 2), (2, 2)), MAPS.astype(jnp.bfloat16)),
}
LEFT: dict[str, tuple[Any, ...]] = {
    "dilated": (lambda x, k: conv(x, k, rhs_dilation=(2, 1)), MAPS, FILTERS),
    "transposed": (lambda x, k: conv(x, k, padding=((2, 1), (1, 2)), lhs_dilation=(2, 2)), MAPS, FILTERS),
    "cut off": (lambda x, k: conv(x, k, padding=((-1, 1), (0, 0))), MAPS, FILTERS),
    "padded by more than the kernel": (lambda x, k: conv(x, k, padding=((4, 0), (0, 0))), MAPS, FILTERS),
    "batches of groups": (lambda x, k: conv(x, k, batch_group_count=2), MAPS[:2], array(3, 3, 6, 4)),
    "along a line": (lambda x, k: conv(x, k, (1,), orders=("NWC", "WIO", "NWC")), array(2, 9, 6), array(3, 6, 4)),
    "in space": (
        lambda x, k: conv(x, k, (1, 1, 1), orders=("NDHWC", "DHWIO", "NDHWC")),
        array(2, 4, 5, 4, 3),
        array(3, 3, 3, 3, 2),
    ),
    "in a loop": (
        lambda x, k: jax.lax.scan(lambda y, _: (conv(y, k), None), x, None, 2)[0],
        MAPS,
        array(3, 3, 6, 6),
    ),
    "max pool of whole numbers": (
        lambda x: jax.lax.reduce_window(
            x, np.iinfo(np.int32).min, jax.lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "SAME"
        ),
        (9 * MAPS).astype(jnp.int32),
    ),
    "max over channels": (
        lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 1, 3), (1, 1, 1, 3), "VALID"),
        MAPS,
    ),
    "no image": (conv, MAPS[:0], FILTERS),
}


@pytest.mark.parametrize("name", [*REPLACED, *LEFT])
def test_programs_give_what_they_give(name: str) -> None:
    run, *given = (REPLACED | LEFT)[name]
    formed = cpu_programs.on_cpu(run, cpu_programs.INFERENCE)
    expected, found = jax.jit(run)(*given), jax.jit(formed)(*given)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    near = 2e-2 if jnp.bfloat16 in (given[0].dtype, expected.dtype) else 1e-5
    np.testing.assert_allclose(np.asarray(found, np.float32), np.asarray(expected, np.float32), near, near)
    own = {"conv_general_dilated", "reduce_window_max"}
    left = any(kind in str(jax.make_jaxpr(formed)(*given)) for kind in own)
    assert left == (name in LEFT)


# XLA's own derivative by a kernel with negative padding is wrong, and another one in each call (jaxlib 0.10)
@pytest.mark.parametrize("name", [name for name in (*REPLACED, *LEFT) if name != "cut off"])
def test_derivatives_are_what_they_are(name: str) -> None:
    run, *given = (REPLACED | LEFT)[name]
    if not jnp.issubdtype(given[0].dtype, jnp.floating):
        pytest.skip("whole numbers have none")

    def total(*given: Any) -> Any:
        y = run(*given)
        return (y * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)).sum()

    places = tuple(range(len(given)))
    try:
        expected = jax.jit(jax.grad(total, places))(*given)
    except TypeError:
        assert name == "halves summed in float32"
        pytest.skip("older versions of JAX cannot derive that")
    formed = jax.jit(jax.grad(cpu_programs.on_cpu(total, cpu_programs.TRAINING), places))(*given)
    for one, other in zip(formed, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        near = 4e-2 if jnp.bfloat16 in (given[0].dtype, one.dtype) else 1e-4
        np.testing.assert_allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), near, near)


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), strides=2, feature_group_count=8, use_bias=False, rngs=rngs)
        self.fc = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.max_pool(jax.nn.relu(self.norm(self.conv(x))), (2, 2), (2, 2))
        return self.fc(self.depthwise(x).mean((1, 2)))


def features(model: Model, precision: str) -> np.ndarray:
    backend = registry.load("jax")
    trunk = pixel_trunk(model, [model.default_cut], backend, Place("cpu", precision))
    return np.asarray(backend.numpy(trunk.run(IMAGES)[model.default_cut]))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_features_of_a_network(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Net(nnx.Rngs(0))
    model = hs.wrap(network, preprocess=PREPROCESS, classes=list("abc"))
    calls: list[Any] = []
    call = fused.convolution
    monkeypatch.setattr(fused, "convolution", lambda *args: calls.append(args) or call(*args))
    found = features(model, precision)
    number = len(calls)
    assert number > 0 and number % 2 == 0, "both convolutions, of each size of batch"
    monkeypatch.setenv("HEADSTART_FUSED", "0")
    expected = features(model, precision)
    assert len(calls) == number, "which does without them"
    near = 1e-5 if precision == "float32" else 2e-2
    np.testing.assert_allclose(found, expected, rtol=near, atol=near)


class One(nnx.Module):
    """As a vision transformer has it."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.patches = nnx.Conv(3, 8, (4, 4), strides=4, padding="VALID", rngs=rngs)
        self.fc = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.fc(jax.nn.gelu(self.patches(x)).mean((1, 2)))


@pytest.mark.parametrize(("kind", "formed"), [(Net, True), (One, False)])
def test_one_convolution_is_left(kind: Any, formed: bool) -> None:
    """A program that calls oneDNN is compiled anew in each process; XLA's own is kept."""
    model = hs.wrap(kind(nnx.Rngs(0)), preprocess=PREPROCESS, classes=list("abc"))
    trunk = registry.load("jax").trunk(model.graph, model.params, [model.default_cut], Place("cpu", "float32"))
    assert trunk.formed == formed


def test_a_version_that_has_programs_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise AttributeError("eqns")

    monkeypatch.setattr(cpu_programs, "_evaluated", broken)
    found = jax.jit(cpu_programs.on_cpu(conv, cpu_programs.INFERENCE))(MAPS, FILTERS)
    np.testing.assert_allclose(found, conv(MAPS, FILTERS), rtol=1e-5, atol=1e-5)


def test_a_training_is_that_of_xlas_own_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> tuple[list[float], dict[str, np.ndarray]]:
        model = hs.wrap(Net(nnx.Rngs(0)), preprocess=PREPROCESS, classes=list("abc"))
        trainer = trainer_of(model, "jax", hs.SGD(0.05))
        losses = [float(trainer.step(IMAGES, np.arange(5) % 3, 0.05)[0].mean()) for _ in range(4)]
        return losses, trainer.params()

    losses, params = trained()
    monkeypatch.setenv("HEADSTART_FUSED", "0")
    own_losses, own_params = trained()
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(losses, own_losses, rtol=1e-4)
    for name, value in params.items():
        np.testing.assert_allclose(value, own_params[name], rtol=1e-3, atol=1e-5, err_msg=name)
