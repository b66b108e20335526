"""The state of a training with a user's torch module: its buffers, saved or not, and generators of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Recipe
from headstart.contract.wrapping import END, WrapRequest
from headstart.graph import Graph, Node

pytestmark = pytest.mark.of("torch")


def test_a_modules_own_generator_and_buffers_go_on(backend: str) -> None:
    import torch
    from torch import nn

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 3)
            self.generator = torch.Generator().manual_seed(7)
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

        def forward(self, x: Any) -> Any:
            if self.training:
                self.calls += 1
                x = x + self.calls * torch.randn(x.shape, generator=self.generator)
            return self.fc(x)

    framework = registry.load("torch")
    x, y = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32), np.arange(8) % 3
    wrapping = framework.wrap(WrapRequest(Noisy(), END, False, x[:2], None, None, False, False, None, ""))
    node = Node("trunk", "native", ("input",), {"part": wrapping.trunk})
    graph = Graph((Node("input", "input", (), {"shape": (5,)}), node), "trunk")
    params = {f"trunk.{name}": value for name, value in wrapping.params.items()}
    recipe, place = Recipe(hs.SGD(), Softmax(), False, 0), framework.place("cpu", "float32")
    trainers = [framework.trainer(graph, params, recipe, place) for _ in range(2)]
    for _ in range(2):
        trainers[0].step(x, y, 0.1)
    state = trainers[0].state()
    assert {"generator.trunk.generator", "tensor.trunk.calls"} <= state.keys()
    trainers[1].load_state(state)
    undisturbed, resumed = ([float(trainer.step(x, y, 0.1)[0][0]) for _ in range(2)] for trainer in trainers)
    assert undisturbed == resumed
