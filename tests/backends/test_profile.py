"""`profile`: the framework's own trace of one epoch a stage, where TensorBoard and torch's viewers look for it."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import ProfileError, SettingError
from headstart.contract import registry
from headstart.testing import small_data

Fit = Callable[..., Any]


@pytest.fixture(scope="module")
def fit(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """Lenet's last layer on cached features of the digits."""
    model, cache, (train, val) = hs.model("lenet", classes=10), tmp_path_factory.mktemp("cache"), small_data()

    def call(**settings: Any) -> Any:
        given = {"backend": backend, "device": "cpu", "cache": cache, "epochs": 3, "batch_size": 24}
        return hs.fit(model, train, val, **{**given, **settings})

    return call


def engine(backend: str) -> str:
    if backend != "keras":
        return backend
    import keras

    return str(keras.backend.backend())


def trace(folder: Path, backend: str) -> Path:
    """The only one in a folder, where it is looked for."""
    pattern = "*.pt.trace.json.gz" if engine(backend) == "torch" else "plugins/profile/*/*.xplane.pb"
    (found,) = folder.glob(pattern)
    return found


def operators(path: Path) -> str:
    """The names in a trace."""
    if path.suffix == ".gz":
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        return "\n".join(event["name"] for event in events if event.get("cat") == "cpu_op")
    return path.read_bytes().decode("latin-1")


def test_the_trace_of_a_run(fit: Fit, backend: str, tmp_path: Path) -> None:
    """Of one epoch: that many steps' products."""
    plain, profiled = fit(), fit(profile=tmp_path / "traces")
    assert profiled.history["step_losses"] == plain.history["step_losses"]
    assert profiled.history["val_loss"] == plain.history["val_loss"]
    assert profiled.settings.keys() == plain.settings.keys()
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["head"]
    names = operators(trace(tmp_path / "traces" / "head", backend))
    if engine(backend) == "torch":
        steps = [name for name in names.split("\n") if "AdamW.step" in name or name == "aten::_fused_adamw_"]
        assert len(steps) == 5, "one epoch's, not three"
    else:
        known = {"tensorflow": "MatMul", "jax": "_whole_epoch"}[engine(backend)]
        assert known in names


@pytest.mark.slow("keras", "jax")  # core chooses them
def test_which_epochs_are_profiled(fit: Fit, backend: str, tmp_path: Path, monkeypatch: Any) -> None:
    """The second of each stage, or the only one."""
    chosen = registry.load(backend)
    begun: list[str] = []
    real = chosen.profile

    def profile(folder: Path) -> Any:
        begun.append(folder.name)
        return real(folder)

    monkeypatch.setattr(chosen, "profile", profile)
    fit(
        mode="staged",
        epochs=1,
        head_epochs=3,
        profile=tmp_path,
        on_epoch=lambda stage, record: begun.append(f"{stage} {record.epoch}"),
    )
    assert begun == ["head 1", "head", "head 2", "head 3", "all", "all 1"]
    for stage in ("head", "all"):
        assert operators(trace(tmp_path / stage, backend))


def test_another_profiler_is_running(fit: Fit, backend: str, tmp_path: Path) -> None:
    refused = pytest.raises(ProfileError, match=r"the profiler of \w+ cannot be started: .*leave out profile=")
    with registry.load(backend).profile(tmp_path / "first"), refused:
        fit(profile=tmp_path / "second", epochs=1)
    # ... and the first one has gone on, and another can be started.
    assert trace(tmp_path / "first", backend).stat().st_size
    fit(profile=tmp_path / "third", epochs=1)
    error = ProfileError("jax", "one is running")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_an_epoch_that_fails_ends_the_profiler(fit: Fit, backend: str, tmp_path: Path) -> None:
    chosen = registry.load(backend)
    with pytest.raises(ZeroDivisionError), chosen.profile(tmp_path / "first"):
        _ = 1 / 0
    with chosen.profile(tmp_path / "second"):
        chosen.place("cpu", "float32")
    assert trace(tmp_path / "second", backend)


@pytest.mark.parametrize("folder", ["", "file/traces", 3], ids=["empty", "in-a-file", "number"])
def test_a_folder_that_cannot_be_made(fit: Fit, folder: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Is named before anything is computed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=rf"profile={folder!r}"):
        fit(profile=folder, cache=tmp_path / "new")
    assert not list((tmp_path / "new").rglob("*.safetensors"))


def test_the_result_is_a_run(fit: Fit, tmp_path: Path) -> None:
    run = fit(profile=tmp_path, epochs=1)
    assert np.isfinite(run.history[0].loss)
    assert [path.name for path in tmp_path.iterdir()] == ["head"]
