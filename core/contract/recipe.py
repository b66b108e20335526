"""The plain data that say where a backend computes, and how it updates parameters.

Invariant: whatever a backend needs to know of a setting is here, decided by core; it reads no setting of a user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from headstart.common.machine import cpu_multiplies
from headstart.contract.devices import CPU
from headstart.contract.losses import Loss
from headstart.contract.optimizers import Optimizer

FLOAT32, TF32, BFLOAT16, FLOAT16 = "float32", "tf32", "bfloat16", "float16"
PRECISIONS = (FLOAT32, TF32, BFLOAT16, FLOAT16)
"""of the layers' arithmetic:

* "float32": all of it, whatever the framework's own default; no TF32 anywhere.
* "tf32": numbers are float32, and products and convolutions are computed with TF32's ten bits of mantissa where
  the device has that; elsewhere it is float32.
* "bfloat16", "float16": products and convolutions in it, sums of them and norms in float32, as the frameworks' own
  mixed precision has it. "float16" is for a frozen trunk's inference: gradients would leave its range, so what is
  trained computes in float32.
"""


@dataclass(frozen=True)
class Place:
    """Where and how finely to compute."""

    device: str
    """as `headstart.contract.devices` names it, decided: "cpu", "cuda", "cuda:1", "mps" """
    precision: str
    """of `PRECISIONS`, for the layers' arithmetic; parameters stay float32 where they are trained"""

    @property
    def kind(self) -> str:
        """ "cpu", "cuda", "mps", "xpu", "tpu"."""
        return self.device.partition(":")[0]

    @property
    def index(self) -> int:
        """Which of its kind it is, from 0."""
        return int(self.device.partition(":")[2] or 0)

    @property
    def arithmetic(self) -> str:
        """The precision that layers compute in: a CPU without instructions for halves of numbers takes float32,
        which is finer, and there as fast or several times as fast."""
        half = self.precision in (BFLOAT16, FLOAT16)
        return FLOAT32 if half and self.kind == CPU and not cpu_multiplies(self.precision) else self.precision

    @property
    def for_training(self) -> Place:
        """Where what is trained is computed: float16 is no precision of that."""
        return replace(self, precision=FLOAT32) if self.precision == FLOAT16 else self


@dataclass(frozen=True)
class Recipe:
    """How a trainer updates its parameters; the learning rates come with each step."""

    optimizer: Optimizer
    loss: Loss
    train_statistics: bool
    """whether batch norms use the batch's statistics and move their running ones, of which the variance follows
    the unbiased one (see `headstart.graph.ops`; a wrapped module's own do as their framework does); or use the
    ones that they came with, and keep them"""
    seed: int
    """of dropout and stochastic depth, whose masks `headstart.contract.masks` defines for all backends; and of
    what a wrapped module draws, with its own framework's generator"""
    rates: Mapping[str, float] = field(default_factory=dict)
    """parameter -> multiple of each step's learning rate; 1 where it is not named. What has 0 is not trained: it
    is bit-equal afterwards, weight decay or not"""
