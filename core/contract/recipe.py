"""The plain data that say where a backend computes, and how it updates parameters.

Invariant: whatever a backend needs to know of a setting is here, decided by core; it reads no setting of a user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headstart.contract.optimizers import Optimizer

PRECISIONS = ("float32", "bfloat16")
AUTO = "auto"
"""a device that every backend takes, and decides"""


@dataclass(frozen=True)
class Place:
    """Where and how finely to compute."""

    device: str
    """"auto", or one that the backend's description names ("cpu", "cuda"); a backend's `place` returns it with
    "auto" decided"""
    precision: str
    """"float32" or "bfloat16" for the layers' arithmetic; parameters stay float32 where they are trained"""


@dataclass(frozen=True)
class Recipe:
    """How a trainer updates its parameters; the learning rates come with each step."""

    optimizer: Optimizer
    label_smoothing: float
    train_statistics: bool
    """whether batch norms use the batch's statistics and move their running ones, of which the variance follows
    the unbiased one (see `headstart.graph.ops`; a wrapped module's own do as their framework does); or use the
    ones that they came with, and keep them"""
    seed: int
    """of dropout; its masks are the framework's own and differ between backends"""
    rates: Mapping[str, float] = field(default_factory=dict)
    """parameter -> multiple of each step's learning rate; 1 where it is not named. What has 0 is not trained: it
    is bit-equal afterwards, weight decay or not"""
