"""Epochs compiled by XLA, in Keras on TensorFlow: the steps that Keras's own layers and optimisers take."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Place, Recipe
from headstart.graph import Builder, Graph
from headstart.models.initial import initial_params

pytestmark = pytest.mark.of("keras")
CPU = Place("cpu", "float32")
ROWS, BATCH = 48, 8


@pytest.fixture(scope="module")
def train() -> Any:
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("epochs are compiled whole on TensorFlow only")
    return import_module("headstart.backends.keras.train")


@pytest.fixture
def heads(train: Any) -> Any:
    return import_module("headstart.backends.keras.heads")


def on(shape: tuple[int, ...], *nodes: tuple[str, dict[str, Any]]) -> Graph:
    """One node after the other, linear ones of twenty inputs and seven outputs unless they say otherwise."""
    b, last = Builder(), "input"
    for i, (op, attrs) in enumerate(nodes):
        if op == "linear":
            last = b.linear(f"{op}{i}", last, attrs.get("inputs", 20), attrs.get("outputs", 7))
        else:
            last = b.add(f"{op}{i}", op, last, **attrs)
    graph = b.graph(last)
    return replace(graph, nodes=(replace(graph.nodes[0], attrs={"shape": shape}), *graph.nodes[1:]))


LINEAR = on((20,), ("linear", {}))
DROPPED = ("dropout", {"rate": 0.25})
DEEP = on((20,), DROPPED, ("linear", {}), ("gelu", {}), ("linear", {"inputs": 7, "outputs": 5}))
FLAT = on((2, 2, 5), ("flatten", {"features": 20}), ("relu", {}), ("linear", {}))


@pytest.mark.parametrize(
    ("graph", "optimizer", "multiples"),
    [
        (LINEAR, hs.AdamW(lr=0.03, weight_decay=0.1), {}),
        pytest.param(DEEP, hs.AdamW(lr=0.03), {"linear1.weight": 0.1}, marks=pytest.mark.slow),
        (FLAT, hs.SGD(lr=0.1, nesterov=True, weight_decay=0.01), {"linear2.bias": 3.0}),
    ],
    ids=["linear", "deep", "flat"],
)
def test_the_same_steps_as_keras_takes(
    train: Any, heads: Any, graph: Graph, optimizer: Any, multiples: dict[str, float], monkeypatch: Any
) -> None:
    monkeypatch.setattr(heads, "WORTH_COMPILING", 0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, *graph.nodes[0].attrs["shape"])).astype(np.float16)
    y = rng.integers(0, 5, ROWS)
    start, recipe = initial_params(graph, 0), Recipe(optimizer, Softmax(0.1), False, 0, multiples)
    own = train.trainer(graph, start, recipe, CPU)
    assert isinstance(own, heads.ChainTrainer)
    uncompiled = own.heads._epoch = lambda *_: pytest.fail("this epoch was not compiled")
    by_keras = train.KerasTrainer(graph, start, recipe, CPU)
    order = rng.permutation(ROWS)[: ROWS // BATCH * BATCH].reshape(-1, BATCH)
    rates = hs.Schedule("cosine", warmup=0.4).rates(optimizer.lr, 2 * len(order)).reshape(2, -1)
    for batches, part in zip((order, None), rates, strict=True):
        found, right = own.epoch(own.put(x), y, batches, part)
        expected, expected_right = by_keras.epoch(by_keras.put(x.astype(np.float32)), y, batches, part)
        assert found.shape == (len(part), 1)
        np.testing.assert_allclose(found, expected.reshape(-1, 1), rtol=1e-4)
        assert right == expected_right
    assert own.heads._epoch is uncompiled
    expected_params = by_keras.params()
    assert own.params().keys() == expected_params.keys()
    for name, value in own.params().items():
        np.testing.assert_allclose(value, expected_params[name], rtol=1e-3, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(own.logits(x, 3, 40), by_keras.logits(x.astype(np.float32), 3, 40), atol=1e-3)


def test_an_epoch_asks_for_nobodys_source(train: Any, monkeypatch: Any) -> None:
    """Nothing that is traced is rewritten before: a program may come without its source, and rewriting warns in
    some versions of Python, which is an error to some users."""
    import inspect

    def nowhere(thing: Any) -> Any:
        raise OSError(f"the source of {thing} was asked for")

    pooled = on((2, 2, 20), ("global_avg_pool", {}), ("linear", {}))
    trainer = train.trainer(pooled, initial_params(pooled, 0), Recipe(hs.AdamW(), Softmax(), False, 0), CPU)
    assert isinstance(trainer, train.TensorFlowTrainer)
    x, y = np.zeros((ROWS, 2, 2, 20), np.float32), np.zeros(ROWS, np.int64)
    rates = np.full(ROWS // BATCH, 0.1, np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(inspect, "findsource", nowhere)
        for order in (None, np.arange(ROWS).reshape(-1, BATCH)):
            losses, _ = trainer.epoch(trainer.put(x), y, order, rates)
            assert losses.shape == (ROWS // BATCH, 1) and losses[-1] < losses[0]
        assert trainer.logits(x, 3, 40).shape == (37, 7)


def test_what_is_compiled(train: Any, heads: Any, monkeypatch: Any) -> None:
    """Where it pays: heads of linear layers, on a CPU in float32, with enough to do."""
    recipe = Recipe(hs.AdamW(), Softmax(), False, 0)
    dropped = on((20,), DROPPED, ("linear", {}))
    assert isinstance(train.trainer(dropped, initial_params(dropped, 0), recipe, CPU), heads.ChainTrainer)
    pooled = on((2, 2, 20), ("global_avg_pool", {}), ("linear", {}))
    for graph, place in ((pooled, CPU), (LINEAR, Place("cpu", "bfloat16"))):
        made = train.trainer(graph, initial_params(graph, 0), recipe, place)
        assert isinstance(made, train.TensorFlowTrainer), graph

    trainer = train.trainer(LINEAR, initial_params(LINEAR, 0), recipe, CPU)
    ran: list[str] = []
    for name in ("_epoch", "_compiled_epoch"):
        own = getattr(trainer.heads, name)
        monkeypatch.setattr(trainer.heads, name, lambda *a, own=own, name=name: ran.append(name) or own(*a))
    x, y = np.zeros((ROWS, 20), np.float32), np.zeros(ROWS, np.int64)
    order, rates = np.arange(ROWS).reshape(-1, BATCH), np.full(ROWS // BATCH, 0.1, np.float32)
    trainer.epoch(trainer.put(x), y, order, rates)
    trainer.step(x[:BATCH], y[:BATCH], 0.1)
    assert ran == ["_epoch", "_epoch"]
    monkeypatch.setattr(heads, "WORTH_COMPILING", heads.OF_A_STEP * len(rates))
    trainer.epoch(trainer.put(x), y, order, rates)
    trainer.epoch(trainer.put(x[:BATCH]), y[:BATCH], order[:1], rates[:1])
    assert ran[2:] == ["_compiled_epoch", "_epoch"]
