"""torch's fused functions as headstart calls them take the steps that torch's own classes take, to the bit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs

pytestmark = pytest.mark.of("torch")
SETTINGS = [
    hs.SGD(momentum=0.0), hs.SGD(weight_decay=0.1), hs.SGD(nesterov=True), hs.AdamW(beta1=0.8, epsilon=1e-3)
]  # fmt: skip
RATES = [0.1, 0.1, 0.02, 0.05]


def torchs_own(settings: Any, groups: dict[float, list[Any]]) -> Any:
    import torch

    params = [{"params": parameters, "multiple": multiple} for multiple, parameters in groups.items()]
    o = settings
    if isinstance(o, hs.SGD):
        return torch.optim.SGD(params, o.lr, o.momentum, nesterov=o.nesterov, weight_decay=o.weight_decay)
    return torch.optim.AdamW(params, o.lr, (o.beta1, o.beta2), o.epsilon, o.weight_decay)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("fused", [True, False])
def test_every_step_is_torchs(settings: Any, fused: bool, backend: str) -> None:
    """With two multiples of the rate, a rate that changes, and a parameter that never has a gradient."""
    import torch

    from headstart.backends.torch.optimizers import FusedOptimizer

    rng = np.random.default_rng(0)
    starts = [rng.standard_normal(shape).astype(np.float32) for shape in ((4, 3), (5,), (2, 2), (7,))]
    courses = []
    for mine in (True, False):
        first, second, third, idle = parameters = [torch.tensor(start, requires_grad=True) for start in starts]
        groups = {1.0: [first, idle, second], 0.25: [third]}
        ours = FusedOptimizer(settings, groups, settings.weight_decay)
        theirs = torchs_own(settings, groups)
        for group in theirs.param_groups:
            group["fused"] = fused
        gradients = np.random.default_rng(1)
        course = []
        for rate in RATES:
            (ours if mine else theirs).zero_grad()
            assert all(parameter.grad is None for parameter in parameters)
            for parameter in (first, second, third):
                drawn = gradients.standard_normal(tuple(parameter.shape)).astype(np.float32)
                (parameter * torch.tensor(drawn)).sum().backward()
            if mine:
                ours.step(rate)
            else:
                for group in theirs.param_groups:
                    group["lr"] = rate * group["multiple"]
                theirs.step()
            course.append([parameter.detach().numpy().copy() for parameter in parameters])
        courses.append(course)
        np.testing.assert_array_equal(course[-1][3], starts[3])
        kept = {id(tensor) for tensor in ours.tensors()}
        assert len(kept) == (0 if not mine or settings == SETTINGS[0] else 9 if settings == SETTINGS[3] else 3)
    for mine_now, theirs_now in zip(*courses, strict=True):
        for one, other in zip(mine_now, theirs_now, strict=True):
            if fused:
                np.testing.assert_array_equal(one, other)
            else:
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_training_makes_none_of_torchs_classes(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To make one, torch imports its compiler, which takes as long as importing torch."""
    import torch

    monkeypatch.setattr(torch.optim.Optimizer, "__init__", lambda *_, **__: pytest.fail("a class of torch's"))
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # importing it is an error
    data = hs.data.digits().subset(np.arange(32))
    model = hs.model("lenet", classes=10, size=32)
    for optimizer in ("sgd", "adamw"):
        hs.fit(model, data, None, mode="full", epochs=1, optimizer=optimizer, device="cpu", cache=tmp_path)
    val = hs.data.digits().subset(np.arange(500, 532))
    hs.sweep(model, data, val, cut="relu4", grid={"lr": [0.1, 0.01]}, epochs=1, device="cpu", cache=tmp_path)
