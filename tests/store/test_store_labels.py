"""What trunk.json of a stranger's cache says, in every command that shows it: it steers no terminal, is no markup,
and stops nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.damage import store
from PIL import Image

from headstart.cli import main as cli
from headstart.store import FeatureStore, open_shard
from headstart.store.description import description_of
from headstart.store.keys import spec_digest
from headstart.store.shard import write_shard

pytestmark = pytest.mark.neutral

HOSTILE: list[Any] = [
    "[/x]",
    "\x1b[2J\x1b]0;title\x07",
    "\ud800",
    "m" * 3_000,
    {"a": [1, {"[/]": None}]},
    [[], 7],
    None,
]


def forged(root: Path, label: dict[str, Any], spec: dict[str, Any]) -> None:
    """A sound trunk under another description."""
    made = store(root / "made", "float16", (5,), [4], 0)
    (path,) = made.folder.path.glob("*.safetensors")
    old = open_shard(path)
    rows = made.folder.read(old.ids)
    spec = {**made.folder.key.spec, **spec}
    folder = root / "features" / spec_digest(spec)
    folder.mkdir(parents=True)
    (folder / "trunk.json").write_bytes(description_of(spec, label))
    write_shard(
        folder,
        key_digest=folder.name,
        ids=old.ids,
        checksums=old.checksums,
        blocks=[rows],
        provenance={"backend": "x"},
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), ord(name), np.uint8)).save(tmp_path / "photos" / name / "0.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("place", ["own", "shared"])
@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value)[:12])
def test_a_strangers_words(
    value: Any,
    place: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "root"
    key = value if isinstance(value, str) and len(value) < 20 else "other"
    label = {"model": value, "cut": value, "weights": value, "key": "forged", "rows": "forged", key: value}
    forged(root, label, {"graph": value, "views": {"view": value, "seed": value}, "preprocess": value, key: value})
    monkeypatch.setenv("HEADSTART_CACHE" if place == "own" else "HEADSTART_CACHE_SHARED", str(root))
    (info,) = FeatureStore().infos()
    figures = tmp_path / "figures.json"
    commands: list[list[str]] = [
        ["ls", "--json", str(figures)],
        ["info", info.key],
        ["verify"],
        ["explain", "--data", str(photos), "--model", "lenet", "--weights", "none"],
        ["gc", "--max-size", "0"],
        ["gc", "--data", str(photos)],
    ]
    for command in commands:
        monkeypatch.setattr("sys.argv", ["headstart", "cache", *command])
        cli.main()
        told = "".join(capsys.readouterr())
        assert all(sign.isprintable() or sign == "\n" for sign in told), command
        if command[0] == "ls":
            assert json.loads(figures.read_text())[0]["key"] == info.key
