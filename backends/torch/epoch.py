"""An epoch on rows that lie on the device: what each of its steps takes, and where what comes of it goes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from headstart.backends.torch.arrays import from_numpy
from headstart.backends.torch.losses import by_step, native_targets


class Step(Protocol):
    def __call__(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        rate: float | torch.Tensor,
        weights: torch.Tensor | None = None,
        outcome: torch.Tensor | None = None,
        /,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch's rows, targets, learning rate and samples' weights -> the losses `(outputs,)`, and what came of
        its samples: predictions, or how many are right; in `outcome` if that is given. A rate that is a tensor is
        read by the device."""


@dataclass(frozen=True)
class Epoch:
    """Steps to be done. All tensors are on the device."""

    rows: torch.Tensor
    order: torch.Tensor | None
    """int64 `(steps, batch)`; None: rows as they lie"""
    targets: torch.Tensor
    """`(steps, batch, ...)`"""
    weights: torch.Tensor | None
    """`(steps, batch)`; of heads side by side also `(steps, batch, heads)`"""
    rates: np.ndarray
    """float32 `(steps,)`"""
    losses: torch.Tensor
    """float32 `(steps, outputs)`, filled by the steps"""
    outcome: torch.Tensor
    """`(steps, ...)`, filled by the steps: see `Step`"""

    @classmethod
    def of(
        cls,
        rows: torch.Tensor,
        targets: np.ndarray,
        order: np.ndarray | None,
        rates: np.ndarray,
        weights: np.ndarray | None,
        outputs: int,
        outcome: torch.Tensor | None = None,
    ) -> Epoch:
        """Of what `epoch` of the contract takes. `outputs`: how many losses a step has. `outcome`: None for
        predictions, in the targets' shape and dtype."""
        device, steps = rows.device, len(rates)
        size = len(rows) // steps if order is None else order.shape[1]
        places = None if order is None else from_numpy(order, device)
        known = native_targets(by_step(targets, places, steps, size, device))
        return cls(
            rows,
            places,
            known,
            None if weights is None else by_step(weights, places, steps, size, device),
            rates,
            torch.empty(steps, outputs, device=device),
            torch.empty_like(known) if outcome is None else outcome,
        )

    @cached_property
    def device_rates(self) -> torch.Tensor:
        """Where a recorded step reads them."""
        return from_numpy(self.rates, self.rows.device)

    def fill(self, x: torch.Tensor, start: int, count: int) -> None:
        """The rows of `count` steps, one after the other."""
        size = self.targets.shape[1]
        if self.order is None:
            x[: count * size].copy_(self.rows.narrow(0, start * size, count * size))
            return
        places = self.order[start : start + count].flatten()
        if x.dtype == self.rows.dtype:
            torch.index_select(self.rows, 0, places, out=x[: count * size])
        else:
            x[: count * size].copy_(self.rows.index_select(0, places))

    def do(self, step: Step, start: int, stop: int) -> None:
        """The steps from `start` to before `stop`, each as it comes."""
        if start == stop:
            return
        size, results = self.targets.shape[1], []
        # One batch's memory for all of them: fresh pages take longer than what is copied into them.
        gathered = None if self.order is None else self.rows.new_empty(size, *self.rows.shape[1:])
        wide = None if gathered is None or not gathered.is_floating_point() else gathered.float()
        for i, rate in enumerate(self.rates[start:stop].tolist(), start):
            if self.order is None:
                x = self.rows.narrow(0, i * size, size)
            else:  # index_select is three times as fast as indexing
                x = torch.index_select(self.rows, 0, self.order[i], out=gathered)
                x = x if wide is None or wide is gathered else wide.copy_(x)
            weights = None if self.weights is None else self.weights[i]
            results.append(step(x, self.targets[i], rate, weights, self.outcome[i])[0])
        torch.stack(results, out=self.losses[start:stop])
