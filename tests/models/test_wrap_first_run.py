"""Torch modules that make something of their own when they run for the first time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from own import P, X, fit, key

import headstart as hs
from headstart.common.errors import SettingError
from headstart.testing import relative_error

pytestmark = pytest.mark.of("torch")


@pytest.fixture(scope="module")
def torch(backend: str) -> Any:
    import torch

    return torch


def made(how: str, seed: int = 0) -> Any:
    """`how` a table of distances comes into a layer's buffer: one of another shape takes the place of zeros, as in
    ConViT; or it is written there, and an attribute says so. Or the buffer follows what comes: the greatest of
    each channel that was seen, how often it ran, or what came first, with which all later is computed."""
    import torch
    from torch import nn

    class Near(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.pair = nn.LayerNorm(8), nn.Linear(1, 1)
            sides = {"anew": (1, 1, 1), "written": (64, 64, 1), "seen": (0,), "counted": (), "first": (64, 64, 1)}[
                how
            ]
            self.register_buffer("table", torch.zeros(sides))
            self.full = False

        def forward(self, x: Any) -> Any:
            if x.isnan().any():  # so it is not traced
                x = torch.zeros_like(x)
            far = (torch.arange(x.shape[1]).view(-1, 1) - torch.arange(x.shape[1])).abs().float()[..., None]
            if how == "anew" and self.table.shape[0] != x.shape[1]:
                self.table = far
            if how == "written" and not self.full:
                self.table.copy_(far)
                self.full = True
            if how == "first" and not self.full:
                self.table.copy_(far * x.mean())
                self.full = True
            if how == "seen":
                now = x.detach().amax((0, 1))
                self.table = torch.maximum(self.table, now) if len(self.table) else now
            if how == "counted":
                self.table += 1
            table = far if how in ("seen", "counted") else self.table
            return x + self.pair(table).squeeze(-1).softmax(-1) @ self.norm(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.near, self.fc = nn.Conv2d(3, 8, 2, 2), Near(), nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            x = self.near(self.embed(x).flatten(2).transpose(1, 2))
            return self.fc(x.mean(1))

    torch.manual_seed(seed)
    module = Net().eval()
    with torch.no_grad():
        module.near.pair.weight.fill_(-1.0)
    return module


def rows(torch: Any, module: Any) -> np.ndarray:
    """What its classifier takes."""
    taken: list[Any] = []
    handle = module.fc.register_forward_pre_hook(lambda _m, args: taken.append(args[0].clone()))
    with torch.no_grad():
        module(torch.from_numpy(X).permute(0, 3, 1, 2))
    handle.remove()
    return np.asarray(taken[0])


@pytest.mark.parametrize("how", ["anew", "written", "seen", "counted"])
@pytest.mark.parametrize("cut", [None, "near"])
@pytest.mark.parametrize("head", ["rest", "linear"])
def test_it_computes_what_the_module_does(torch: Any, how: str, cut: str | None, head: str) -> None:
    module = made(how)
    before = module.near.table.clone()
    model = hs.wrap(module, cut, P, head=head, classes=2 if head == "linear" else None)
    assert torch.equal(module.near.table, before)
    assert not module.near.full
    features = hs.forward(model, X, "trunk")["trunk"]
    expected = rows(torch, module)
    assert relative_error(features if cut is None else features.mean(1), expected) < 1e-5
    if head == "rest":
        with torch.no_grad():
            logits = module(torch.from_numpy(X).permute(0, 3, 1, 2)).numpy()
        assert relative_error(hs.forward(model, X, "logits")["logits"], logits) < 1e-5


@pytest.mark.parametrize("how", ["anew", "written"])
def test_a_table_is_the_same_whether_the_module_ran_or_not(torch: Any, how: str) -> None:
    module = made(how)
    first = hs.wrap(module, "near", P)
    module(torch.zeros(1, 3, 16, 16))
    again = hs.wrap(module, "near", P)
    assert first.params.keys() == again.params.keys()
    assert all(np.array_equal(first.params[name], again.params[name]) for name in first.params)
    assert key(first) == key(again)


def test_what_follows_the_batches_is_left_as_it_is() -> None:
    assert hs.wrap(made("counted"), "near", P).params["trunk.near.table"] == 0
    assert "trunk.near.table" not in hs.wrap(made("seen"), "near", P).params


@pytest.mark.parametrize("cut", [None, "near"])
def test_what_the_first_batch_decides_is_refused(cut: str | None) -> None:
    """Without a cut it is an operation, at which the module itself cannot be looked at."""
    with pytest.raises(SettingError, match=r"outputs that differ by .* when it had run on others before"):
        hs.wrap(made("first"), cut, P, head="linear", classes=2)


@pytest.mark.parametrize("how", ["anew", "written"])
def test_it_is_said(how: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "headstart"):
        hs.wrap(made(how), "near", P)
    assert "Net fills 'near.table' in its first run" in caplog.text


@pytest.mark.parametrize("how", ["anew", "written", "seen", "counted"])
@pytest.mark.parametrize("mode", ["cached", "full"])
def test_it_is_trained_and_comes_back(torch: Any, how: str, mode: str, tmp_path: Path) -> None:
    data = hs.data.digits().subset(np.arange(64)).split(0.75, seed=0)
    model = hs.wrap(made(how), None, P, head="linear", classes=data[0].classes)
    run = fit(model, data, tmp_path / "cache", mode=mode)
    other = hs.wrap(made(how), None, P, head="linear", classes=data[0].classes)
    back = hs.load(run.save(tmp_path / "run"), model=other)
    images = (X[:3] * 20 + 120).clip(0, 255).astype(np.uint8)
    assert np.allclose(run.predict(images), back.predict(images), atol=1e-5)


def test_layers_that_a_first_run_makes_are_asked_for(torch: Any) -> None:
    class Late(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = torch.nn.Conv2d(3, 8, 3), None

        def forward(self, x: Any) -> Any:
            x = self.conv(x).mean((2, 3))
            if self.fc is None:
                self.fc = torch.nn.Linear(x.shape[1], 5)
            return self.fc(x)

    module = Late().eval()
    with pytest.raises(SettingError, match=r"Late makes parameter 'fc\.weight' .* run it once on a batch"):
        hs.wrap(module, preprocess=P, head="linear", classes=2)
    assert module.fc is None
    module(torch.zeros(1, 3, 16, 16))
    model = hs.wrap(module, preprocess=P, head="linear", classes=2)
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], rows(torch, module)) < 1e-5


def test_code_may_be_lent_by_a_module_without_numbers(torch: Any) -> None:
    """As `torch.func` has ensembles: `functional_call` of a module on the meta device."""
    from torch.func import functional_call, stack_module_state, vmap

    class Several(torch.nn.Module):
        def __init__(self, bent: Any) -> None:
            super().__init__()
            torch.manual_seed(0)
            members = [torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), bent()) for _ in range(3)]
            stacked, _ = stack_module_state(members)
            self.weight, self.bias = (
                torch.nn.Parameter(stacked[f"0.{name}"].detach()) for name in ("weight", "bias")
            )
            self.__dict__["lent"] = members[0].to("meta")

        def forward(self, x: Any) -> Any:
            def one(weight: Any, bias: Any) -> Any:
                return functional_call(self.lent, {"0.weight": weight, "0.bias": bias}, (x,))

            return vmap(one)(self.weight, self.bias).mean(0).mean((2, 3))

    keys = []
    for bent in (torch.nn.Tanh, torch.nn.ReLU):
        module = Several(bent).eval()
        model = hs.wrap(module, preprocess=P, head="linear", classes=2)
        with torch.no_grad():
            expected = module(torch.from_numpy(X).permute(0, 3, 1, 2)).numpy()
        assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 1e-5
        keys.append(key(model))
    assert keys[0] != keys[1]


@pytest.mark.parametrize("has_run", [False, True])
def test_hooks_that_a_first_run_puts_on(torch: Any, has_run: bool) -> None:
    """As transformers' models watch their layers where several of the states are asked for (Segformer's)."""

    class Kept:
        values: ClassVar[list[Any]] = []

    class Hooked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.hooked = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3), False

        def forward(self, x: Any) -> Any:
            if not self.hooked:
                self.first.register_forward_hook(lambda module, args, value: Kept.values.append(value))
                self.hooked = True
            Kept.values.clear()
            return self.second(self.first(x)).mean((2, 3)) + Kept.values[0].mean((2, 3))

    net = Hooked().eval()
    images = torch.from_numpy(X).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = (net if has_run else Hooked().eval())(images).numpy()
    model = hs.wrap(net, "its end", preprocess=P, head="linear", classes=2)
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 1e-5
    assert net.hooked == has_run
