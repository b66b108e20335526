"""Trainings on cached features that watch a score, and such that do not, in a process of its own: `stopping.py
BACKEND CACHE` reads a request a line and answers a line, both JSON.

{"do": "prepare", "model": M, "train": N, "val": N}   fill the cache, compile; facts about the setting
{"do": "train", "watched": true, "epochs": N}         of an epoch, in the mean, the first left out: CPU seconds,
                                                      the share of these that it took to keep it where it was
                                                      the best so far, and how many were
"""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import numpy as np
from children import facts_of, serve

import headstart as hs
from headstart.contract import registry
from headstart.training.standing import Standing

SIZE, CLASSES = 32, 5


class Setting:
    def __init__(self, name: str, cache: str) -> None:
        self.options: dict[str, Any] = {"backend": name, "cache": cache, "dtype": "float32"}
        self.kept = 0.0
        add = Standing.add

        def timed(standing: Standing, *args: Any) -> None:
            start = time.thread_time()
            add(standing, *args)
            self.kept += time.thread_time() - start

        Standing.add = timed  # type: ignore[method-assign]

    def prepare(self, model: str, train: int, val: int) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        labels = np.arange(train + val) % CLASSES
        tints = rng.integers(-12, 12, (CLASSES, 1, 1, 3))
        images = rng.integers(100, 156, (train + val, SIZE, SIZE, 3)) + tints[labels]
        data = hs.data.arrays(images.astype(np.uint8), labels)
        self.parts = data.subset(range(train)), data.subset(range(train, train + val))
        self.model = hs.model(model, classes=CLASSES, size=SIZE)
        for watched in (True, False):
            self.train(watched, 3)
        return facts_of(registry.load(self.options["backend"]))

    def train(self, watched: bool, epochs: int) -> tuple[float, float, int]:
        """Watched, it has a patience that nothing exhausts; so both have the same epochs."""
        how: dict[str, Any] = {"epochs": epochs, "monitor": None}
        if watched:
            how = {"max_epochs": epochs, "patience": epochs, "monitor": "val_loss"}
        ends: list[tuple[float, float]] = []

        def end(*_: object) -> None:
            ends.append((now(), self.kept))

        run = hs.fit(self.model, *self.parts, on_epoch=end, **how, **self.options)
        assert len(run.history) == len(ends) == epochs
        best, changes = np.inf, 0
        for loss in run.history["val_loss"]:
            best, changes = min(best, loss), changes + (loss < best)
        cpu, kept = np.subtract(ends[-1], ends[0]).tolist()
        return cpu / (epochs - 1), kept / cpu, changes


def now() -> float:
    """CPU seconds of the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    serve(lambda: Setting(*sys.argv[1:]))
