"""Torch modules in which a trace, or a copy, would quietly compute something else: writes in place, gradients that
are switched off, layers that are skipped at random, numbers hidden beside large ones."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from own_torch import Small
from torch import fx, nn


class Head(nn.Module):
    """The convolution and the classifier of `Small`, with something between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(8, 12, 3, 2), nn.Linear(12, 10)

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.between(self.conv(x)).mean((2, 3)))


class Trap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act, self.head = nn.Conv2d(3, 8, 3, 2), nn.ReLU(inplace=True), Head()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.stem(x)))


class WritesInput(Trap):
    """Its normalisation is done in the caller's memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.sub_(0.5)
        x /= 2
        return super().forward(x)


class WritesFeatures(Trap):
    """What is computed in place is taken from its old name."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x.mul_(2)
        self.act(x)
        F.leaky_relu(x, 0.1, inplace=True)
        x.add_(1)
        return self.head(x)


class DropsInPlace(Trap):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Hardswish(inplace=True)
        self.drop = nn.Dropout(0.5, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.drop(self.stem(x))))


class WithoutGradients(Trap):
    """Of its head, too, one part is kept out of training."""

    class Frozen(Head):
        def __init__(self) -> None:
            super().__init__()
            self.side = nn.Conv2d(12, 12, 1)

        @torch.no_grad()
        def aside(self, x: torch.Tensor) -> torch.Tensor:
            return self.side(x)

        def between(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.aside(x)

    def __init__(self) -> None:
        super().__init__()
        self.head = self.Frozen()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x = self.stem(x)
        return self.head(self.act(x))


class Skipping(nn.Module):
    """A layer that is skipped in half of all batches."""

    def __init__(self, chance: Any) -> None:
        super().__init__()
        self.layer, self.chance = nn.Conv2d(12, 12, 1), chance

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.training and self.chance() < 0.5 else x + 50 * self.layer(x)


def by_torch() -> float:
    return torch.rand(1).item()


class Skips(Trap):
    def __init__(self, chance: Any = random.random) -> None:
        super().__init__()
        self.skipping = Skipping(chance)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head.fc(self.skipping(self.head.conv(self.stem(x))).mean((2, 3)))


class SkipsItself(Trap):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x if self.training and random.random() < 0.5 else self.act(x))


class Averages(nn.Module):
    """A batch norm of somebody's own, which keeps its mean by assignment and its variance in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
            self.running_mean = 0.9 * self.running_mean + 0.1 * mean.detach()
            self.running_var.lerp_(variance.detach(), 0.1)
        return (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()


class Averaged(Trap):
    def __init__(self) -> None:
        super().__init__()
        self.act = Averages()


class MeansMore(Trap):
    """In training there is a mean before the one that the classifier takes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.training:
            x = x - x.mean((2, 3))[:, :, None, None]
        return self.head.fc(self.head.conv(self.act(x)).mean((2, 3)))


class SeveralInTraining(Trap):
    def forward(self, x: torch.Tensor) -> Any:
        x = super().forward(x)
        return (x, x) if self.training else x


class Constant(Trap):
    """Noise that a trace would take for a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + 0.1 * torch.randn(3, 1, 1))


class Casts(Trap):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            x = self.head.conv(self.act(self.stem(x)))
        return self.head.fc(x.float().mean((2, 3)))


class Half(Trap):
    """Its convolutions are in half precision, its classifier is not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.bfloat16()
        self.head.conv.bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head.conv(self.act(self.stem(x.bfloat16())))
        return self.head.fc(x.float().mean((2, 3)))


class Beside(Trap):
    """Dropout that never ends, beside a channel of large numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(super().forward(x), 0.5, True)
        return torch.cat([torch.full_like(x[:, :1], 3e4), x], 1)


class Codes(Trap):
    """A table of codes, of which float16 would not hold the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.codes, self.table = nn.Identity(), nn.Embedding(8192, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        codes = self.codes((self.stem(x).flatten(2).sum(1) * 1e4).long() % 8192)
        return self.table(codes).mean(1)


class Scaled(Trap):
    """Behind its classifier are a temperature and an offset, which are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature, self.offset = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.zeros(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / self.temperature + self.offset


class Keeps(Trap):
    """What it has computed hangs on it, and it looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x = self.stem(x)
        self.all.append(x)
        return self.head(x if x.sum() < 1e9 else -x)


SHARED: dict[str, torch.Tensor] = {}


class Caches(Trap):
    """What it needs it computes once, and keeps it in a global."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if "slope" not in SHARED:
            SHARED["slope"] = torch.linspace(0, 1, 8).view(8, 1, 1) * x.new_ones(8, 1, 1)
        return self.head(x * SHARED["slope"])


class Set(Small):
    """It computes by a setting of its class and by one of this module, and looks at values."""

    factor = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * self.factor * FACTOR if x.sum() < 1e9 else x)


FACTOR = 1.0


class Repeats(nn.Module):
    """The same layer may stand in it twice; it looks at values, so it is not traced."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x if x.sum() < 1e9 else -x)
        return x


OUTSIDE = nn.Conv2d(3, 3, 1)


class UsesOutside(Small):
    """It computes with a module that is none of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(OUTSIDE(x) if x.sum() < 1e9 else x)


class Numbered(Small):
    """It counts the runs of all modules of its kind."""

    runs = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Numbered.runs += 1
        return super().forward(x if x.sum() < 1e9 else -x)


def scaled(module: Any, _given: Any, value: torch.Tensor) -> torch.Tensor:
    return value * module._factor


def scaled_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    return nn.Conv2d.forward(self, x) * self._factor


@fx.wrap
def windowed(sides: list[int], x: torch.Tensor) -> torch.Tensor:
    """As torchvision's windows of three axes are told: the list is changed."""
    sides[0] += 1
    return x * sides[0]


class Windowed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(windowed([1, 2], self.conv(x).mean((2, 3))))
