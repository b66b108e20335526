"""Training: steps on batches, and whole epochs on rows that lie on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.backends.doors.torch import behind_door
from headstart.backends.torch.arrays import exact_numpy, from_numpy, to_native, to_numpy
from headstart.backends.torch.chance import Stream
from headstart.backends.torch.devices import autocast, computing, device_of, synchronize
from headstart.backends.torch.direct import direct_layer
from headstart.backends.torch.emit import LastLinear, Network
from headstart.backends.torch.epoch import Epoch
from headstart.backends.torch.layouts import Layout
from headstart.backends.torch.losses import count_right, mean_loss, native_targets, predictions
from headstart.backends.torch.masks import Dropped, Masks
from headstart.backends.torch.optimizers import FusedOptimizer
from headstart.backends.torch.products import linear
from headstart.backends.torch.progress import put_back, state_of
from headstart.backends.torch.recorded import Recorder, do
from headstart.common.machine import threads_for
from headstart.contract.devices import CPU
from headstart.contract.masks import DROPS
from headstart.contract.recipe import Place, Recipe
from headstart.data.rows import window
from headstart.graph import Graph
from headstart.graph.fuse import allowed


@behind_door("__init__", "put", "epoch", "step", "logits", "params", "state", "load_state")
class TorchTrainer:
    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> None:
        self.place, self.recipe = place, recipe
        self.device = device_of(place)
        self.network = Network(graph, params).to(self.device)
        for module in self.network.modules():
            if isinstance(module, LastLinear):
                module.product = linear
        self.optimizer = _optimizer(recipe, dict(self.network.named_parameters()))
        self.layout = Layout(self.network, self.optimizer, place)
        self.weights = torch.tensor([1.0, *(weight for _, weight in graph.auxiliary)], device=self.device)
        self.masks = Masks(graph.nodes, recipe.seed, self.device)
        for node in graph.nodes:
            if node.op in DROPS:
                self.network.attach(node, Dropped(node, self.masks))
        self.direct = direct_layer(graph, self.network, recipe, place)
        steady = all(node.op != "native" for node in graph.nodes)
        self.random = Stream(recipe.seed, self.device, not steady)  # a user's module may draw
        self.effort = Effort(graph)
        recorded = steady and place.kind == "cuda" and allowed()
        self.recorder = Recorder(self._step, self._state) if recorded else None

    def put(self, rows: np.ndarray) -> torch.Tensor:
        return from_numpy(rows, self.device)

    def epoch(
        self,
        rows: torch.Tensor,
        targets: np.ndarray,
        order: np.ndarray | None,
        rates: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> tuple[np.ndarray, int]:
        epoch = Epoch.of(rows, targets, order, rates, weights, len(self.weights))
        # a core is left to whoever reads what comes without an order
        size = epoch.targets.shape[1]
        count = min(self.effort.threads(rows, size, STEP), torch.get_num_threads() - (order is None))
        with self._training(rows), threads(count):
            do(epoch, self._step, self.recorder)
        # argmax of NaN is 0
        right = count_right(self.recipe.loss, epoch.outcome, epoch.targets) * epoch.losses[:, 0].isfinite()
        return to_numpy(epoch.losses), int(right.sum())

    def step(
        self, inputs: Any, targets: np.ndarray, rate: float, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        with self._training(inputs), threads(self.effort.threads(inputs, len(targets), STEP)):
            known = native_targets(from_numpy(targets, self.device))
            counts = None if weights is None else from_numpy(weights, self.device)
            loss, predicted = self._step(inputs, known, rate, counts)
        return to_numpy(loss), int(count_right(self.recipe.loss, predicted, known) * loss[0].isfinite())

    def _step(
        self,
        x: Any,
        y: torch.Tensor,
        rate: float | torch.Tensor,
        weights: torch.Tensor | None = None,
        predicted: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses `(outputs,)`, and what the output had predicted, of the targets' shape, in `predicted` if
        that is given. A rate that is a tensor is read by the device."""
        self.masks.begin(len(y))
        if self.direct is not None and weights is None:
            loss, logits = self.direct.backward(to_native(x, self.device), y)
            self.optimizer.step(rate)
            return loss.view(1), predictions(self.recipe.loss, logits, predicted)
        outputs = self._forward(x)
        losses = [mean_loss(self.recipe.loss, logits, y, weights) for logits in outputs]
        self.optimizer.zero_grad()
        if len(losses) == 1:
            # Its weight is 1. Told so, a GPU need not fill one with it; but torch imports sympy to compare shapes.
            losses[0].backward(None if self.device.type == CPU else self.weights[0])
        else:
            torch.stack(losses).dot(self.weights).backward()
        self.optimizer.step(rate)
        told = losses[0].detach().view(1) if len(losses) == 1 else torch.stack(losses).detach()
        return told, predictions(self.recipe.loss, outputs[0].detach(), predicted)

    def _state(self) -> list[torch.Tensor]:
        """All that a step changes."""
        return [*self.network.tensors().values(), *self.optimizer.tensors(), self.masks.step]

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        self.network.eval()
        with torch.inference_mode(), computing(self.place), threads(self.effort.threads(inputs, stop - start)):
            return to_numpy(self._forward(window(inputs, start, stop))[0])

    def params(self) -> dict[str, np.ndarray]:
        tensors = self.network.tensors()
        return {name: exact_numpy(tensors[name]).copy() for name in self.network.graph.param_shapes()}

    def snapshot(self) -> Callable[[], dict[str, np.ndarray]]:
        """Not behind the door, which takes longer than the copies and holds nothing that these depend on."""
        tensors = self.network.tensors()
        copies = {name: tensors[name].detach().clone() for name in self.network.graph.param_shapes()}
        return lambda: {name: exact_numpy(tensor) for name, tensor in copies.items()}

    def state(self) -> dict[str, np.ndarray]:
        drawn = {"random": self.random.state, "masks": self.masks.step}
        return state_of(self.network, self.optimizer) | {n: exact_numpy(t).copy() for n, t in drawn.items()}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        put_back(self.network, self.optimizer, state)
        self.random.state = from_numpy(state["random"].copy())
        self.masks.step.copy_(from_numpy(state["masks"].copy()))

    def _forward(self, rows: Any) -> list[torch.Tensor]:
        """The logits of the output and, in training, of the auxiliary ones."""
        x = to_native(rows, self.device)
        with autocast(self.place):
            outputs = self.network(x)
        return [logits.float() for logits in (outputs if isinstance(outputs, tuple) else (outputs,))]

    @contextmanager
    def _training(self, rows: Any) -> Iterator[None]:
        """`rows`: what is trained on, as it is given."""
        with computing(self.place), self.random.drawn_from():
            self.network.train()
            self._keep_statistics()
            self.layout.choose(rows)
            yield
        synchronize(self.device)

    def _keep_statistics(self) -> None:
        if not self.recipe.train_statistics:
            for module in self.network.modules():
                if keeps_statistics(module):
                    module.eval()


def keeps_statistics(module: nn.Module) -> bool:
    """Whether it is a batch norm of any make: torch's, one derived from these, or a user's own."""
    return isinstance(module, _BatchNorm) or {"running_mean", "running_var"} <= module._buffers.keys()


def _optimizer(recipe: Recipe, parameters: Mapping[str, nn.Parameter]) -> FusedOptimizer:
    by_multiple: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        if recipe.rates.get(name) == 0:
            parameter.requires_grad_(False)
            continue
        by_multiple.setdefault(recipe.rates.get(name, 1.0), []).append(parameter)
    return FusedOptimizer(recipe.optimizer, by_multiple, recipe.optimizer.weight_decay)


class Effort:
    """How much there is to compute of a graph, and so with how many threads: those that have to find together for
    a few microseconds' work cost more than they bring, and a hundred times as much on a machine in use."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._work: dict[tuple[int, ...], float] = {}

    def threads(self, inputs: Any, rows: int, passes: int = 1) -> int:
        """For so many rows of what `inputs` is a batch of, `passes` times what going forward is."""
        if isinstance(inputs, dict):
            return threads_for(math.inf)
        shape = tuple(inputs.shape[1:])
        if shape not in self._work:
            self._work[shape] = self.graph.work(shape)
        return threads_for(self._work[shape] * rows * passes)


STEP = 3  # forward, and backward twice as much


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads, if that is fewer than now, and at least one. With more threads than cores each
    small operation waits for the slowest."""
    before = torch.get_num_threads()
    count = max(1, count)
    if count >= before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
