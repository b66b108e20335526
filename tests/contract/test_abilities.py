"""A backend that lacks what is optional: core's other way where there is one, else one sentence to the user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import MissingAbilityError
from headstart.contract import registry


@pytest.fixture
def poor(backend: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backend, as if it had nothing that is optional."""
    framework: Any = registry.load(backend)
    plain = replace(registry.describe(backend), abilities=frozenset(), exports={})
    monkeypatch.setattr(framework, "_description", plain)
    described = registry._described
    monkeypatch.setattr(registry, "_described", lambda name: plain if name == backend else described(name))
    for method in ("heads", "memory", "profile", "owns", "inputs", "wrap", "attempt", "exports"):
        monkeypatch.delattr(type(framework._inner), method, raising=False)
    return backend


def test_what_cannot_be_done_is_said(poor: str, tmp_path: Path) -> None:
    model, data = hs.model("lenet", classes=10), hs.data.digits().subset(range(24))
    settings: dict[str, Any] = {"backend": poor, "device": "cpu", "epochs": 2, "batch_size": 8}
    said = f"backend '{poor}' cannot"
    with pytest.raises(MissingAbilityError, match=rf"^{said} record a profile; leave out profile=$"):
        hs.fit(model, data, None, **settings, profile=tmp_path / "profile")
    native = hs.native(model, backend=poor)
    with pytest.raises(MissingAbilityError, match=rf"^{said} wrap modules of users' own; name a model"):
        hs.wrap(native, classes=3)
    features = hs.extract(model, data, backend=poor, device="cpu")
    with pytest.raises(MissingAbilityError, match=rf"^{said} hand out features; expected one of"):
        features.to(poor)


@pytest.mark.slow("keras", "jax")  # core does it
def test_heads_are_trained_one_after_the_other(backend: str, request: pytest.FixtureRequest) -> None:
    """To the same weights as side by side."""
    model, data = hs.model("lenet", classes=10), hs.data.digits().subset(range(48))
    features = [
        hs.extract(model, part, backend=backend, device="cpu", dtype="float32") for part in data.split(0.7)
    ]
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, "backend": backend, "device": "cpu"}

    def losses() -> list[float]:
        swept = hs.sweep(model, *features, grid={"lr": [0.01, 0.1]}, **settings)
        return [run.history[-1].loss for run in swept.runs]

    together = losses()
    request.getfixturevalue("poor")
    np.testing.assert_allclose(losses(), together, rtol=1e-4)
