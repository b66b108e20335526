"""Dropout and stochastic depth as `headstart.contract.masks` has them: on a CPU by its own functions, which take a
third of the time of as many calls of torch; elsewhere in torch's int32, whose right shifts keep the sign, which is
masked out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from headstart.contract.devices import CPU
from headstart.contract.masks import (
    AT_ONCE,
    DROPS,
    FIRST,
    SECOND,
    SHIFTS,
    ElementFactors,
    key_of,
    of_sample_factors,
    of_samples,
    scale_of,
    threshold_of,
)
from headstart.graph import Node


class Masks:
    """Those of one training. The number of the step is a tensor: a recorded step reads and raises it, too."""

    def __init__(self, nodes: Iterable[Node], seed: int, device: torch.device) -> None:
        names = [node.name for node in nodes if node.op in DROPS]
        self.places = {name: place for place, name in enumerate(names)}
        self.known = [key_of(seed, name) for name in names]
        self.on_cpu = device.type == CPU
        self.keys = torch.tensor([[key] for key in self.known], dtype=torch.int32, device=device)
        self.step = torch.zeros((), dtype=torch.int32, device=device)
        self.ahead, self.first = np.empty((len(names), 0, 0), np.uint32), 0
        """on a CPU: what is drawn for the samples `(layers, steps, n)` of the steps from the first on"""
        self.elements: dict[tuple[str, int], ElementFactors] = {}

    @torch.no_grad()
    def begin(self, count: int) -> None:
        """The next step, on so many samples."""
        if not self.places:  # a GPU would be given one kernel more
            return
        if self.on_cpu:
            self.drawn = self._drawn(int(self.step), count)
        else:
            of_step = _mixed(self.keys ^ _mixed(self.step))
            self.samples = _mixed(of_step ^ self._mixed_count(count))
        self.step += 1

    def _drawn(self, step: int, count: int) -> np.ndarray:
        """For the step's samples, `(layers, n)`. Of many steps at once: a call takes longer than a number."""
        _, steps, known = self.ahead.shape
        if known != count or not self.first <= step < self.first + steps:
            steps = max(1, AT_ONCE // max(1, count))
            self.ahead, self.first = np.stack([of_samples(key, step, count, steps) for key in self.known]), step
        drawn: np.ndarray = self.ahead[:, step - self.first]
        return drawn

    def of_samples(self, name: str, rate: float, dtype: torch.dtype) -> torch.Tensor:
        """`(n,)`: what each sample of the step's batch is multiplied by."""
        place = self.places[name]
        if self.on_cpu:
            return torch.from_numpy(of_sample_factors(self.drawn[place], rate)).to(dtype)
        return _factors(self.samples[place], rate, dtype)

    def of_elements(self, name: str, rate: float, size: int, dtype: torch.dtype) -> torch.Tensor:
        """`(n, size)`: what each of a sample's numbers is multiplied by, to be used before the next step."""
        place = self.places[name]
        if self.on_cpu:
            if (name, size) not in self.elements:
                self.elements[name, size] = ElementFactors(size, rate)
            return torch.from_numpy(self.elements[name, size](self.drawn[place])).to(dtype)
        x = self.samples[place].unsqueeze(1) ^ self._mixed_count(size)
        return _factors(_shifted(x.mul_(FIRST), SHIFTS[1]).mul_(SECOND), rate, dtype)

    def _mixed_count(self, count: int) -> torch.Tensor:
        return _mixed(torch.arange(count, dtype=torch.int32, device=self.keys.device))


class Dropped(nn.Module):
    """In the place of a node's layer, where a trainer trains it."""

    def __init__(self, node: Node, masks: Masks) -> None:
        super().__init__()
        self.name, self.op, self.rate, self.masks = node.name, node.op, node.attrs["rate"], masks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        with torch.no_grad():
            factors = self._factors(x)
        if x.requires_grad or factors.shape != x.shape:
            return x * factors
        return factors.mul_(x)  # where the factors lay: fresh memory takes longer than the product

    def _factors(self, x: torch.Tensor) -> torch.Tensor:
        if self.op == "drop_path":
            return self.masks.of_samples(self.name, self.rate, x.dtype).view(-1, *[1] * (x.ndim - 1))
        flat = self.masks.of_elements(self.name, self.rate, x[0].numel(), x.dtype)
        if x.ndim == 4:  # the op table has channels last
            n, c, h, w = x.shape
            return flat.view(n, h, w, c).permute(0, 3, 1, 2)
        return flat.view(x.shape)


def _mixed(x: torch.Tensor) -> torch.Tensor:
    before, between, behind = SHIFTS
    x = _shifted(x.clone(), before).mul_(FIRST)
    return _shifted(_shifted(x, between).mul_(SECOND), behind)


def _shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    return x.bitwise_xor_((x >> by).bitwise_and_((1 << (32 - by)) - 1))


def _factors(drawn: torch.Tensor, rate: float, dtype: torch.dtype) -> torch.Tensor:
    return (drawn >= threshold_of(rate)).to(dtype).mul_(scale_of(rate))
