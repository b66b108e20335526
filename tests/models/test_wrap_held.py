"""Torch modules that hold what a run of them changes: tables that are None until then, counters, what came last,
generators of random numbers."""

from __future__ import annotations

import copy
import functools
import random
from typing import Any

import numpy as np
import pytest
from own import key

import headstart as hs
from headstart.common.errors import SettingError
from headstart.testing import relative_error

pytestmark = [pytest.mark.of("torch"), pytest.mark.filterwarnings("ignore:in training Net does")]

X = np.random.default_rng(0).standard_normal((4, 5)).astype("f")
GENERATORS: dict[str, Any] = {
    "random": random.Random,
    "training": random.Random,
    "numpy": np.random.default_rng,
    "state": np.random.RandomState,
    "in a list": lambda seed: [random.Random(seed)],
}
LATE = r"outputs that differ by .* when it had run on others before"


def made(how: str, looks: bool = False) -> Any:
    """A linear layer, something that is done with what it gives, and a classifier. `looks`: it is not traced."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body, self.fc = nn.Linear(5, 12), nn.Linear(12, 3)
            self.kept: dict[int, Any] = {}
            self.ready, self.table, self.count = False, None, 0
            self.register_buffer("late", None, persistent=how != "late, not saved")
            if how in GENERATORS:
                self.random = GENERATORS[how](0)

        @functools.cached_property
        def made(self) -> Any:
            return torch.arange(12) / 12

        def forward(self, x: Any) -> Any:
            if looks and x.sum() > 1e9:
                x = x * 2
            return self.fc(self.use(self.body(x)))

        def use(self, x: Any) -> Any:
            match how.partition(",")[0]:
                case "late":
                    self.late = torch.arange(12) / 12 if self.late is None else self.late
                    return x * self.late
                case "attribute":
                    self.table = torch.arange(12) / 12 if self.table is None else self.table
                    return x * self.table
                case "flag":
                    if not self.ready:
                        self.table, self.ready = torch.arange(12) / 12, True
                    return x * self.table
                case "dict":
                    if x.shape[1] not in self.kept:
                        self.kept[x.shape[1]] = torch.arange(12) / 12
                    return x * self.kept[x.shape[1]]
                case "property":
                    return x * self.made
                case "last":
                    self.table = x.detach()
                case "last buffer":
                    self.late = x.detach()
                case "rows":
                    self.count = len(x)
                case "first":
                    self.table = x.mean(0).detach() if self.table is None else self.table
                    return x - self.table
                case "first buffer":
                    self.late = x.mean(0).detach() if self.late is None else self.late
                    return x - self.late
                case "count":
                    self.count += 1
                    return x * self.count
                case "random" | "numpy":
                    return x * self.random.random()
                case "state":
                    return x[:, torch.from_numpy(self.random.permutation(12))]
                case "in a list":
                    return x * self.random[0].random()
                case "training":
                    return x * self.random.random() if self.training else x
            return x

    return Net().eval()


def wrapped(module: Any, cut: str | None) -> Any:
    return hs.wrap(
        module, cut, example=X, head="linear", classes=2, name="it" if hasattr(module, "random") else None
    )


def given(module: Any, cut: str | None) -> np.ndarray:
    """What the module itself gives at the end, or to its classifier."""
    import torch

    taken: list[Any] = []
    handle = module.fc.register_forward_hook(lambda _m, args, value: taken.extend((args[0], value)))
    with torch.no_grad():
        module(torch.from_numpy(X))
    handle.remove()
    return taken[cut is not None].numpy()


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("cut", [None, "its end"])
@pytest.mark.parametrize("how", ["late", "late, not saved", "attribute", "flag", "dict", "property"])
def test_what_a_first_run_fills_changes_no_key(how: str, cut: str | None, looks: bool) -> None:
    import torch

    module = made(how, looks)
    features, first = [], wrapped(module, cut)
    assert module.late is None
    assert not (module.table is not None or module.kept or module.ready)
    module(torch.ones(3, 5))
    again = wrapped(module, cut)
    features = [hs.forward(model, X, "trunk")["trunk"] for model in (first, again)]
    assert key(first) == key(again)
    assert first.params.keys() == again.params.keys()
    for rows in features:
        assert relative_error(rows, given(module, cut)) < 1e-5


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("cut", [None, "its end"])
@pytest.mark.parametrize("how", ["last", "last buffer", "rows"])
def test_what_follows_the_batches_is_left_as_it_is(how: str, cut: str | None, looks: bool) -> None:
    module = made(how, looks)
    features = hs.forward(wrapped(module, cut), X, "trunk")["trunk"]
    assert module.table is None
    assert module.late is None
    assert relative_error(features, given(module, cut)) < 1e-5


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("cut", [None, "its end"])
@pytest.mark.parametrize("how", ["first", "first buffer", "count", "random", "numpy", "state", "in a list"])
def test_what_depends_on_earlier_runs_is_refused(how: str, cut: str | None, looks: bool) -> None:
    with pytest.raises(SettingError, match=f"not deterministic|called more than once|{LATE}"):
        wrapped(made(how, looks), cut)


def test_what_the_first_batch_decided_stays_so() -> None:
    import torch

    module = made("first")
    module(torch.ones(3, 5))
    assert relative_error(hs.forward(wrapped(module, None), X, "trunk")["trunk"], given(module, None)) < 1e-5


def test_generators_are_as_they_were() -> None:
    module = made("training")
    module.train()
    before = copy.deepcopy(module.random.getstate())
    with pytest.warns(UserWarning, match="cannot follow"):
        wrapped(module, None)
    assert module.random.getstate() == before
