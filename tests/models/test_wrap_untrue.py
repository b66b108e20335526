"""Torch modules of which torch.fx makes a graph that computes something else: code asks what a tensor is, and a
trace has something in its place. And functions of autograd's, by a name of their own."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from own import key

import headstart as hs
from headstart.testing import relative_error

pytestmark = pytest.mark.of("torch")

X = np.random.default_rng(0).standard_normal((4, 5)).astype("f")


def made(how: str, scale: float) -> Any:
    import torch
    from torch import nn

    @functools.singledispatch
    def by_type(x: Any, _scale: float) -> Any:
        return x

    @by_type.register(torch.Tensor)
    def _(x: Any, scale: float) -> Any:
        return x.tanh() * scale

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body, self.fc, self.scale = nn.Linear(5, 12), nn.Linear(12, 3), scale

        def forward(self, x: Any) -> Any:
            return self.fc(self.use(self.body(x)))

        def use(self, x: Any) -> Any:
            match how:
                case "isinstance":
                    return x.tanh() * self.scale if isinstance(x, torch.Tensor) else x
                case "is_tensor":
                    return x.tanh() * self.scale if torch.is_tensor(x) else x
                case "dispatch":
                    return by_type(x, self.scale)
            try:
                return x.tanh() * (self.scale if float(x.detach().sum()) < 1e9 else 1)
            except TypeError:
                return x

    return Net().eval()


@pytest.mark.parametrize("how", ["isinstance", "is_tensor", "dispatch", "caught"])
@pytest.mark.parametrize("cut", [None, "its end"])
def test_the_module_itself_is_run(how: str, cut: str | None) -> None:
    import torch

    keys = []
    for scale in (2.0, 3.0, 2.0):
        module = made(how, scale)
        model = hs.wrap(module, cut, example=X, head="linear", classes=2)
        with torch.no_grad():
            rows = module.body(torch.from_numpy(X)).tanh() * scale
            expected = rows if cut is None else module.fc(rows)
        assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected.numpy()) < 1e-5
        keys.append(key(model))
    assert keys[0] == keys[2]
    assert keys[0] != keys[1]


def doubling() -> Any:
    import torch

    class Times(torch.autograd.Function):
        @staticmethod
        def forward(_context: Any, x: Any) -> Any:
            return x * 2

    return Times.apply


def tripling() -> Any:
    import torch

    class Times(torch.autograd.Function):
        @staticmethod
        def forward(_context: Any, x: Any) -> Any:
            return x * 3

    return Times.apply


@pytest.mark.parametrize("looks", [False, True])
def test_a_function_of_autograds_by_a_name_of_its_own_is_in_the_key(looks: bool) -> None:
    import torch

    keys = []
    for make in (doubling, tripling, doubling):
        times = make()

        class Net(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.body = torch.nn.Linear(5, 12)

            def forward(self, x: Any) -> Any:
                if looks and x.sum() > 1e9:
                    x = x * 2
                return times(self.body(x))  # noqa: B023 - it is gone before the next

        keys.append(key(hs.wrap(Net().eval(), "its end", example=X, head="linear", classes=2)))
    assert keys[0] == keys[2]
    assert keys[0] != keys[1]
