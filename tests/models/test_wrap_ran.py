"""Code that a module comes to by names that it puts together as it runs, or that a library calls deep inside: no
text says that it runs, and it is in the key of features all the same."""

from __future__ import annotations

import colorsys
import functools
import logging
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from own import key

import headstart as hs
from headstart.common.errors import HeadstartError
from headstart.testing import relative_error

X = np.random.default_rng(0).standard_normal((4, 6)).astype("f")
KIND = "small"


def scaling(backend: str, factor: Any) -> Any:
    """A module that multiplies by what a function gives."""
    if backend == "torch":
        import torch

        class Scaling(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.body, self.factor = torch.nn.Linear(6, 5), factor

            def forward(self, x: Any) -> Any:
                if x.sum() > 1e9:  # so it is not traced
                    x = x * 2
                return self.body(x) * self.factor()

        return Scaling().eval()
    if backend == "jax":
        from flax import nnx

        class Scales(nnx.Module):
            def __init__(self) -> None:
                self.body, self.factor = nnx.Linear(6, 5, rngs=nnx.Rngs(0)), factor

            def __call__(self, x: Any) -> Any:
                return self.body(x) * self.factor()

        return Scales()
    import keras

    class Scale(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * factor()

    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(5), Scale()])


def wrapped(backend: str, factor: Any) -> Any:
    return hs.wrap(scaling(backend, factor), "its end", example=X, head="linear", classes=2)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of the program's."""
    made = types.ModuleType("blocks_of_mine")
    made.__dict__.update(block_small=two, SCALE_small=2.0, scales={"small": 2.0})
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setitem(globals(), "blocks", made)
    yield made


class Table:
    scale_small = np.array(2.0)

    def __call__(self) -> float:
        return float(getattr(self, f"scale_{KIND}"))


def of_a_module() -> Any:
    return getattr(blocks, f"block_{KIND}")()


def number_of_a_module() -> Any:
    return getattr(blocks, "SCALE_" + KIND)


def by_dict() -> Any:
    return blocks.__dict__["block_%s" % KIND]()  # noqa: UP031 - what is looked for


def of_globals() -> Any:
    return globals()["block_" + KIND]()


def of_a_library() -> Any:
    return getattr(colorsys, "_".join(("rgb", "to", "yiq")))(1, 1, 1)[0]


def two(*_: int) -> Any:
    return np.float32(2)


def three(*_: int) -> Any:
    return np.float32(3)


def pair(*_: int) -> Any:
    return (two(),)


def triple(*_: int) -> Any:
    return (three(),)


block_small = two
here = sys.modules[__name__]
WAYS: dict[str, tuple[Any, str, Any, Any]] = {
    "module": (of_a_module, "block_small", two, three),
    "cached": (of_a_module, "block_small", functools.cache(two), functools.cache(three)),
    "number": (number_of_a_module, "SCALE_small", 2.0, 3.0),
    "dict": (by_dict, "block_small", two, three),
    "globals": (of_globals, "block_small", two, three),
    "class": (Table(), "scale_small", np.array(2.0), np.array(3.0)),
    "library": (of_a_library, "rgb_to_yiq", pair, triple),
}
UNTOLD = ("number", "cached")
"""of which a change after `hs.wrap` is no matter: numbers may count what a program does"""


@pytest.mark.parametrize("way", WAYS)
def test_what_a_name_that_is_put_together_means_is_in_the_key(
    backend: str, way: str, blocks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features of before were served for those of after; a change afterwards is refused."""
    factor, name, before, after = WAYS[way]
    holder = {"globals": here, "class": Table, "library": colorsys}.get(way, blocks)
    digests = []
    for value in (before, after, before):
        with monkeypatch.context() as now:
            now.setattr(holder, name, value)
            model = wrapped(backend, factor)
            digests.append(key(model).digest)
        if value is after and way not in UNTOLD:
            with pytest.raises(HeadstartError, match=rf"{name} was (changed|replaced)"):
                key(model)
    assert digests[0] == digests[2]
    assert digests[0] != digests[1]


@pytest.mark.parametrize("closed", [2.0, 3.0])
def test_of_functions_that_are_made_alike_the_one_that_runs_counts(
    backend: str, closed: float, blocks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for others in (0, 2):
        made = [lasting(float(number)) for number in range(others)]
        monkeypatch.setattr(blocks, "block_small", lasting(closed))
        digests.append(key(wrapped(backend, of_a_module)).digest)
        assert len(made) == others
    monkeypatch.setattr(blocks, "block_small", lasting(4.0))
    other = key(wrapped(backend, of_a_module)).digest
    assert digests[0] == digests[1]
    assert digests[0] != other


def lasting(number: float) -> Any:
    return lambda: np.float32(number)


def test_a_call_that_is_put_on_a_librarys_class_is_seen(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the class had inherited its own: features of the patched network went under the key of before."""
    model = wrapped(backend, two)
    key(model)
    kind = linear_of(backend)
    called = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, *args, **more: 2 * called(self, *args, **more))
    with pytest.raises(HeadstartError, match=r"__call__ was replaced since"):
        key(model)


def linear_of(backend: str) -> Any:
    if backend == "torch":
        import torch

        return torch.nn.Linear
    if backend == "jax":
        from flax import nnx

        return nnx.Linear
    import keras

    return keras.layers.Dense


@pytest.mark.of("torch")
def test_a_method_that_is_put_on_tensors_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    class Bounded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = torch.nn.Linear(6, 5), torch.nn.Linear(5, 2)

        def forward(self, x: Any) -> Any:
            return self.fc(self.body(x).tanh() + x[:, :5])

    model = hs.wrap(Bounded().eval(), example=X, classes=2)
    key(model)
    before = torch.Tensor.tanh
    monkeypatch.setattr(torch.Tensor, "tanh", lambda self: 2 * before(self))
    with pytest.raises(HeadstartError, match=r"Tensor.tanh was replaced since"):
        key(model)


def holding(backend: str, module: Any) -> Any:
    """A network that holds a module of Python's, and multiplies by what is in it."""
    if backend == "torch":
        import torch

        class Holds(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.body, self.held = torch.nn.Linear(6, 5), module
                self.functions, self.operations = torch.nn.functional, [torch.ops.aten]

            def forward(self, x: Any) -> Any:
                if x.sum() > 1e9:  # so it is not traced
                    x = x * 2
                rows = self.operations[0].tanh(self.functions.gelu(self.body(x)))
                return rows * self.held.SCALE_small * self.held.block_small()

        return Holds().eval()
    if backend == "jax":
        from flax import nnx

        class Has(nnx.Module):
            def __init__(self) -> None:
                self.body, self.held = nnx.Linear(6, 5, rngs=nnx.Rngs(0)), module

            def __call__(self, x: Any) -> Any:
                return self.body(x) * self.held.SCALE_small * self.held.block_small()

        return Has()
    import keras

    class Layer(keras.layers.Layer):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.held = module

        def call(self, x: Any) -> Any:
            return x * self.held.SCALE_small * self.held.block_small()

    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(5), Layer()])


def test_what_is_in_a_module_that_a_network_holds_is_in_the_key(backend: str, blocks: Any) -> None:
    digests, features = [], []
    for scale, block in ((2.0, two), (3.0, two), (2.0, three), (2.0, two)):
        blocks.SCALE_small, blocks.block_small = scale, block
        model = hs.wrap(holding(backend, blocks), "its end", example=X, head="linear", classes=2)
        digests.append(key(model).digest)
        features.append(hs.forward(model, X, "trunk")["trunk"])
    assert [digests.index(digest) for digest in digests] == [0, 1, 2, 0]
    assert relative_error(features[1], features[0] * 1.5) < 1e-5


class Loud(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()


def telling() -> Any:
    logging.getLogger("test_wrap_ran").warning("it runs")
    return np.float32(2)


def test_who_is_told_of_a_run_is_no_part_of_it(backend: str) -> None:
    logger, handler = logging.getLogger("test_wrap_ran"), Loud()
    digest = key(wrapped(backend, telling)).digest
    logger.addHandler(handler)
    try:
        assert key(wrapped(backend, telling)).digest == digest
    finally:
        logger.removeHandler(handler)
    assert sys.getprofile() is None


@pytest.mark.of("torch")
def test_the_code_that_was_traced_is_in_no_key() -> None:
    """The graph says what it computes."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = torch.nn.Linear(6, 5)

    def forward(self: Any, x: Any) -> Any:
        return self.body(x) * 2

    def otherwise(self: Any, x: Any) -> Any:
        twice = 2
        return self.body(x) * twice

    digests = []
    for function in (forward, otherwise):
        kind = type("Net", (Net,), {"forward": function})
        digests.append(key(hs.wrap(kind().eval(), "its end", example=X, head="linear", classes=2)).digest)
    assert digests[0] == digests[1]
