"""Heads on cached features, in a process of its own: `heads.py BACKEND` reads a request a line and answers a line,
both JSON.

{"do": "prepare", "columns": C, "classes": K, "batch": B}   features in memory, a trainer of one head, one of 64
                   heads, or of "heads": N
{"do": "one"}      an epoch of one head; its mean loss
{"do": "many"}     an epoch of 64 heads; the mean loss of the one that has the same learning rate
{"do": "processor"}   another of these; the seconds of processors that it took
{"do": "facts"}    threads, versions, heads
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np

from headstart.contract import registry
from headstart.contract.heads import HeadsRecipe, chain_of
from headstart.contract.losses import Softmax
from headstart.contract.optimizers import AdamW
from headstart.contract.recipe import Recipe
from headstart.graph import Graph, Node

HEADS = 64
SAMPLES = 12_800
LR = 1e-3


class Setting:
    def __init__(self, name: str) -> None:
        self.name = name
        self.backend = registry.load(name)
        self.place = self.backend.place("auto", "float32")

    def prepare(self, columns: int, classes: int, batch: int, heads: int = HEADS) -> None:
        self.heads = heads
        nodes = (
            Node("x", "input", (), {"shape": (columns,)}),
            Node("fc", "linear", ("x",), {"in_features": columns, "out_features": classes}),
        )
        graph = Graph(nodes, "fc")
        rng = np.random.default_rng(0)
        params = {
            "fc.weight": rng.normal(0, 0.01, (classes, columns)).astype(np.float32),
            "fc.bias": np.zeros(classes, np.float32),
        }
        rates = LR * 10 ** np.linspace(-1, 1, heads)
        rates[heads // 2] = LR
        decays = np.full(heads, 0.01, np.float32)
        chain = chain_of(graph)
        assert chain is not None
        stacked = {key: np.repeat(value[None], heads, 0) for key, value in params.items()}
        recipe = HeadsRecipe(AdamW(), rates.astype(np.float32), decays, Softmax())
        self.trainers: dict[str, Any] = {
            "one": self.backend.trainer(graph, params, Recipe(AdamW(lr=LR), Softmax(), False, 0), self.place),
            "many": self.backend.heads(chain, stacked, recipe, self.place),
        }
        self.labels = rng.integers(0, classes, SAMPLES)
        rows = rng.standard_normal((SAMPLES, columns)).astype(np.float16)
        self.rows = self.trainers["one"].put(rows)
        self.order = rng.permutation(SAMPLES).reshape(-1, batch)

    def epoch(self, kind: str) -> float:
        rates = np.full(len(self.order), LR if kind == "one" else 1.0, np.float32)
        losses, _ = self.trainers[kind].epoch(self.rows, self.labels, self.order, rates)
        return float(losses[:, 0 if kind == "one" else self.heads // 2].mean())

    def processor(self) -> float:
        start = time.process_time()
        self.epoch("many")
        return time.process_time() - start

    def facts(self) -> dict[str, Any]:
        return {
            "heads": self.heads,
            "device": self.place.device,
            "threads": self.backend.threads(),
            "versions": registry.versions(self.name),
        }


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)  # frameworks print to standard output now and then
    os.dup2(2, 1)
    setting = Setting(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        answer = setting.epoch(do) if do in ("one", "many") else getattr(setting, do)(**request)
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
