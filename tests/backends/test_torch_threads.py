"""Heads too small to share are trained on one thread in torch, larger ones on all, and the caller's number stands
afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common import machine
from headstart.contract.heads import HeadsRecipe, chain_of
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Recipe
from headstart.contract.registry import load
from headstart.graph import Graph, Node
from headstart.models.initial import initial_params

pytestmark = pytest.mark.of("torch")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, backend: str) -> Iterator[list[int]]:
    """The numbers of threads that products are computed with, where four are allowed."""
    import torch

    from headstart.backends.torch import heads, train

    before = torch.get_num_threads()
    counts: list[int] = []

    def watched(own: Any) -> Any:
        return lambda *given: counts.append(torch.get_num_threads()) or own(*given)

    monkeypatch.setattr(train, "linear", watched(train.linear))
    monkeypatch.setattr(heads, "linear", watched(heads.linear))
    monkeypatch.setattr(machine, "cpus", lambda: 4)
    torch.set_num_threads(4)
    yield counts
    torch.set_num_threads(before)


def head(columns: int, classes: int = 3) -> Graph:
    attrs = {"in_features": columns, "out_features": classes}
    return Graph((Node("x", "input", (), {"shape": (columns,)}), Node("fc", "linear", ("x",), attrs)), "fc")


@pytest.mark.parametrize(("columns", "count"), [(64, 1), (16_384, 4)])
def test_by_the_work_of_a_step(seen: list[int], columns: int, count: int) -> None:
    import torch

    backend, graph, rows, size = load("torch"), head(columns), 64, 32
    place, params = backend.place("cpu", "float32"), initial_params(graph, 0)
    x, y = np.random.default_rng(0).standard_normal((rows, columns), np.float32), np.arange(rows) % 3
    order, rates = np.arange(rows).reshape(-1, size), np.full(rows // size, 1e-3)
    trainer = backend.trainer(graph, params, Recipe(hs.AdamW(), Softmax(), False, 0), place)
    placed = trainer.put(x)
    stacked = {name: np.repeat(value[None], 2, 0) for name, value in params.items()}
    chain = chain_of(graph)
    assert chain is not None
    recipe = HeadsRecipe(hs.AdamW(), np.full(2, 1e-3, np.float32), np.zeros(2, np.float32), Softmax())
    side_by_side = backend.heads(chain, stacked, recipe, place)
    assert side_by_side is not None
    for run in (
        lambda: trainer.epoch(placed, y, order, rates),
        lambda: trainer.step(x[:size], y[:size], 1e-3),
        lambda: trainer.logits(placed, 0, rows),
        lambda: side_by_side.epoch(placed, y, order, rates),
        lambda: side_by_side.logits(placed, 0, rows),
    ):
        seen.clear()
        run()
        assert seen and set(seen) == {count}
        assert torch.get_num_threads() == 4
    with pytest.raises(Exception, match="shape"):
        trainer.step(x[:size, 1:], y[:size], 1e-3)
    assert torch.get_num_threads() == 4, "also after an error"


def test_what_a_caller_allows_is_not_exceeded(seen: list[int]) -> None:
    import torch

    torch.set_num_threads(2)
    graph = head(16_384)
    backend = load("torch")
    place = backend.place("cpu", "float32")
    trainer = backend.trainer(graph, initial_params(graph, 0), Recipe(hs.SGD(), Softmax(), False, 0), place)
    trainer.step(np.ones((64, 16_384), np.float32), np.zeros(64, np.int64), 1e-3)
    assert set(seen) == {2}


def test_work_is_counted_by_products_and_numbers() -> None:
    assert head(100, 10).work((100,)) == 1000 + 100 + 10
    model = hs.model("resnet18_half", classes=5, size=32)
    assert model.graph.work((32, 32, 3)) > sum(model.graph.macs((32, 32, 3)).values())
    assert machine.threads_for(math.inf) == machine.cpus()
    assert machine.threads_for(1000) == 1


def test_torch_keeps_to_a_quota(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    import torch

    from headstart.backends.torch import backend as module

    before = torch.get_num_threads()
    try:
        for limited, said, expected in ((True, None, 2), (False, None, 4), (True, "4", 4)):
            torch.set_num_threads(4)
            monkeypatch.setattr(module, "cpus_allowed", lambda limited=limited: machine.Cpus(2, limited))
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
            if said is not None:
                monkeypatch.setenv("OMP_NUM_THREADS", said)
            module.keep_to_quota()
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
