"""What is deleted only after a question, on a terminal."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import headstart
from safetensors.numpy import save_file

import headstart as hs
from headstart.models import imported

pytestmark = pytest.mark.neutral


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def mine(tmp_path: Path) -> None:
    """Imported weights of that name."""
    params = hs.model("lenet", classes=3).params
    save_file({name: np.asarray(value) for name, value in params.items()}, tmp_path / "own.safetensors")
    result = headstart("weights", "import", tmp_path / "own.safetensors", "--model", "lenet", "--name", "mine")
    assert result.code == 0, result.err


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(("answer", "goes"), [("y\n", True), ("Yes\n", True), ("n\n", False), ("", False)])
def test_weights_go_after_a_yes(answer: str, goes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    result = headstart("weights", "rm", "mine", "--model", "lenet")
    assert result.code == 0 and result.err.startswith("remove ") and result.err.endswith("? [y/N]\n")
    assert imported.names("lenet") == ([] if goes else ["mine"])
    assert ("removed " in result.out) == goes


@pytest.mark.usefixtures("mine")
def test_nothing_is_asked_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert headstart("weights", "rm", "mine", "--model", "lenet").err == ""
    assert imported.names("lenet") == ["mine"]
