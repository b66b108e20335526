"""What watches a training may fail; the training does not."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import ProfileError, WatchingWarning
from headstart.contract import registry
from headstart.store.keys import params_digest
from headstart.testing import small_data

pytestmark = pytest.mark.of("torch")  # the loop is core's


@pytest.fixture(scope="module")
def settings(backend: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cache = tmp_path_factory.mktemp("cache")
    return {"backend": backend, "device": "cpu", "cache": cache, "epochs": 2, "batch_size": 32}


def fit(settings: dict[str, Any], **more: Any) -> Any:
    train, val = small_data()
    return hs.fit(hs.model("lenet", classes=train.classes), train, val, **settings, **more)


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def plain(settings: dict[str, Any]) -> Any:
    """The run that nothing watches."""
    return fit(settings)


BOARD, FILE = "headstart.training.tensorboard.Board", "tensorboardX.event_file_writer.EventsWriter"


@pytest.mark.parametrize("when", [f"{BOARD}.picture", f"{BOARD}.start", f"{BOARD}.epoch", f"{FILE}.flush"])
def test_a_full_disk_under_tensorboard(settings: dict[str, Any], plain: Any, tmp_path: Path, when: str) -> None:
    disk = pytest.MonkeyPatch()

    def full_once(*_: object, **__: object) -> None:
        disk.undo()
        full()

    disk.setattr(when, full_once)
    with pytest.warns(WatchingWarning, match="TensorBoard's files .*No space left on device") as told:
        run = fit(settings, tensorboard=tmp_path / "board")
    assert len(told) == 1
    assert len(run.history) == 2
    assert params_digest(run.model.params) == params_digest(plain.model.params)


@pytest.mark.parametrize("when", ["enter", "exit"])
def test_a_profiler_that_fails(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, when: str
) -> None:
    @contextmanager
    def profile(folder: Path) -> Any:
        if when == "enter":
            raise ProfileError(backend, "another one is running")
        yield
        full()

    monkeypatch.setattr(registry.load(backend), "profile", profile)
    with pytest.warns(WatchingWarning, match="the profiler's trace"):
        run = fit(settings, profile=tmp_path / "trace")
    assert np.isfinite(run.history[-1].loss)


def test_an_error_of_the_callers_own_passes(settings: dict[str, Any], tmp_path: Path) -> None:
    def on_epoch(stage: str, record: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(settings, on_epoch=on_epoch, tensorboard=tmp_path / "board", profile=tmp_path / "trace")
