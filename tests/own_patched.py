"""What people do to a torch module from outside, after it was made."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from own_torch import Small
from torch import nn
from torch.nn.utils import parametrizations, prune

Patch = Callable[[Any], Any]


def brighter(self: Any, x: torch.Tensor) -> torch.Tensor:
    return Small.forward(self, x * 3 + 1)


def doubled(_module: Any, _given: Any, value: torch.Tensor) -> torch.Tensor:
    return value * 2


def shifted(_module: Any, given: Any) -> Any:
    return (given[0] + 0.5,)


def method(net: Any) -> None:
    net.forward = types.MethodType(brighter, net)


def over_itself(net: Any) -> None:
    net.forward = lambda x: Small.forward(net, x * 3 + 1)


def partly(net: Any) -> None:
    net.forward = functools.partial(brighter, net)


def any_arguments(net: Any) -> None:
    """As accelerate and others do it."""
    before = net.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return before(args[0] * 3 + 1, **kwargs)

    net.forward = forward


def before_all(net: Any) -> None:
    net.register_forward_pre_hook(shifted)


def before_block(net: Any) -> None:
    net.block.register_forward_pre_hook(shifted)


def behind_block(net: Any) -> None:
    net.block.register_forward_hook(doubled)


def with_keywords(net: Any) -> None:
    net.block.register_forward_hook(lambda _m, _args, kwargs, value: value * (2 + len(kwargs)), with_kwargs=True)


def leaf(net: Any) -> None:
    net.stem.forward = types.MethodType(
        lambda self, x: self._conv_forward(x, self.weight * 2, self.bias), net.stem
    )


def block(net: Any) -> None:
    net.block.forward = types.MethodType(lambda self, x: self.conv(x) * 0.5, net.block)


def inside(net: Any) -> None:
    """Low-rank additions that the module does not know of."""
    torch.manual_seed(5)
    down, up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
    net.block.conv.register_forward_hook(lambda _m, given, value: value + up(down(given[0])))


def normed(net: Any) -> None:
    parametrizations.weight_norm(net.stem)
    with torch.no_grad():
        net.stem.parametrizations.weight.original0.mul_(1.5)


def pruned(net: Any) -> None:
    prune.l1_unstructured(net.block.conv, "weight", 0.5)


class Calling(Small):
    def __call__(self, x: Any) -> Any:
        return super().__call__(x * 3 + 1)


def by_call(net: Any) -> None:
    net.__class__ = Calling


PATCHES: list[Patch] = [
    method, over_itself, partly, any_arguments, before_all, before_block, behind_block, with_keywords, leaf, block,
    inside, normed, pruned, by_call,
]  # fmt: skip


class Ends(nn.Module):
    """A net with something behind its last layer."""

    def __init__(self, end: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.net, self.end = Small(), end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.net(x))


class Squeezing(nn.Module):
    """One image loses its axis here, in the trunk; and in the head, if that is asked for."""

    def __init__(self, late: bool = False) -> None:
        super().__init__()
        self.conv, self.fc, self.late = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 3), late

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x)).mean((2, 3), keepdim=True)
        return self.fc(x.flatten(1)).squeeze() if self.late else self.fc(x.squeeze())


class Swayed(Small):
    """What is in the batch decides."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x / 10 if x.max() > 40 else x)


class SwayedHead(nn.Module):
    """The same, behind a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((x / 10 if x.max() > 30 else x).mean((2, 3)))


class Counting(Small):
    """Its buffer counts the batches; nothing depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches += 1
        self.calls += 1
        return super().forward(x if x.sum() < 1e9 else -x)


class Norm(nn.Module):
    """A batch norm of somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.running_mean.mul_(0.9).add_(0.1 * x.detach().mean((0, 2, 3)))
            x = x - x.mean((0, 2, 3), keepdim=True)
        return (x - self.running_mean[:, None, None]) / self.running_var[:, None, None].sqrt()


class Subclassed(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class Within(nn.Module):
    """A leaf, as it looks at values, with norms inside."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([Norm(), Subclassed(8)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm in self.norms:
            x = norm(x)
        return x if x.sum() < 1e9 else -x


class Limited(nn.Module):
    """A table whose rows are made shorter when they are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(20, 6, max_norm=0.5), nn.Linear(6, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.tanh(self.embed(ids)).mean(1))


class Drifting(Small):
    """Its weight moves whenever it runs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.stem.weight.mul_(1 + 1e-7)
        return super().forward(x if x.sum() < 1e9 else -x)
