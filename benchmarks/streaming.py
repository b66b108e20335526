"""A linear head trained on features that are streamed, in a process of its own: `streaming.py BACKEND ROOT ROWS
MEMORY` reads a request a line and answers a line, both JSON.

{"do": "read"}     read all shards one after the other; bytes
{"do": "epoch"}    one epoch of training, streamed from the disk; the mean loss of its last tenth
{"do": "facts"}    the placement; the most memory held above what was held before the first epoch, in bytes; the
                   share of the processor's cores that the last epoch kept busy; the median of the epochs'
                   processor seconds, which others on the machine change less

Both begin with nothing of the shards in the page cache.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from children import facts_of, serve

from headstart.common.sizes import parse_nbytes
from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.optimizers import AdamW
from headstart.contract.recipe import Recipe
from headstart.data.annotations import single
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.graph import Graph, Node
from headstart.store import FeatureStore, array_to_ids, trunk_key
from headstart.training.placement import feeds_of, place_features

COLUMNS, CLASSES, BATCH = 2048, 10, 256  # a ResNet-50's features
BLOCK = 4096


class Setting:
    def __init__(self, backend: str, root: str, rows: int, memory: str) -> None:
        rng = np.random.default_rng(0)
        ids = array_to_ids(rng.integers(0, 256, (rows, 16), np.uint8))
        labels = np.arange(rows) % CLASSES
        key = trunk_key(
            graph=["streaming"],
            weights_digest="0" * 32,
            preprocess={},
            precision="float32",
            dtype="float16",
            label={"model": "streaming"},
        )
        folder = FeatureStore(root).folder(key)
        if folder.missing(ids):
            noise = rng.standard_normal((BLOCK, COLUMNS)).astype(np.float16)
            with folder.writer((COLUMNS,), "float16", {}) as out:
                for start in range(0, rows, BLOCK):
                    block = noise[: min(BLOCK, rows - start)].copy()
                    block[np.arange(len(block)), labels[start : start + BLOCK]] += 3  # to be learned
                    out.add(ids[start : start + BLOCK], block)
        self.shards = sorted(folder.path.glob("*.safetensors"))
        names = [str(k) for k in range(CLASSES)]
        stats = ExtractionStats(0, rows, 0.0, ())
        features = FeatureSet("noise", ids, single(labels, names), {"x": [folder]}, stats)
        placement = place_features([features], "x", BATCH, parse_nbytes(memory), None)
        # Features that no page cache holds: it is emptied before each epoch, so they are placed as such.
        self.placement = replace(placement, cached_share=0.0)
        (self.feed,) = feeds_of([features], "x", self.placement)
        chosen = self.backend = registry.load(backend)
        attributes = {"in_features": COLUMNS, "out_features": CLASSES}
        graph = Graph(
            (Node("x", "input", (), {"shape": (COLUMNS,)}), Node("fc", "linear", ("x",), attributes)), "fc"
        )
        params = {
            "fc.weight": np.zeros((CLASSES, COLUMNS), np.float32),
            "fc.bias": np.zeros(CLASSES, np.float32),
        }
        recipe = Recipe(AdamW(lr=1e-3), Softmax(), False, 0)
        self.trainer = chosen.trainer(graph, params, recipe, chosen.place("cpu", "float32"))
        self.epochs, self.busy = 0, 0.0
        self.cpu_seconds: list[float] = []
        self.base, self.peak = held(), 0
        threading.Thread(target=self._watch, daemon=True).start()

    def read(self) -> int:
        self._forget()
        buffer, total = bytearray(1 << 20), 0
        for path in self.shards:
            with path.open("rb", 0) as file:
                while count := file.readinto(buffer):
                    total += count
        return total

    def epoch(self) -> float:
        self._forget()
        order = self.feed.order(BATCH, 0, self.epochs)
        wall, cpu = time.perf_counter(), time.process_time()
        result = self.feed.train(self.trainer, order, np.full(len(order), 1e-3), self.epochs)
        cores = len(os.sched_getaffinity(0))
        self.cpu_seconds.append(time.process_time() - cpu)
        self.busy = self.cpu_seconds[-1] / (time.perf_counter() - wall) / cores
        self.epochs += 1
        return float(result.losses[-len(order) // 10 :].mean())

    def facts(self) -> dict[str, Any]:
        return facts_of(
            self.backend,
            "cpu",
            held_bytes=self.peak - self.base,
            cores_busy=self.busy,
            cpu_seconds=float(np.median(self.cpu_seconds)),
            **self.placement.as_dict(),
        )

    def _forget(self) -> None:
        for path in self.shards:
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, held())
            time.sleep(0.02)


def held() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    backend, root, rows, memory = sys.argv[1:]
    serve(lambda: Setting(backend, root, int(rows), memory))
