"""Training: steps on batches, and whole epochs on rows that lie on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from headstart.backend import Place, Recipe
from headstart.backends.torch.arrays import from_numpy, synchronize, to_numpy
from headstart.backends.torch.emit import RANDOM, Network
from headstart.graph import Graph
from headstart.training.optimizers import SGD


class TorchTrainer:
    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> None:
        self.place, self.recipe = place, recipe
        self.network = Network(graph, params).to(place.device)
        self.optimizer = _optimizer(recipe, list(self.network.parameters()))
        self.has_dropout = any(node.op in RANDOM for node in graph.nodes)
        self.random_state = _seeded_state(recipe.seed, place.device)

    def put(self, rows: np.ndarray) -> torch.Tensor:
        return from_numpy(rows, self.place.device)

    def epoch(
        self, rows: torch.Tensor, labels: np.ndarray, order: np.ndarray, rates: np.ndarray
    ) -> tuple[np.ndarray, int]:
        device = self.place.device
        targets, batches = from_numpy(labels, device), from_numpy(order, device)
        losses = torch.empty(len(order), device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        with self._training():
            for i, rate in enumerate(rates.tolist()):
                loss, right = self._step(rows[batches[i]], targets[batches[i]], rate)
                losses[i] = loss
                correct += right
        return to_numpy(losses), int(correct)

    def step(self, inputs: np.ndarray | torch.Tensor, labels: np.ndarray, rate: float) -> tuple[float, int]:
        with self._training():
            loss, right = self._step(self._native(inputs), from_numpy(labels, self.place.device), rate)
        return float(loss), int(right)

    def _step(self, x: torch.Tensor, y: torch.Tensor, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self._forward(x)
        loss = F.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach(), (logits.argmax(1) == y).sum()

    def logits(self, inputs: np.ndarray | torch.Tensor, start: int, stop: int) -> np.ndarray:
        self.network.eval()
        with torch.inference_mode():
            return to_numpy(self._forward(self._native(inputs)[start:stop]))

    def params(self) -> dict[str, np.ndarray]:
        tensors = self.network.tensors()
        return {name: to_numpy(tensors[name]).copy() for name in self.network.graph.param_shapes()}

    def _native(self, inputs: np.ndarray | torch.Tensor) -> torch.Tensor:
        return from_numpy(inputs, self.place.device) if isinstance(inputs, np.ndarray) else inputs

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.uint8:
            x = x.float()
        if x.ndim == 4:
            x = x.permute(0, 3, 1, 2)
        with torch.autocast(self.place.device, torch.bfloat16, enabled=self.place.precision == "bfloat16"):
            return self.network(x).float()

    @contextmanager
    def _training(self) -> Iterator[None]:
        self.network.train()
        if not self.recipe.train_statistics:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        if self.has_dropout:
            # Dropout draws from torch's global generator: lend it ours, and give the caller's back.
            with torch.random.fork_rng():
                _set_state(self.random_state, self.place.device)
                yield
                self.random_state = _state(self.place.device)
        else:
            yield
        synchronize(self.place.device)


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    o = recipe.optimizer
    if isinstance(o, SGD):
        return torch.optim.SGD(
            parameters, o.lr, o.momentum, nesterov=o.nesterov, weight_decay=o.weight_decay, fused=True
        )
    return torch.optim.AdamW(parameters, o.lr, (o.beta1, o.beta2), o.epsilon, o.weight_decay, fused=True)


def _seeded_state(seed: int, device: str) -> torch.Tensor:
    return torch.Generator(device).manual_seed(seed).get_state()


def _state(device: str) -> torch.Tensor:
    return torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state()


def _set_state(state: torch.Tensor, device: str) -> None:
    (torch.cuda.set_rng_state if device == "cuda" else torch.set_rng_state)(state)
