"""What grows with data and classes. `growth.py BACKEND`, a process, reads a request a line and answers a
line, both JSON. One request a process where memory is asked for: what one has freed, another would take.

{"do": "extract", "photographs": DIR, "cache": DIR}    features of a folder by a small ResNet
{"do": "write", "cache": DIR, "rows": N, "columns": D, "classes": K}   noise as features, by no framework
{"do": "epochs", "cache": DIR, "rows": N, "columns": D, "classes": K, "batch": B, "epochs": E}
                                                        a linear head, trained on noise that was written; with
                                                        "few": N on so many rows of it before
{"do": "products", "columns": D, "classes": K, "batch": B, "steps": S}   the products of so many steps, by numpy

Seconds are the processor's, of all threads: what else runs on the machine hardly changes them. `base` is what was
held before, with the framework there and its device looked for, and once a few rows were trained on, if that was
asked for, which imports and compiles what any training needs; `peak` the most that was held afterwards.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from children import facts_of, serve
from memory import begin, forget_the_peak, held
from threadpoolctl import threadpool_limits

import headstart as hs
from headstart.contract import registry
from headstart.data.annotations import single
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.features.trunk_keys import key_of
from headstart.models import Model
from headstart.store import FeatureStore, array_to_ids

TRUNKS = {512: "resnet18", 768: "convnext_tiny"}
"""columns -> whose features have as many, where its classifier begins"""
BLOCK = 1 << 15


def noise_in(cache: Path, model: Model, rows: int, write: bool) -> FeatureSet:
    """`rows` features of the model as its store has them, there or written now: noise whose first columns tell the
    classes, ten at a time."""
    cut, classes = model.default_cut, len(model.classes)
    rng = np.random.default_rng(0)
    ids = array_to_ids(rng.integers(0, 256, (rows, 16), np.uint8))
    folder = FeatureStore(cache).folder(key_of(model, cut, precision="float32", dtype="float16"))
    labels = np.arange(rows) % classes
    features = FeatureSet(
        "noise", ids, single(labels, model.classes), {cut: [folder]}, ExtractionStats(0, rows, 0.0, ())
    )
    if not write:
        return features
    columns = model.graph.shapes(model.input_shape)[cut][-1]
    with folder.writer((columns,), "float16", {}) as out:
        for start in range(0, rows, BLOCK):
            block = rng.standard_normal((min(BLOCK, rows - start), columns), np.float32)
            block[np.arange(len(block)), labels[start : start + BLOCK] % 10] += 3
            out.add(ids[start : start + BLOCK], block.astype(np.float16))
    return features


class Growing:
    def __init__(self, name: str) -> None:
        self.name = name

    def _facts(self) -> dict[str, Any]:
        return facts_of(registry.load(self.name))

    def extract(self, photographs: str, cache: str) -> dict[str, Any]:
        base, start = begin(self.name), time.process_time()
        data = hs.data.folder(photographs)
        model = hs.model("resnet18_half", classes=data.classes, size=32)
        features = hs.extract(model, data, backend=self.name, cache=cache)
        seconds = time.process_time() - start
        assert features.stats.extracted == len(data) and np.isfinite(features.numpy()).all()
        return {"rows": len(data), "seconds": seconds, "base": base, "peak": held("VmHWM"), **self._facts()}

    def write(self, cache: str, rows: int, columns: int, classes: int) -> None:
        noise_in(Path(cache), hs.model(TRUNKS[columns], classes=classes), rows, write=True)

    def epochs(
        self, cache: str, rows: int, columns: int, classes: int, batch: int, epochs: int, few: int = 0
    ) -> dict[str, Any]:
        model = hs.model(TRUNKS[columns], classes=classes)
        features = noise_in(Path(cache), model, rows, write=False)
        base, ends = begin(self.name), []
        settings: dict[str, Any] = {"mode": "cached", "batch_size": batch, "backend": self.name}
        if few:
            hs.fit(model, features.subset(range(few)), epochs=1, **settings)
            forget_the_peak()
            base = held("VmRSS")
        run = hs.fit(
            model, features, epochs=epochs, on_epoch=lambda *_: ends.append(time.process_time()), **settings
        )
        return {
            "rows": rows,
            "seconds": float(np.diff(ends).min()),  # what else runs only adds to it
            "base": base,
            "peak": held("VmHWM"),
            "nbytes": features.nbytes(),
            "where": run.settings["features"]["where"],
            "losses": [record.loss for record in run.history],
            **self._facts(),
        }

    def products(self, columns: int, classes: int, batch: int, steps: int) -> float:
        """Processor seconds of each step's two products, of float32 batches that lie side by side; on one thread,
        since threads that wait for one another spin, which counts."""
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((16 * batch, columns), np.float32)
        weight, above = np.ones((classes, columns), np.float32), np.ones((batch, classes), np.float32)
        batches = rows.reshape(16, batch, columns)
        with threadpool_limits(1):
            start = time.process_time()
            for step in range(steps):
                _ = batches[step % 16] @ weight.T
                _ = above.T @ batches[step % 16]
            return time.process_time() - start


if __name__ == "__main__":
    serve(lambda: Growing(sys.argv[1]))
