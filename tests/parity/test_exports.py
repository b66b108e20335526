"""A run leaves as a file of another framework than that which trained it, and is held to what its own computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import headstart as hs
from headstart.training.history import History, Record, Seconds


def saved_run(backend: str, folder: Path) -> Path:
    history = History([Record(1, 0.5, 0.5, 0.5, 0.5, Seconds(), 0.1, (0.5,))])
    hs.Run(hs.model("lenet", classes=4), "cached", "relu4", backend, history).save(folder)
    return folder


def test_a_run_leaves_by_way_of_another_framework(tmp_path: Path) -> None:
    run = hs.load(saved_run("keras", tmp_path / "run"), "keras")
    exported = run.export(tmp_path / "out.stablehlo", device="cpu")
    assert exported.verification is not None and exported.verification.same == 63


@pytest.mark.slow  # the one above goes the same way, and test_log listens to each framework alone
def test_of_what_the_other_framework_says_nobody_hears(tmp_path: Path) -> None:
    """TensorFlow, while it is imported, writes to standard error past Python."""
    words = ["export", str(saved_run("torch", tmp_path / "run")), str(tmp_path / "out.keras"), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-m", "headstart", *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "63 of 63 answers the same" in done.stdout
