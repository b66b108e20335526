"""Bits that flip, files that are cut, also under a reader's hands; and no alarm where nothing is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from faults import damage
from faults.campaigns import campaign

import headstart as hs
from headstart.store import FeatureStore, writer


def test_flipped_bits(tmp_path: Path, figure: Any) -> None:
    with figure("single bits flipped, one at a time") as it:
        flips = damage.flip_bits(tmp_path, 10_000, 0)
        it.count = flips.total()
        it.result = "each noticed before a row was used, and named: " + ", ".join(
            f"{count} in {name}" for name, count in flips.most_common()
        )


def test_clean_stores(tmp_path: Path, figure: Any) -> None:
    with figure("clean stores opened, read and verified") as it:
        it.count = damage.open_clean(tmp_path, 1000, 0)
        it.result = "0 false alarms"


def test_cut_shards(tmp_path: Path, figure: Any) -> None:
    with figure("shards cut") as it:
        cuts = damage.truncate(tmp_path, 1000, 0)
        it.count = cuts.total()
        it.result = "DamagedShardError, or all rows read before: " + ", ".join(
            f"{count} {name}" for name, count in cuts.items()
        )


def test_shards_cut_under_a_reader(tmp_path: Path, figure: Any) -> None:
    with figure("shards cut and mended beside a process that reads") as it:
        found = campaign("shrink", tmp_path, times=1000, seed=0)
        it.count = found["cuts"]
        it.result = f"no signal; {found['right']} readings right, {found['refused']} refused"


def test_repair_through_the_command_line(tmp_path: Path, figure: Any, monkeypatch: Any) -> None:
    """Ten ways of damage at once: `verify` names them all, `--repair` sets them aside, and the next extraction
    computes just their rows."""
    monkeypatch.setattr(writer, "SHARD_NBYTES", 20 * 512)
    data = hs.data.digits().subset(np.arange(400))
    model = hs.model("resnet18_half", weights="tinyimagenet", size=32)
    settings: dict[str, Any] = {"backend": "torch", "device": "cpu", "batch_size": 20}
    with figure("damaged shards found and repaired by the command line") as it:
        features = hs.extract(model, data, **settings)
        rows = features.numpy()
        folder = FeatureStore().path / features.key().digest
        shards = sorted(folder.glob("*.safetensors"))
        assert len(shards) == 20
        chance = np.random.default_rng(0)
        for i, path in enumerate(shards[:10]):
            size = path.stat().st_size
            if i < 5:
                damage.flip(path, int(chance.integers(8 * size)))
            elif i < 8:
                os.truncate(path, int(chance.integers(size)))
            else:
                path.rename(path.with_name(f"{i:032x}.safetensors"))
        damaged = sorted({*folder.glob("*.safetensors")} - {*shards[10:]})
        report = tmp_path / "report.json"

        def verify(*options: str) -> int:
            command = [
                sys.executable,
                "-P",
                "-m",
                "headstart",
                "cache",
                "verify",
                "--json",
                str(report),
                *options,
            ]
            return subprocess.run(command, capture_output=True, timeout=120).returncode

        assert verify() == 1
        assert sorted(Path(path) for path, _ in json.loads(report.read_text())["damaged"]) == damaged
        assert verify("--repair") == 0
        set_aside = json.loads(report.read_text())["set_aside"]
        assert sorted(Path(path).name for path in set_aside) == [path.name for path in damaged]
        assert all(Path(path).is_file() for path in set_aside) and not any(path.exists() for path in damaged)
        assert verify() == 0
        again = hs.extract(model, data, **settings)
        assert (again.stats.extracted, again.stats.reused) == (200, 200)
        assert np.array_equal(again.numpy(), rows)
        it.count, it.result = 10, "all named, set aside, and their 200 rows of 400 computed again, and no others"
