"""A shared cache that fails at every moment of a streamed training, in every way, many times over: the rows are
what they are without that cache, and the training ends."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_shared_failures import AT_REST, CUT, SETTINGS, STREAMED, data, made, model, undisturbed  # noqa: F401

import headstart as hs
from headstart.data import Dataset
from headstart.models import Model
from headstart.store import snapshot

FAULTS = [name for name in AT_REST if name not in ("another trunk",)]


@pytest.mark.parametrize("seed", range(int(os.environ.get("HEADSTART_SHARED_FAULTS", "60"))))
def test_faults_at_random_moments(
    seed: int,
    data: Dataset,  # noqa: F811
    model: Model,  # noqa: F811
    made: Path,  # noqa: F811
    backend: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the nth reading of rows, whatever that is for, one or two things go wrong with the share."""
    chance = np.random.default_rng(seed)
    team = tmp_path / "team"
    shutil.copytree(made, team)
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", str(team))
    moments = sorted(chance.integers(0, 60, 2).tolist())
    kinds = ["gone", FAULTS[chance.integers(0, len(FAULTS))]]
    calls, real = [0], snapshot.Shard.read_into

    def reading(self: Any, *arguments: Any) -> Any:
        calls[0] += 1
        while moments and calls[0] > moments[0] and team.is_dir():
            moments.pop(0)
            snapshot.Shard.read_into = real  # for what the fault itself reads
            AT_REST[kinds.pop()](team)
            snapshot.Shard.read_into = reading
        return real(self, *arguments)

    expected = undisturbed(made, data, model, backend, tmp_path, **STREAMED)
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(snapshot.Shard, "read_into", reading)
        features = hs.extract(model, data, CUT, backend=backend, **SETTINGS)
        run = hs.fit(model, data, backend=backend, **SETTINGS, **STREAMED)
        rows = features.numpy()
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", "")
    right = hs.extract(model, data, CUT, backend=backend, cache=made, **SETTINGS).numpy()
    np.testing.assert_allclose(rows, right, rtol=1e-5, atol=1e-6)
    # Where rows lie decides in which order they are streamed, and that changes when they are computed anew.
    assert run.history[-1].loss == pytest.approx(expected.history[-1].loss, rel=0.2)
