"""Names of classes, files, models and trunks come from anywhere. Whatever a command prints of them steers no
terminal and is no markup, and no command falls over them."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.cli import main as cli
from headstart.common.outputs import write_json
from headstart.store import FeatureStore

pytestmark = pytest.mark.neutral

NAMES = ("\x1b[31mred\x1b[0m", "[red][bold]b", "bell\x07\x9b2J", "\u202egnp.exe", ":smile: é \u2028 x")
Result = tuple[int, str, str]
UNDECODABLE = os.fsdecode(b"caf\xe9\xff.png")  # half of a character, as Python has it


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                cli.main()
        except SystemExit as leave:
            code = leave.code
        out, err = capsys.readouterr()
        for text in (out, err):
            bad = [line for line in text.split("\n") if not line.isprintable()]
            assert not bad, (arguments, bad)
        assert "Traceback" not in err
        return int(code or 0), out, err

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder a class, and one file that is no image, all of them hostile by name."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos [" / f"x] {NAMES[0]}"  # "[/x]"
    for k, name in enumerate(NAMES[:2]):
        (root / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(100 * k, 100 * k + 100, (16, 16, 3), np.uint8)
            file = UNDECODABLE if i == 0 else f"{i}{NAMES[i - 1]}.png"
            Image.fromarray(pixels).save(root / name / file, "PNG")
    (root / NAMES[0] / f"broken{NAMES[3]}.png").write_bytes(b"\x89PNG\r\n")
    return root


def test_commands_that_train(run: Any, photos: Path, tmp_path: Path, backend: str) -> None:
    out = tmp_path / "out [" / f"x]{NAMES[2]}"
    how = ("--data", photos, "--on-error", "skip", "--model", "lenet", "--backend", backend, "--device", "cpu")
    small = (*how, "--epochs", 1, "--batch-size", 4)
    code, said, err = run("fit", *small, "--out", out / "run", "--json", out / "fit.json")
    assert code == 0, err
    assert "\\x1b[31mred" in said + err
    assert json.loads((out / "fit.json").read_text())["data"]["classes"] == sorted(NAMES[:2])
    code, said, err = run(
        "predict", "--run", out / "run", *sorted((photos / NAMES[1]).iterdir()), "--json", out / "p"
    )
    assert code == 0, err
    assert "[red][bold]b" in said and ":smile:" in said
    assert run("extract", *how, "--save", out / "saved", "--weights", "none")[0] == 0
    assert run("sweep", *small, "--lr", "0.01,0.1", "--out", out / "best")[0] == 0
    assert run("plan", *how, "--cuts", "relu4", "--epochs", 1)[0] == 0
    for command in (("ls",), ("verify",), ("explain", *how[:6]), ("gc", "--max-size", "0"), ("gc", *how[:4])):
        code, _, err = run("cache", *command)
        assert code == 0, err
    for info in FeatureStore().infos():
        assert run("cache", "info", info.key)[0] == 0


def test_commands_that_only_read(run: Any, photos: Path, tmp_path: Path) -> None:
    hostile = "".join(NAMES) + "[/x]"
    row = {
        "label": hostile, "backend": hostile, "mode": hostile, "cut": hostile, "val_accuracy": 0.5,
        "seconds_per_epoch": {"total": 1.0}, "history": [], "settings": {},
    }  # fmt: skip
    comparison = {
        "headstart": hostile, "created": hostile, "command": [hostile], "machine": {}, "versions": {hostile: {}},
        "data": {"name": hostile, "classes": list(NAMES)}, "model": {"name": hostile}, "settings": {},
        "rows": [row],
        "errors": {hostile: {"type": "crash", "message": hostile}}, "pictures": {},
    }  # fmt: skip
    figures = tmp_path / f"figures{hostile.replace('/', '')}.json"
    write_json(figures, comparison)
    assert run("report", figures)[0] == 0
    for arguments in (
        ("models", hostile),
        ("weights", "ls", hostile),
        ("weights", "fetch", hostile),
        ("weights", "rm", hostile, "--model", "lenet"),
        ("weights", "import", tmp_path / hostile, "--model", "lenet"),
        ("fit", "--data", tmp_path / hostile),
        ("fit", "--mode", hostile),
        ("compare", "--modes", hostile),
        ("compare", "--data", tmp_path / hostile),
        ("predict", "--run", tmp_path / hostile, "x.jpg"),
        ("report", tmp_path / hostile),
        ("cache", "info", hostile),
        ("cache", "gc", "--max-size", hostile),
        ("fit", "--epochs", hostile),
        ("fit", f"--{hostile}"),
        (hostile,),
    ):
        code, _, err = run(*arguments)
        assert (code, bool(err)) == (2, True), arguments
