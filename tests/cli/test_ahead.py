"""A framework's shared libraries are loaded while a command's words are read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headstart.cli import ahead
from headstart.contract import registry
from headstart.contract.description import Description

FIT = ("fit", "--data", "photos")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "cpus", lambda: 2)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Two backends of one package; the files that were loaded, of which one is not there."""
    package = tmp_path / "slow_to_load"
    package.mkdir()
    for name in ("__init__.py", "first.so", "second.so"):
        (package / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[str] = []
    monkeypatch.setattr(ahead.ctypes, "CDLL", lambda name: seen.append(Path(name).name))
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    libraries = {"slow": ("first.so", "gone.so", "second.so"), "plain": (), "other": ("of_mac.dylib", "first.so")}
    for name, files in libraries.items():
        registry.register(name, Description("nowhere", ("slow_to_load",), (), "pip", libraries=files))
    monkeypatch.setenv(registry.VARIABLE, "slow")
    return seen


@pytest.mark.neutral
@pytest.mark.parametrize(
    "words",
    [
        FIT,
        (*FIT, "--backend", "slow"),
        (*FIT, "--backend=plain", "--backend", "slow"),
        ("predict", "a.jpg", "--run", "run"),
    ],
)
def test_they_are_loaded_in_their_order(loaded: list[str], words: tuple[str, ...]) -> None:
    thread = ahead.load_ahead(words)
    assert thread is not None
    thread.join()
    assert loaded == ["first.so", "second.so"]


@pytest.mark.neutral
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("cache", "ls"),
        ("models", "fit"),
        ("fit", "--help"),
        (*FIT, "--devices=all"),
        (*FIT, "--backend", "plain"),
        (*FIT, "--backend=other"),  # as on another system
        (*FIT, "--backend", "nobody"),  # which the command says
        (*FIT, "--backend"),
        ("predict", "--run", "flowers.ONNX", "photos"),
    ],
)
def test_nothing_is_where_nothing_is_needed(
    loaded: list[str], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if words[-1:] == ("--backend",):
        monkeypatch.delenv(registry.VARIABLE)  # several are there, and none is named
    assert ahead.load_ahead(words) is None
    assert not loaded


@pytest.mark.neutral
def test_one_core_has_no_time_for_it(loaded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "cpus", lambda: 1)
    assert ahead.load_ahead(FIT) is None


@pytest.mark.neutral
def test_a_library_that_cannot_be_loaded_is_left_to_the_framework(
    loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(name: str) -> None:
        loaded.append(Path(name).name)
        raise OSError("undefined symbol")

    monkeypatch.setattr(ahead.ctypes, "CDLL", fails)
    thread = ahead.load_ahead(FIT)
    assert thread is not None
    thread.join()
    assert loaded == ["first.so"]


RUN = """
import sys
from headstart.cli import ahead
ahead.cpus = lambda: 2
thread = ahead.load_ahead(["fit", "--backend", "torch"])
assert thread is not None
thread.join()
assert "torch" not in sys.modules
print("libtorch_cpu" in open("/proc/self/maps").read())
import torch
x = torch.randn(300, 300)
print(bool(torch.allclose(x @ x.inverse(), torch.eye(300), atol=0.05)))
print(torch.nn.Conv2d(3, 8, 3)(torch.ones(1, 3, 9, 9)).shape[1])
"""


@pytest.mark.of("torch")
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads what Linux says of a process")
def test_torchs_own_are_loaded_and_it_computes() -> None:
    pytest.importorskip("torch")
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True", "8"]
