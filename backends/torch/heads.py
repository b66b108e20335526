"""Heads side by side: one matrix product for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from headstart.backends.doors.torch import behind_door
from headstart.backends.torch.arrays import from_numpy, to_native, to_numpy
from headstart.backends.torch.devices import autocast, computing, device_of, synchronize
from headstart.backends.torch.emit import FUNCTIONS, Network
from headstart.backends.torch.epoch import Epoch
from headstart.backends.torch.losses import is_narrow, mean, per_sample, predictions, right
from headstart.backends.torch.masks import Masks
from headstart.backends.torch.optimizers import FusedOptimizer
from headstart.backends.torch.products import linear
from headstart.backends.torch.recorded import Recorder, do
from headstart.backends.torch.train import STEP, threads
from headstart.common.machine import threads_for
from headstart.contract.heads import DROPOUT, Chain, HeadsRecipe
from headstart.contract.losses import Softmax
from headstart.contract.optimizers import SGD
from headstart.contract.recipe import Place
from headstart.data.rows import window
from headstart.graph import Node
from headstart.graph.fuse import allowed

MANY_HEADS = 16
"""Of so many a CPU computes a softmax of few numbers faster across heads than across samples and heads: what is
moved for it lies nearer together."""


@behind_door("__init__", "put", "epoch", "logits", "params", "keep", "logits_of")
class TorchHeads:
    def __init__(self, chain: Chain, params: Mapping[str, np.ndarray], recipe: HeadsRecipe, place: Place) -> None:
        self.chain, self.recipe, self.place = chain, recipe, place
        self.device = device_of(place)
        self.before = Network(chain.before, {}).to(self.device).eval() if chain.before else None
        self.masks = Masks(chain.dropouts, recipe.seed, self.device)
        self._begin({name: from_numpy(np.array(value)).to(self.device) for name, value in params.items()})

    def _begin(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Train these from now on, by the recipe; nothing is kept of their steps."""
        self.weights = {name: w.requires_grad_() for name, w in weights.items()}
        # The optimiser steps from zero at a rate of one: what it gives is the direction, and each head goes along
        # it at its own rate. Where it decays weights beside its step, all of the last direction decays in it,
        # which spares a pass over memory.
        self.directions = [torch.zeros_like(w) for w in self.weights.values()]
        self.is_coupled = isinstance(self.recipe.optimizer, SGD)
        decay = 0.0 if self.is_coupled else 1.0
        self.optimizer = FusedOptimizer(self.recipe.optimizer, {1.0: self.directions}, weight_decay=decay)
        self.lr, self.decay = (from_numpy(a, self.device) for a in (self.recipe.lr, self.recipe.weight_decay))
        recorded = self.place.kind == "cuda" and allowed()
        self.recorder = Recorder(self._step, self._state) if recorded else None
        self.compiles = recorded  # another number of heads is recorded anew

    def keep(self, numbers: Sequence[int]) -> None:
        places = torch.tensor(list(numbers), device=self.device)
        # the count of steps, a number, is of all heads
        states = [
            {name: kept[places] if kept.ndim else kept for name, kept in state.items()}
            for state in self.optimizer.state()
        ]
        self.recipe = self.recipe.of(numbers)
        self._begin({name: w.detach()[places] for name, w in self.weights.items()})
        self.optimizer.load_state(states)

    def put(self, rows: np.ndarray) -> torch.Tensor:
        return from_numpy(rows, self.device)

    def epoch(
        self,
        rows: torch.Tensor,
        targets: np.ndarray,
        order: np.ndarray | None,
        rates: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        correct = torch.empty(len(rates), len(self.lr), dtype=torch.int64, device=self.device)
        epoch = Epoch.of(rows, targets, order, rates, weights, len(self.lr), correct)
        count = self._threads(rows, epoch.targets.shape[1] * STEP)
        with computing(self.place), threads(count):
            do(epoch, self._step, self.recorder)
        counted = (correct * epoch.losses.isfinite()).sum(0)  # argmax of NaN is 0
        synchronize(self.device)
        return to_numpy(epoch.losses), to_numpy(counted)

    def _step(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        rate: float | torch.Tensor,
        weights: torch.Tensor | None = None,
        correct: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses `(h,)`, and how many each head had right `(h,)`, in `correct` if that is given. `weights`:
        `(n,)` or `(n, h)`."""
        self.masks.begin(len(y))
        logits = self._forward(x, learns=True)
        loss = mean(self._losses(logits, y), weights)
        gradients = torch.autograd.grad(loss.sum(), list(self.weights.values()))
        self._update(gradients, rate)
        predicted = predictions(self.recipe.loss, logits.detach().transpose(0, 1))
        hits = right(self.recipe.loss, predicted, y)
        hits = hits & (weights.T > 0) if weights is not None and weights.ndim == 2 else hits
        counted = hits.sum(-1)
        return loss.detach(), counted if correct is None else correct.copy_(counted)

    def _losses(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Each sample's `(n, h)`, of logits `(n, h, classes)`."""
        heads, loss = len(self.lr), self.recipe.loss
        if isinstance(loss, Softmax) and heads >= MANY_HEADS and is_narrow(logits.flatten(0, 1)):
            return per_sample(loss, logits.transpose(1, 2), y[:, None].expand(-1, heads))
        return per_sample(loss, logits.flatten(0, 1), y.repeat_interleave(heads, 0)).unflatten(0, (-1, heads))

    def _state(self) -> list[torch.Tensor]:
        """All that a step changes."""
        return [*self.weights.values(), *self.directions, *self.optimizer.tensors(), self.masks.step]

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        with torch.inference_mode(), computing(self.place), threads(self._threads(inputs, stop - start)):
            return to_numpy(self._forward(window(inputs, start, stop)))

    def logits_of(self, inputs: Any, start: int, stop: int, numbers: Sequence[int]) -> np.ndarray:
        places = torch.tensor(list(numbers), device=self.device)
        with torch.inference_mode(), computing(self.place), threads(self._threads(inputs, stop - start)):
            weights = {name: w.index_select(0, places) for name, w in self.weights.items()}
            return to_numpy(self._forward(window(inputs, start, stop), weights))

    def _threads(self, rows: Any, count: int) -> int:
        """That so many rows are worth."""
        return threads_for(count * (math.prod(rows.shape[1:]) + sum(w.numel() for w in self.weights.values())))

    def params(self) -> dict[str, np.ndarray]:
        return {name: to_numpy(w).copy() for name, w in self.weights.items()}

    def _forward(
        self, rows: Any, weights: Mapping[str, torch.Tensor] | None = None, learns: bool = False
    ) -> torch.Tensor:
        """`(n, h, classes)`. `weights`: in place of those that are trained. `learns`: with dropout."""
        weights = self.weights if weights is None else weights
        x = to_native(rows, self.device)
        with autocast(self.place):
            x = x if self.before is None else self.before(x)
            for node in self.chain.layers:
                if node.op == DROPOUT:
                    x = self._dropped(node, x) if learns else x
                    continue
                if node.op != "linear":
                    x = FUNCTIONS[node.op](node.attrs)(x)
                    continue
                x = self._linear(node, x, weights)
        return x.float()

    @staticmethod
    def _linear(node: Node, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """`(n, c)`, the same rows for all heads, or `(n, h, c)` -> `(n, h, k)`"""
        weight, bias = weights[f"{node.name}.weight"], weights.get(f"{node.name}.bias")
        if x.ndim == 2:
            flat = linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())
            return flat.unflatten(1, weight.shape[:2])
        y = torch.einsum("nhi,hoi->nho", x, weight)
        return y if bias is None else y + bias

    def _dropped(self, node: Node, x: torch.Tensor) -> torch.Tensor:
        """`(n, c)`, or `(n, h, c)` under one mask for all heads."""
        with torch.no_grad():
            mask = self.masks.of_elements(node.name, node.attrs["rate"], x.shape[-1], x.dtype)
        return x * (mask if x.ndim == 2 else mask.unsqueeze(1))

    @torch.no_grad()
    def _update(self, gradients: tuple[torch.Tensor, ...], rate: float | torch.Tensor) -> None:
        for direction, w, gradient in zip(self.directions, self.weights.values(), gradients, strict=True):
            if self.is_coupled:
                direction.zero_()
                gradient = gradient + self._each(self.decay, w) * w
            direction.grad = gradient.contiguous()  # fused optimisers take it for laid out as the parameter is
        self.optimizer.step(1.0)
        for direction, w in zip(self.directions, self.weights.values(), strict=True):
            rates = self._each(self.lr, w) * rate
            if not self.is_coupled:
                w.mul_(1 - rates * self._each(self.decay, w))
            w.addcmul_(direction, rates)

    @staticmethod
    def _each(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """A value for each head, to broadcast."""
        return values.view(-1, *[1] * (like.ndim - 1))
