"""All of a network trained, on one core, in a process of its own, which keeps memory as the command's does:
`whole.py BACKEND NUMBER [wrapped]` reads a request a line and answers a line, both JSON. NUMBER: of the core that
it begins on, so that several can compile at a time. With "wrapped" the network is somebody's own module, which
hs.wrap takes.

{"do": "first"}    the first step, in which compilers run; its loss before. Then it goes to the first core
{"do": "step"}     a step; its loss before, and the seconds of the processor that it took
{"do": "facts"}    threads, versions
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from children import facts_of, keep_to_one_core, serve

import headstart as hs
from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Recipe
from headstart.features.inference import fed
from headstart.training.modes import keep_memory_for

MODEL, BATCH, SIZE, CLASSES, LR = "mobilenet_v2", 32, 224, 10, 1e-3


class Setting:
    """As `fit(mode="full")` trains, on images that are decoded."""

    def __init__(self, name: str, wrapped: bool) -> None:
        keep_memory_for(name, ["full"])
        self.backend = registry.load(name)
        self.place = self.backend.place("cpu", "float32")
        model = hs.model(MODEL, classes=CLASSES, size=SIZE)
        if wrapped:
            native = self.backend.native(model.graph, model.params)
            model = hs.wrap(native, preprocess=model.preprocess, classes=model.classes)
        graph = fed(model.graph, model)
        params = {name: model.params[name] for name in graph.param_shapes()}
        self.trainer = self.backend.trainer(graph, params, Recipe(hs.AdamW(LR), Softmax(), False, 0), self.place)
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
        self.labels = np.arange(BATCH) % CLASSES

    def first(self) -> float:
        loss, _ = self.step()
        keep_to_one_core()
        return loss

    def step(self) -> tuple[float, float]:
        start = time.process_time()
        losses, _ = self.trainer.step(self.images, self.labels, LR)
        return float(losses.mean()), time.process_time() - start

    def facts(self) -> dict[str, Any]:
        return facts_of(self.backend, self.place.device)


if __name__ == "__main__":
    backend, number, *wrapped = sys.argv[1:]
    keep_to_one_core(int(number))
    serve(lambda: Setting(backend, bool(wrapped)))
