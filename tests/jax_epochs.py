"""A linear head's epoch of JAX's backend, and what to trace it with. tests/device compiles it for a GPU that is
not there, which needs a plugin; that the arguments fit is tested without."""

from __future__ import annotations

from typing import Any

import numpy as np

import headstart as hs
from headstart.contract import registry
from headstart.contract.heads import HeadsRecipe, chain_of
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Place, Recipe
from headstart.testing.samples import linear_graph

HEADS, ROWS, STEPS, SIZE, COLUMNS, CLASSES = 64, 12800, 50, 256, 2048, 10


def epoch_of(place: Place, many: bool) -> tuple[Any, tuple[Any, ...]]:
    """A trainer of one head, or of `HEADS` side by side, and what its `_epoch` takes."""
    import jax

    backend, graph = registry.load("jax"), linear_graph(COLUMNS, CLASSES)
    shapes = graph.param_shapes()
    own: tuple[Any, ...] = ()
    if many:
        params = {name: np.zeros((HEADS, *shape), np.float32) for name, shape in shapes.items()}
        rates = np.full(HEADS, 1e-3, np.float32)
        chain = chain_of(graph)
        assert chain is not None
        trainer = backend.heads(chain, params, HeadsRecipe(hs.AdamW(), rates, rates, Softmax()), place)
        own = ((rates, rates),)
    else:
        params = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        trainer = backend.trainer(graph, params, Recipe(hs.AdamW(), Softmax(), False, 0), place)
    rows, labels, order, rate = (
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (
            ((ROWS, COLUMNS), np.float16),
            ((ROWS,), np.int32),
            ((STEPS, SIZE), np.int32),
            ((STEPS,), np.float32),
        )
    )
    return trainer, (trainer.carry, *own, rows, (labels, None), order, rate)
