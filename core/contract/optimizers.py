"""Optimisers and schedules as plain data. The learning rate of every step is computed here, so that all
backends take the same steps; a backend only applies the update rule that an optimiser names.

The rules, for gradient g and rate r at each step:

* SGD: g += weight_decay * p; v = momentum * v + g; p -= r * (g + momentum * v if nesterov else v).
  The rate is outside the velocity, as in torch and optax; Keras's own SGD has it inside, which differs as
  soon as the rate changes.
* AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101): p -= r * (m_hat / (sqrt(v_hat) + epsilon)
  + weight_decay * p).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from headstart.common.errors import SettingError, UnknownNameError
from headstart.common.numbers import FLOAT32_LARGEST, FLOAT32_LEAST


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise SettingError(message)


def _is_number(value: Any) -> bool:
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return real and math.isfinite(value)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent."""

    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_rates(self)
        _require(0 <= self.momentum < 1, f"momentum={self.momentum}; expected 0 <= momentum < 1")
        _require(not self.nesterov or self.momentum > 0, "nesterov=True needs a momentum above 0")


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay."""

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        _check_rates(self)
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"{name}={value}; expected 0 <= {name} < 1")
        _require(self.epsilon > 0, f"epsilon={self.epsilon}; expected a positive number")


Optimizer = SGD | AdamW
OPTIMIZERS = {"sgd": SGD, "adamw": AdamW}


def _check_rates(optimizer: Any) -> None:
    for name, value in asdict(optimizer).items():
        if name == "nesterov":
            _require(isinstance(value, bool | np.bool_), f"nesterov={value!r}; expected True or False")
            object.__setattr__(optimizer, name, bool(value))
        else:
            _require(_is_number(value), f"{name}={value!r}; expected a finite number")
            # of whatever type it came, Python's own: Keras refuses integers, and JSON numpy's numbers
            object.__setattr__(optimizer, name, float(value))
    lr, decay = optimizer.lr, optimizer.weight_decay
    _require(lr > 0, f"lr={lr}; expected a positive number")
    _require(decay >= 0, f"weight_decay={decay}; expected 0 or a positive number")
    # a rate that is 0 in the arithmetic of the steps would train nothing, and say nothing of it
    least, largest = FLOAT32_LEAST, FLOAT32_LARGEST
    _require(least <= lr <= largest, f"lr={lr}; expected {least:.1e} to {largest:.1e}, as float32 has numbers")
    _require(decay <= largest, f"weight_decay={decay}; expected {largest:.1e} at most, as float32 has numbers")


def optimizer_of(optimizer: str | Optimizer | None, default: Optimizer, lr: float | None = None) -> Optimizer:
    """The optimiser meant by a name, an object, or None (`default`), with `lr` in place of its own."""
    if optimizer is None:
        optimizer = default
    elif isinstance(optimizer, str) and optimizer in OPTIMIZERS:
        optimizer = OPTIMIZERS[optimizer]()
    if not isinstance(optimizer, SGD | AdamW):
        raise UnknownNameError("optimizer", optimizer, OPTIMIZERS, " (or pass hs.SGD(...), hs.AdamW(...))")
    return optimizer if lr is None else replace(optimizer, lr=lr)


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run: a linear warm-up, then constant or half a cosine down to zero
    (Loshchilov & Hutter 2016, arXiv:1608.03983)."""

    kind: str = "constant"
    """"constant" or "cosine\""""
    warmup: float = 0.0
    """share of all steps, 0 <= warmup < 1"""

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise UnknownNameError("schedule", self.kind, SCHEDULES)
        share = _is_number(self.warmup) and 0 <= self.warmup < 1
        _require(share, f"warmup={self.warmup!r}; expected a share of the steps, 0 <= warmup < 1")
        object.__setattr__(self, "warmup", float(self.warmup))

    def rates(self, lr: float, steps: int) -> np.ndarray:
        """float32 `(steps,)`: the learning rate of each step of the whole run."""
        warm = round(self.warmup * steps)
        t = np.arange(steps)
        factor = np.ones(steps)
        if self.kind == "cosine":
            factor = 0.5 * (1 + np.cos(np.pi * np.clip((t - warm) / max(1, steps - warm), 0, 1)))
        if warm:
            factor = np.where(t < warm, (t + 1) / (warm + 1), factor)
        return (lr * factor).astype(np.float32)


SCHEDULES = ("constant", "cosine")


def schedule_of(schedule: str | Schedule, warmup: float = 0.0) -> Schedule:
    """The schedule meant by a name with its warm-up, or by an object."""
    return schedule if isinstance(schedule, Schedule) else Schedule(schedule, warmup)


def as_dict(optimizer: Optimizer) -> dict[str, Any]:
    """JSON-able: the name and every setting."""
    return {"name": type(optimizer).__name__.lower(), **asdict(optimizer)}
