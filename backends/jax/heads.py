"""Heads side by side: one matrix product for all of them, and epochs as one `lax.scan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from headstart.backends.doors.jax_devices import compiled, put
from headstart.backends.jax import losses
from headstart.backends.jax.arrays import HALVES, to_numpy
from headstart.backends.jax.door import behind_door
from headstart.backends.jax.emit import FUNCTIONS, Network
from headstart.backends.jax.epoch import Known, Result, whole_epoch
from headstart.backends.jax.masks import of_elements
from headstart.backends.jax.train import direction_of, first_moments
from headstart.contract.heads import DROPOUT, Chain, HeadsRecipe
from headstart.contract.masks import key_of
from headstart.contract.optimizers import SGD
from headstart.contract.recipe import Place
from headstart.data.rows import window


@behind_door("__init__", "put", "epoch", "logits", "params", "keep", "logits_of")
class JaxHeads:
    compiles = True

    def __init__(self, chain: Chain, params: Mapping[str, np.ndarray], recipe: HeadsRecipe, place: Place) -> None:
        self.chain, self.recipe, self.place = chain, recipe, place
        self.before = None
        if chain.before is not None:
            self.before = nnx.split(Network(chain.before, {}))
        self.rule = direction_of(recipe.optimizer)
        weights = {name: np.array(value) for name, value in params.items()}
        # what a step changes: parameters, the optimiser's moments, the number of the next step
        self.carry = put((weights, first_moments(self.rule, weights), np.zeros((), np.int32)), place)
        self._epoch = compiled(self._whole_epoch, place, changes=0)
        self._logits = compiled(self._forward, place)
        self._logits_of = compiled(self._forward_of, place)

    def put(self, rows: np.ndarray) -> jax.Array:
        return put(rows, self.place)

    def epoch(
        self,
        rows: jax.Array,
        targets: np.ndarray,
        order: np.ndarray | None,
        rates: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        known = put((losses.native_targets(targets), weights), self.place)
        batches = None if order is None else put(order.astype(np.int32), self.place)
        own = self.recipe.lr, self.recipe.weight_decay
        self.carry, (means, correct) = self._epoch(self.carry, own, rows, known, batches, rates)
        return to_numpy(means), to_numpy(correct).sum(0)

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        return to_numpy(self._logits(self.carry[0], put(window(inputs, start, stop), self.place)))

    def logits_of(self, inputs: Any, start: int, stop: int, numbers: Sequence[int]) -> np.ndarray:
        # one program takes the rows and the heads, and computes: of few rows, each call by itself takes longer
        rows = np.arange(start, min(stop, len(inputs)), dtype=np.int32)
        asked = put((inputs, rows, np.array(numbers, np.int32)), self.place)
        return to_numpy(self._logits_of(self.carry[0], *asked))

    def params(self) -> dict[str, np.ndarray]:
        return {name: np.array(w) for name, w in self.carry[0].items()}

    def keep(self, numbers: Sequence[int]) -> None:
        # on the host, where nothing is compiled for it; the count of steps, a number, is of all heads
        *of_heads, step = self.carry
        places, of_heads = list(numbers), jax.tree.map(np.asarray, of_heads)
        of_heads = jax.tree.map(lambda kept: kept[places] if kept.ndim else kept, of_heads)
        self.carry = (*put(of_heads, self.place), step)
        self.recipe = self.recipe.of(numbers)

    def _forward(self, weights: Mapping[str, jax.Array], x: jax.Array, step: jax.Array | None = None) -> jax.Array:
        """`(n, h, classes)`. `step`: its number, in training."""
        dtype = HALVES.get(self.place.arithmetic, jnp.float32)
        x = x.astype(jnp.float32)
        x = (x if self.before is None else nnx.merge(*self.before)(x)).astype(dtype)
        for node in self.chain.layers:
            if node.op == DROPOUT:
                if step is not None:
                    key = key_of(self.recipe.seed, node.name)
                    mask = of_elements(key, node.attrs["rate"], step, (len(x), x.shape[-1]), x.dtype)
                    x = x * (mask if x.ndim == 2 else mask[:, None])
                continue
            if node.op != "linear":
                x = FUNCTIONS[node.op](node.attrs)(x)
                continue
            weight, bias = weights[f"{node.name}.weight"].astype(dtype), weights.get(f"{node.name}.bias")
            if x.ndim == 2:  # the same rows for all heads; see `emit.Linear` of the layout
                flat = weight.reshape(-1, weight.shape[2])
                x = jax.lax.dot_general(x, flat, (((1,), (1,)), ((), ()))).reshape(len(x), *weight.shape[:2])
            else:
                x = jnp.einsum("nhi,hoi->nho", x, weight)
            x = x if bias is None else x + bias.astype(dtype)
        return x.astype(jnp.float32)

    def _forward_of(
        self, weights: Mapping[str, jax.Array], inputs: jax.Array, rows: jax.Array, heads: jax.Array
    ) -> jax.Array:
        return self._forward({name: w[heads] for name, w in weights.items()}, inputs[rows])

    def _one_step(self, own: Any, carry: Any, x: Any, known: Known, rate: jax.Array) -> tuple[Any, Result]:
        """`own`: the heads' rates and weight decays, each `(h,)`. They are arguments, so that a program does not
        depend on which heads there are, but on how many."""
        (lr, decay), (weights, moments, step), (targets, sample_weights) = own, carry, known
        by_head = None
        if sample_weights is not None and sample_weights.ndim == 2:
            by_head = sample_weights = sample_weights.T

        def loss_of(weights: Mapping[str, jax.Array]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            logits = self._forward(weights, x, step).swapaxes(0, 1)
            means = losses.mean(losses.per_sample(self.recipe.loss, logits, targets), sample_weights)
            return means.sum(), (means, logits)

        (_, (means, logits)), gradients = jax.value_and_grad(loss_of, has_aux=True)(weights)

        def each(values: jax.Array, like: jax.Array) -> jax.Array:
            return values.reshape(-1, *[1] * (like.ndim - 1))

        decays = {name: each(decay, w) * w for name, w in weights.items()}
        if isinstance(self.recipe.optimizer, SGD):
            gradients = {name: g + decays[name] for name, g in gradients.items()}
            decays = dict.fromkeys(decays, 0.0)
        updates, moments = self.rule.update(gradients, moments)
        weights = {name: w - rate * each(lr, w) * (updates[name] + decays[name]) for name, w in weights.items()}
        right = losses.right(self.recipe.loss, logits, targets)
        right = right if by_head is None else right & (by_head > 0)
        # argmax of NaN is 0
        return (weights, moments, step + 1), (means, right.sum(-1) * jnp.isfinite(means))

    def _whole_epoch(self, carry: Any, own: Any, *args: Any) -> tuple[Any, Result]:
        return whole_epoch(partial(self._one_step, own), carry, *args)
