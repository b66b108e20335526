"""Heads on cached features, in a process of its own: `heads.py BACKEND` reads a request a line and answers a line,
both JSON.

{"do": "prepare", "columns": C, "classes": K, "batch": B}   features in memory, a trainer of one head, one of 64
                   heads, or of "heads": N; "lr": R, in place of 0.001: of one, and of many from R/10 to 10 R
{"do": "epoch", "kind": "one"}       an epoch of one head; its mean loss
{"do": "epoch", "kind": "many"}      an epoch of 64 heads; the mean loss of the one that has the same learning rate
{"do": "epoch", "kind": "by hand"}   the same by a loop that a user would write, on float32 rows; not in Keras
{"do": "product"}  a product of two large matrices, float32; its operations
{"do": "processor"}   another of these; the seconds of processors that it took
{"do": "facts"}    threads, versions, heads
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from children import facts_of, serve
from extraction import PRODUCTS, SIDE

from headstart.contract import registry
from headstart.contract.heads import HeadsRecipe, chain_of
from headstart.contract.losses import Softmax
from headstart.contract.optimizers import AdamW
from headstart.contract.recipe import Recipe
from headstart.graph import Graph, Node

HEADS = 64
SAMPLES = 12_800
LR = 1e-3
DECAY = 0.01

Weights = dict[str, np.ndarray]
Epoch = Callable[[np.ndarray], np.ndarray]
"""the order of an epoch, int64 `(steps, batch)` -> the losses, float32 `(steps, heads)`"""


def torch_by_hand(rows: np.ndarray, labels: np.ndarray, weights: Weights, rates: np.ndarray) -> Epoch:
    """https://docs.pytorch.org/tutorials/intermediate/ensembling.html, with gradients; AdamW is written out, since
    that of torch.optim has one rate for all that it updates."""
    import torch
    import torch.nn.functional as F
    from torch.func import grad_and_value, vmap

    x, y = torch.from_numpy(rows), torch.from_numpy(labels)
    heads = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
    moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in heads.items()}
    lr = {name: torch.from_numpy(rates).view(-1, *[1] * (value.ndim - 1)) for name, value in heads.items()}
    steps = 0

    def loss_of(head: dict[str, torch.Tensor], inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(inputs, head["fc.weight"], head["fc.bias"]), targets)

    gradients_of = vmap(grad_and_value(loss_of), in_dims=(0, None, None))

    def epoch(order: np.ndarray) -> np.ndarray:
        nonlocal steps
        losses = []
        for batch in torch.from_numpy(order):
            gradients, loss = gradients_of(heads, x[batch], y[batch])
            losses.append(loss)
            steps += 1
            for name, value in heads.items():
                first, second = moments[name]
                first.lerp_(gradients[name], 0.1)
                second.mul_(0.999).addcmul_(gradients[name], gradients[name], value=0.001)
                scale = (second / (1 - 0.999**steps)).sqrt_().add_(1e-8)
                value.mul_(1 - lr[name] * DECAY).sub_(lr[name] / (1 - 0.9**steps) * first / scale)
        return torch.stack(losses).numpy()

    return epoch


def jax_by_hand(rows: np.ndarray, labels: np.ndarray, weights: Weights, rates: np.ndarray) -> Epoch:
    """https://docs.jax.dev/en/latest/automatic-vectorization.html, with optax for the update"""
    import jax
    import jax.numpy as jnp
    import optax

    x, y, lr = jnp.asarray(rows), jnp.asarray(labels), jnp.asarray(rates)
    direction = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(DECAY))
    heads = {name: jnp.asarray(value) for name, value in weights.items()}
    state = [heads, jax.vmap(direction.init)(heads)]

    def loss_of(head: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        logits = inputs @ head["fc.weight"].T + head["fc.bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def update(head: Any, moments: Any, rate: jax.Array, inputs: jax.Array, targets: jax.Array) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(head, inputs, targets)
        along, moments = direction.update(gradients, moments, head)
        return jax.tree.map(lambda value, step: value - rate * step, head, along), moments, loss

    step = jax.jit(jax.vmap(update, in_axes=(0, 0, 0, None, None)), donate_argnums=(0, 1))

    def epoch(order: np.ndarray) -> np.ndarray:
        losses = []
        for batch in order:
            state[0], state[1], loss = step(*state, lr, x[batch], y[batch])
            losses.append(loss)
        return np.asarray(jnp.stack(losses))

    return epoch


BY_HAND = {"torch": torch_by_hand, "jax": jax_by_hand}


class Setting:
    def __init__(self, name: str) -> None:
        self.name = name
        self.backend = registry.load(name)
        self.place = self.backend.place("auto", "float32")

    def prepare(self, columns: int, classes: int, batch: int, heads: int = HEADS, lr: float = LR) -> None:
        self.heads, self.lr = heads, lr
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
        rates = lr * 10 ** np.linspace(-1, 1, heads)
        rates[heads // 2] = lr
        rates = rates.astype(np.float32)
        decays = np.full(heads, DECAY, np.float32)
        chain = chain_of(graph)
        assert chain is not None
        stacked = {key: np.repeat(value[None], heads, 0) for key, value in params.items()}
        recipe = HeadsRecipe(AdamW(), rates, decays, Softmax())
        self.trainers: dict[str, Any] = {
            "one": self.backend.trainer(graph, params, Recipe(AdamW(lr=lr), Softmax(), False, 0), self.place),
            "many": self.backend.heads(chain, stacked, recipe, self.place),
        }
        self.labels = rng.integers(0, classes, SAMPLES)
        rows = rng.standard_normal((SAMPLES, columns)).astype(np.float16)
        self.rows = self.trainers["one"].put(rows)
        self.order = rng.permutation(SAMPLES).reshape(-1, batch)
        self.flops = 4 * SAMPLES * columns * classes * heads  # two products a step, of two operations each
        # made when they are asked for: what grows with heads is measured without them
        self.peer = partial(self._by_hand, rows, stacked, rates)
        self.by_hand: Epoch | None = None
        self.multiply: Callable[[], Any] | None = None

    def _by_hand(self, rows: np.ndarray, weights: Weights, rates: np.ndarray) -> Epoch:
        return BY_HAND[self.name](rows.astype(np.float32), self.labels, weights, rates)

    def epoch(self, kind: str) -> float:
        if kind == "by hand":
            self.by_hand = self.by_hand or self.peer()
            return float(self.by_hand(self.order)[:, self.heads // 2].mean())
        rates = np.full(len(self.order), self.lr if kind == "one" else 1.0, np.float32)
        losses, _ = self.trainers[kind].epoch(self.rows, self.labels, self.order, rates)
        return float(losses[:, 0 if kind == "one" else self.heads // 2].mean())

    def product(self) -> int:
        if self.multiply is None:
            a = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
            self.multiply = PRODUCTS[self.name](a, a, "float32")
        self.multiply()
        return 2 * SIDE**3

    def processor(self) -> float:
        start = time.process_time()
        self.epoch("many")
        return time.process_time() - start

    def facts(self) -> dict[str, Any]:
        kinds = ["one", "many", *(["by hand"] if self.name in BY_HAND else [])]
        return facts_of(
            self.backend, self.place.device, heads=self.heads, samples=SAMPLES, flops=self.flops, kinds=kinds
        )


if __name__ == "__main__":
    serve(lambda: Setting(sys.argv[1]))
