"""Sweeps on features in a store, with folds and without, in a process of its own: `folded.py BACKEND CACHE` reads
a request a line and answers a line, both JSON.

{"do": "prepare", "columns": C, "classes": K, "rows": N}   features of N samples in the store, unless they are
                                there
{"do": "sweep", "folds": F}     16 rates; F folds, or null and a fifth validates: seconds, of the processor too.
                                With "max_epochs": N it ends after these
{"do": "facts"}                 threads, versions, rates
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from children import facts_of, serve

import headstart as hs
from headstart.contract import registry
from headstart.data.annotations import single
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.features.trunk_keys import key_of
from headstart.store import FeatureStore, array_to_ids

RATES = [float(rate) for rate in np.logspace(-4, -1, 16)]
TRUNKS = {512: "resnet18", 2048: "resnet50"}


class Setting:
    def __init__(self, name: str, cache: str) -> None:
        self.name, self.cache = name, cache
        self.backend = registry.load(name)

    def prepare(self, columns: int, classes: int, rows: int) -> int:
        """Classes as far apart as those of photographs are to a linear head: four in five are told."""
        self.model = hs.model(TRUNKS[columns], classes=classes)
        rng = np.random.default_rng(0)
        ids = array_to_ids(rng.integers(0, 256, (rows, 16), np.uint8))
        folder = FeatureStore(self.cache).folder(
            key_of(self.model, "avgpool", precision="float32", dtype="float16")
        )
        labels, stats = rng.integers(0, classes, rows), ExtractionStats(0, rows, 0.0, ())
        self.features = FeatureSet("noise", ids, single(labels, self.model.classes), {"avgpool": [folder]}, stats)
        if len(folder.missing(ids)):
            means = rng.standard_normal((classes, columns)) * (2.2 / np.sqrt(columns))
            with folder.writer((columns,), "float16", {}) as out:
                out.add(ids, (means[labels] + rng.standard_normal((rows, columns))).astype(np.float16))
        return rows

    def sweep(self, folds: int | None, max_epochs: int | None = None) -> dict[str, Any]:
        sets: Any = (self.features,) if folds else self.features.split(0.8)
        more = {"folds": folds} if folds else {}
        more |= {"max_epochs": max_epochs} if max_epochs else {}
        start = time.perf_counter(), time.process_time()
        result = hs.sweep(self.model, *sets, grid={"lr": RATES}, backend=self.name, **more)
        wall, processor = time.perf_counter() - start[0], time.process_time() - start[1]
        entries = result.table()
        return {
            "seconds": wall,
            "processor": processor,
            "at_once": result.at_once,
            "score": entries[0]["val_score"],
            "epochs": [entry["epochs"] for entry in entries],
        }

    def facts(self) -> dict[str, Any]:
        return facts_of(self.backend, rates=len(RATES))


if __name__ == "__main__":
    serve(lambda: Setting(*sys.argv[1:]))
