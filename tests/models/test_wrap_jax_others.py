"""Modules of JAX libraries that are not flax's: each is refused with the pair of functions to pass in its place,
which leads to features."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest
from own import P, X

import headstart as hs
from headstart.common.errors import SettingError
from headstart.testing import relative_error

pytestmark = pytest.mark.of("jax")
FRESH: dict[str, Any] = {"preprocess": P, "head": "linear", "classes": 10}
W = np.eye(3, 4, dtype=np.float32)


class Transformed(NamedTuple):
    init: Any
    apply: Any


def checked(model: Any) -> None:
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], X.mean((1, 2)) @ W) < 1e-6


def test_init_and_apply(backend: str) -> None:
    """As Haiku's transforms make them."""
    it = Transformed(lambda key, x: None, lambda params, rng, x: x.mean((1, 2)) @ params["w"])
    params = {"w": W}
    with pytest.raises(
        SettingError, match=r"it\.apply\(p, None, x\), None\), params=\(params, None\).*name='mine'\)"
    ):
        hs.wrap(it, params=params, **FRESH)
    checked(hs.wrap((lambda p, x: it.apply(p, None, x), None), params=(params, None), name="mine", **FRESH))
    with pytest.raises(SettingError, match=r"it\.apply\(p, x\), None\)"):
        hs.wrap(Transformed(lambda key, x: None, lambda params, x: x), params=params, **FRESH)


def test_init_and_apply_with_a_state(backend: str) -> None:
    it = Transformed(lambda key, x: None, lambda params, state, rng, x: (x.mean((1, 2)) @ params["w"], state))
    params, state = {"w": W}, {"mean_ema": {"average": np.ones(4, "f")}}
    with pytest.raises(
        SettingError, match=r"it\.apply\(p\['params'\], p\['state'\], None, x\)\[0\], None\), params=\("
    ):
        hs.wrap(it, params=(params, state), **FRESH)
    model = hs.wrap(
        (lambda p, x: it.apply(p["params"], p["state"], None, x)[0], None),
        params=({"params": params, "state": state}, None),
        name="mine",
        **FRESH,
    )
    checked(model)
    assert model.graph.buffers() == {"trunk.state.mean_ema.average"}


def test_a_dataclass_of_arrays(backend: str) -> None:
    """As Equinox and penzai have modules."""
    import jax

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Net:
        w: Any

        def __call__(self, x: Any) -> Any:
            return x.mean((0, 1)) @ self.w

    with pytest.raises(
        SettingError, match=r"Net is a pytree and no flax module: make a function of \(params, x\)"
    ):
        hs.wrap(Net(W), **FRESH)
    Net.__module__ = "equinox.nn"
    with pytest.raises(
        SettingError, match=r"jax\.vmap\(eqx\.combine\(p, static\)\)\(x\), None\), params=\(params"
    ):
        hs.wrap(Net(W), **FRESH)
    checked(hs.wrap((lambda p, x: jax.vmap(p)(x), None), params=(Net(W), None), name="mine", **FRESH))


def test_a_dataclass_without_arrays_is_none() -> None:
    @dataclasses.dataclass
    class Settings:
        width: int

        def __call__(self, x: Any) -> Any:
            return x

    with pytest.raises(SettingError, match=r"cannot wrap an object of .*Settings; expected"):
        hs.wrap(Settings(3), **FRESH)
