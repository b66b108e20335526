"""Runs that are saved over each other, by processes that are killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from faults.campaigns import fork

import headstart as hs
from headstart.store.keys import params_digest
from headstart.training.history import History, Record, Seconds
from headstart.training.run import Run


def run_of(seed: int) -> Run:
    """A run whose record says which weights are its own; no framework is needed for it."""
    model = hs.model("lenet", classes=[f"{seed}-a", f"{seed}-b"], seed=seed)
    record = Record(1, 0.5, 0.5, 0.5, seed / 1000, Seconds(), 0.1, (0.5,))
    settings = {"weights": params_digest(model.params)}
    return Run(model, "full", None, "torch", History([record]), settings=settings)


def assert_whole(folder: Path, seeds: tuple[int, ...]) -> int:
    """The folder holds one of the runs, with its own weights; returns which."""
    run = hs.load(folder, backend=None)
    seed = int(run.model.classes[0].partition("-")[0])
    assert seed in seeds
    assert run.history[-1].val_accuracy == seed / 1000
    assert run.settings["weights"] == params_digest(run.model.params), "the weights of another run"
    return seed


def kill_while_saving(folder: Path, times: int, seed: int) -> dict[str, int]:
    """Save one run over another, killed at random, again and again; returns how often which one stayed."""
    chance = random.Random(seed)
    runs = {k: run_of(k) for k in (1, 2)}
    runs[1].save(folder)
    start = time.perf_counter()
    for _ in range(3):  # in a child, which has to take the memory that it writes to, and so longer
        os.waitpid(fork(lambda: runs[1].save(folder)), 0)  # type: ignore[arg-type, return-value]
    seconds = (time.perf_counter() - start) / 3
    kept = {"before": 0, "after": 0, "leftovers": 0}
    now = 1
    for _ in range(times):
        other = 3 - now
        pid = fork(lambda: runs[other].save(folder))  # type: ignore[arg-type, return-value]  # noqa: B023
        time.sleep(chance.uniform(0, 1.3 * seconds))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kept["leftovers"] += len(list(folder.iterdir())) > 3
        after = assert_whole(folder, (now, other))
        kept["after" if after == other else "before"] += 1
        now = after
    runs[now].save(folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["run.json", hs.weights_file(folder).name, "weights.safetensors"], (
        "what killed saves left is removed"
    )
    return kept
