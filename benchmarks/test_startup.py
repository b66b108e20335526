"""What a user waits for before anything happens: Python itself, the import, `--help`, and a store that is warm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from table import table

from headstart.store import FeatureStore, array_to_ids, trunk_key

ROWS = 50_000
OPEN = """
import sys, time
start = time.perf_counter()
from headstart.store import FeatureStore
from headstart.store.description import read_key
(info,) = FeatureStore(sys.argv[1]).infos()
folder = FeatureStore(sys.argv[1]).folder(read_key(info.path))
assert len(folder.ids()) == int(sys.argv[2])
"""
# (what, limit in seconds). Twice what the README reports, for machines that are busy.
COMMANDS = {
    "python": (["-c", "pass"], 1.0),
    "import headstart": (["-c", "import headstart"], 0.3),
    "headstart --help": (["-m", "headstart", "--help"], 0.6),
}


medians: dict[str, float] = {}


def record(what: str, target: str | None, more: str = "") -> None:
    """Beside Python itself, which is in all of them."""
    peers = None if what == "python" else medians.get("python")
    peer = "" if peers is None else "python -c pass"
    table.record("starting", what + more, medians[what], peer=peer, peers=peers, target=target, cost=True)


def environment(bytecode: Path) -> dict[str, str]:
    """With bytecode kept, as pip leaves a package that it installs; the warm-up writes it. Environments that keep
    none, as many of containers do, would have it compiled at every start: 20 of 150 ms."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(bytecode), "COLUMNS": "100"}


def run(arguments: list[str], environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)


@pytest.mark.parametrize("what", COMMANDS)
def test_commands(benchmark: Any, what: str, tmp_path: Path) -> None:
    benchmark.group = "starting"
    arguments, limit = COMMANDS[what]
    benchmark.pedantic(run, args=(arguments, environment(tmp_path)), rounds=9, warmup_rounds=1)
    if benchmark.stats is not None:
        medians[what] = benchmark.stats.stats.median
        record(what, None if what == "python" else what)
        assert medians[what] <= limit


def test_opening_a_warm_store(benchmark: Any, tmp_path: Path) -> None:
    """A process that starts, imports, and lists the ids of 50,000 rows."""
    benchmark.group = "starting"
    settings: dict[str, Any] = {"graph": ["x"], "weights_digest": "0" * 32, "preprocess": {}}
    key = trunk_key(**settings, precision="float32", dtype="float16", label={"model": "startup"})
    ids = array_to_ids(np.random.default_rng(0).integers(0, 256, (ROWS, 16), np.uint8))
    with FeatureStore(tmp_path).folder(key).writer((256,), "float16", {}) as out:
        out.add(ids, np.zeros((ROWS, 256), np.float16))
    arguments = ["-c", OPEN, str(tmp_path), str(ROWS)]
    benchmark.pedantic(run, args=(arguments, environment(tmp_path / "bytecode")), rounds=9, warmup_rounds=1)
    if benchmark.stats is not None:
        medians["listing a warm store"] = benchmark.stats.stats.median
        record("listing a warm store", "warm store", f", {ROWS:,} rows")
        assert benchmark.stats.stats.median <= 1.0
