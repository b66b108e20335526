"""What parts of a module are called: as the ends of any graph are, or as the second call of another part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import CutError
from headstart.graph.cuts import Paths, distinct_names
from headstart.testing import relative_error

X = np.random.default_rng(0).standard_normal((4, 3)).astype("f")
WIDTHS = {"input": (3, 5), "step": (5, 5), "step_1": (5, 5), "output": (5, 2)}
RAN = ("input", "step", "step", "step_1", "output")
"""what stands between `step` and `output` is a layer, and `step`'s second call is none of its own"""


def torch_module(looks: bool = False) -> tuple[Any, Any]:
    """A module of these layers, and a function of how many of them are to run. `looks`: it cannot be traced."""
    import torch

    torch.manual_seed(0)

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, widths in WIDTHS.items():
                setattr(self, name, torch.nn.Linear(*widths))

        def forward(self, x: Any) -> Any:
            if looks and x.sum() > 1e9:
                return x
            for name in RAN:
                x = getattr(self, name)(x)
            return x

    module = Named().eval()

    def run(count: int) -> np.ndarray:
        x = torch.from_numpy(X)
        for name in RAN[:count]:
            x = getattr(module, name)(x)
        return np.asarray(x.detach())

    return module, run


def jax_module() -> tuple[Any, Any]:
    from flax import nnx

    class Named(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            for name, widths in WIDTHS.items():
                setattr(self, name, nnx.Linear(*widths, rngs=rngs))

        def __call__(self, x: Any) -> Any:
            for name in RAN:
                x = getattr(self, name)(x)
            return x

    module = Named()

    def run(count: int) -> np.ndarray:
        x = X
        for name in RAN[:count]:
            x = getattr(module, name)(x)
        return np.asarray(x)

    return module, run


def keras_module() -> tuple[Any, Any]:
    import keras

    keras.utils.set_random_seed(0)
    layers = {name: keras.layers.Dense(width, name=name) for name, (_, width) in WIDTHS.items()}
    given = x = keras.Input((3,), name="pixels")
    for name in RAN:
        x = layers[name](x)

    def run(count: int) -> np.ndarray:
        rows = X
        for name in RAN[:count]:
            kernel, bias = (np.asarray(weight) for weight in layers[name].get_weights())
            rows = rows @ kernel + bias
        return rows

    return keras.Model(given, x, name="named"), run


MADE = {"torch": torch_module, "jax": jax_module, "keras": keras_module}


@pytest.fixture
def named(backend: str) -> tuple[Any, Any]:
    return MADE[backend]()


def check(model: Any, cut: str, run: Any, fresh: bool) -> None:
    outputs = hs.forward(model, X, ["trunk", "logits"])
    assert relative_error(outputs["trunk"], run(RAN.index(cut) + 1)) < 1e-5
    assert fresh or relative_error(outputs["logits"], run(len(RAN))) < 1e-5


@pytest.mark.parametrize("cut", ["input", "step_1", "output"])
def test_a_layers_name_means_the_layer(named: tuple[Any, Any], cut: str) -> None:
    module, run = named
    check(hs.wrap(module, cut, example=X, head="linear", classes=3), cut, run, fresh=True)
    if cut != "output":
        check(hs.wrap(module, cut, example=X), cut, run, fresh=False)
    else:
        with pytest.raises(CutError):
            hs.wrap(module, cut, example=X)


def test_the_classifier_may_be_called_output(named: tuple[Any, Any]) -> None:
    """As it is in very many networks: the trunk ends before it, with it as head or with a fresh one."""
    module, run = named
    check(hs.wrap(module, example=X), "step_1", run, fresh=False)
    check(hs.wrap(module, example=X, head="linear", classes=3), "step_1", run, fresh=True)


def test_a_name_that_there_is_not(named: tuple[Any, Any]) -> None:
    with pytest.raises(CutError, match="step_1"):
        hs.wrap(named[0], "step_9", example=X, head="linear", classes=3)


@pytest.mark.of("torch")
@pytest.mark.parametrize("cut", ["input", "step_1", "output"])
def test_of_a_module_that_cannot_be_traced(cut: str) -> None:
    module, run = torch_module(looks=True)
    check(hs.wrap(module, cut, example=X, head="linear", classes=3), cut, run, fresh=True)
    check(hs.wrap(module, example=X), "step_1", run, fresh=False)
    with pytest.raises(CutError, match="step_1"):
        hs.wrap(module, "step_9", example=X, head="linear", classes=3)


@pytest.mark.of("torch")
@pytest.mark.parametrize("leaf", [True, False])
def test_a_part_that_is_called_as_an_operation_is(leaf: bool) -> None:
    """The operation comes first. `leaf`: the part is one of torch's own layers; else it is traced through."""
    import torch

    class Own(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.sin() + 1

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.tanh, self.fc = torch.nn.Linear(3, 5), Own(), torch.nn.Linear(5, 2)
            if leaf:
                self.tanh = torch.nn.Sigmoid()

        def forward(self, x: Any) -> Any:
            return self.fc(self.tanh(torch.tanh(self.body(x))))

    module = Named().eval()
    first = torch.tanh(module.body(torch.from_numpy(X))).detach()
    for cut, expected in {"tanh": module.tanh(first), "tanh_1": first}.items():
        model = hs.wrap(module, cut, example=X, head="linear", classes=3)
        assert relative_error(hs.forward(model, X, ["trunk"])["trunk"], expected.numpy()) < 1e-5


@pytest.mark.of("torch")
def test_several_ends_beside_a_layer_that_is_called_output_torch() -> None:
    import torch

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.output = torch.nn.Linear(3, 5), torch.nn.Linear(5, 2)

        def forward(self, x: Any) -> Any:
            x = self.body(x)
            return {"first": self.output(x).tanh(), "second": x}

    module = Both().eval()
    model = hs.wrap(module, "output", example=X, head="linear", classes=3)
    expected = module.output(module.body(torch.from_numpy(X))).detach()
    assert relative_error(hs.forward(model, X, ["trunk"])["trunk"], expected.numpy()) < 1e-5
    with pytest.raises(CutError, match="which of them"):
        hs.wrap(module, example=X, head="linear", classes=3)


@pytest.mark.of("keras")
@pytest.mark.parametrize("ends", [1, 2])
def test_a_layer_that_is_called_output_before_the_end_keras(ends: int) -> None:
    """With an activation behind it, and beside another end."""
    import keras

    keras.utils.set_random_seed(0)
    given = keras.Input((3,), name="input")
    x = keras.layers.Dense(5, name="body")(given)
    logits = keras.layers.Dense(2, name="output")(x)
    shares = keras.layers.Activation("tanh")(logits)
    model = keras.Model(given, [shares, x][:ends] if ends > 1 else shares, name="named")
    wrapped = hs.wrap(model, "output", example=X, head="linear", classes=3)
    expected = np.asarray(keras.Model(given, logits)(X))
    assert relative_error(hs.forward(wrapped, X, ["trunk"])["trunk"], expected) < 1e-5


@pytest.mark.neutral
def test_no_name_comes_twice() -> None:
    names = ["step", "step", "step_1", "step", "step_1", "step_2"]
    assert distinct_names(names) == ["step", "step_3", "step_1", "step_4", "step_1_1", "step_2"]
    assert distinct_names(["step", "step", "step"]) == ["step", "step_1", "step_2"]
    assert distinct_names(["step", "step"], {"step", "step_2"}) == ["step_1", "step_3"]
    paths = Paths.in_a_row(["input", "between", "output"])
    assert paths.cuts == ("input", "between", "output")
    assert (paths.input, paths.output) == ("its input", "its output")
