"""Optimisers: torch's fused functions with what they keep between steps.

torch's own classes do the same around these functions, but importing torch's compiler belongs to making one: two
seconds of a processor before the first step of every process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from headstart.contract.optimizers import SGD, Optimizer


class FusedOptimizer:
    """Steps of parameters along their gradients, by the rules of torch.optim.SGD or torch.optim.AdamW.

    `groups` are the parameters by the multiple of the rate at which they learn; `weight_decay` stands in place of
    the settings' own. Parameters without a gradient stay as they are.
    """

    def __init__(
        self, settings: Optimizer, groups: Mapping[float, Sequence[torch.Tensor]], weight_decay: float
    ) -> None:
        self.settings, self.groups, self.weight_decay = settings, groups, weight_decay
        self._momentum: dict[torch.Tensor, torch.Tensor] = {}
        self._moments: dict[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        """of a parameter: the averages of its gradient and of the gradient's square, and its number of steps"""

    def zero_grad(self) -> None:
        for parameters in self.groups.values():
            for parameter in parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float | torch.Tensor) -> None:
        """A rate that is a tensor is read by the device."""
        for multiple, parameters in self.groups.items():
            moved = [parameter for parameter in parameters if parameter.grad is not None]
            gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
            if moved:
                update = self._sgd if isinstance(self.settings, SGD) else self._adamw
                update(moved, gradients, rate if multiple == 1 else rate * multiple)

    def _sgd(self, moved: list[torch.Tensor], gradients: list[torch.Tensor], rate: float | torch.Tensor) -> None:
        o = self.settings
        assert isinstance(o, SGD)
        momentum = [self._momentum.get(parameter) for parameter in moved]
        sgd(
            moved, gradients, momentum, fused=True, lr=rate, momentum=o.momentum, nesterov=o.nesterov,
            weight_decay=self.weight_decay, dampening=0.0, maximize=False,
        )  # fmt: skip
        self._momentum |= {p: kept for p, kept in zip(moved, momentum, strict=True) if kept is not None}

    def _adamw(self, moved: list[torch.Tensor], gradients: list[torch.Tensor], rate: float | torch.Tensor) -> None:
        o = self.settings
        assert not isinstance(o, SGD)
        for parameter in moved:
            if parameter not in self._moments:
                average, square, count = self._zeros(parameter)
                self._moments[parameter] = (average, square, count)
        averages, squares, steps = map(list, zip(*(self._moments[parameter] for parameter in moved), strict=True))
        adamw(
            moved, gradients, averages, squares, [], steps, fused=True, lr=rate, beta1=o.beta1, beta2=o.beta2,
            eps=o.epsilon, weight_decay=self.weight_decay, amsgrad=False, maximize=False,
        )  # fmt: skip

    def state(self) -> list[dict[str, torch.Tensor]]:
        """What is kept of each parameter, in the order of the groups; zeros before its first step."""
        kinds, states = self._kinds(), []
        for parameter in (parameter for parameters in self.groups.values() for parameter in parameters):
            kept = self._kept(parameter)
            states.append(dict(zip(kinds, kept or self._zeros(parameter), strict=True)))
        return states

    @torch.no_grad()
    def load_state(self, states: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """What `state` gave. Tensors that are there stay the same ones, which a recorded step writes to."""
        parameters = [parameter for parameters in self.groups.values() for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                continue
            kept = self._kept(parameter) or self._zeros(parameter)
            for tensor, name in zip(kept, self._kinds(), strict=True):
                tensor.copy_(state[name])
            if isinstance(self.settings, SGD):
                self._momentum[parameter] = kept[0]
            else:
                self._moments[parameter] = (kept[0], kept[1], kept[2])

    def follow(self) -> None:
        """What is kept of a parameter lies in memory as the parameter does, which has been laid out anew."""
        for parameter in (*self._momentum, *self._moments):
            for kept in self._kept(parameter):
                if kept.shape == parameter.shape:
                    kept.data = torch.empty_like(parameter).copy_(kept)

    def _kinds(self) -> tuple[str, ...]:
        if isinstance(self.settings, SGD):
            return ("momentum",) if self.settings.momentum else ()
        return "average", "square", "steps"

    def _kept(self, parameter: torch.Tensor) -> tuple[torch.Tensor, ...]:
        momentum = self._momentum.get(parameter)
        return self._moments.get(parameter, ()) if momentum is None else (momentum,)

    def _zeros(self, parameter: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if isinstance(self.settings, SGD):
            return tuple(torch.zeros_like(parameter) for _ in self._kinds())
        return torch.zeros_like(parameter), torch.zeros_like(parameter), torch.zeros((), device=parameter.device)

    def tensors(self) -> list[torch.Tensor]:
        """What is kept between steps: momentum, or moments and counters."""
        return [*self._momentum.values(), *(moment for moments in self._moments.values() for moment in moments)]
