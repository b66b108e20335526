"""Buffers that a module fills as it runs for the first time, such as a table of how far tokens are apart, which
it makes for as many of them as come (ConViT).

Invariant: what is taken over is the same whatever the module is run on, and a second run leaves it as it is. What
counts runs, or follows the numbers that come, stays as the module's owner has it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from headstart.backends.torch.arrays import batch_of
from headstart.backends.torch.trace import Call, sharing
from headstart.common.errors import SettingError
from headstart.common.log import LOG
from headstart.data.rows import each


def check_made(source: nn.Module, ran: nn.Module) -> None:
    """SettingError for a module that makes parameters of its own in its first run. `ran`: the copy that ran."""
    before = dict(source.named_parameters())
    if made := [name for name, _ in ran.named_parameters() if name not in before]:
        raise SettingError(
            f"{type(source).__name__} makes parameter {made[0]!r} as it runs for the first time, so it has no "
            "weights yet; run it once on a batch, load its weights if there are any, then wrap it"
        )


def buffers_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Its buffers by name, as they are now."""
    return {name: buffer.detach().clone() for name, buffer in module.named_buffers()}


def settle(source: nn.Module, ran: nn.Module, call: Call, example: Any, before: dict[str, torch.Tensor]) -> None:
    """Give `source`, and `before`, the buffers that its first run fills. `ran`: the copy of it that was run on the
    example. `before`: its buffers, as they were before."""
    filled = _moved(before, buffers_of(ran))
    if not filled:
        return
    fresh = sharing(source, buffers=False)
    for name in before:
        _put(fresh, name, before[name].clone())
    try:
        call(ran, batch_of(example))
        call(fresh, each(_others, batch_of(example)))
    except Exception:  # of code that takes these samples only
        return
    again, elsewhere = buffers_of(ran), buffers_of(fresh)
    steady = filled.keys() - _moved(filled, again).keys() - _moved(filled, elsewhere).keys()
    for name in steady:
        before[name] = filled[name]
        _put(source, name, filled[name].clone())
    if steady:
        LOG.info(
            "%s fills %r%s in its first run, whatever it is run on; they are taken as they are then",
            type(source).__name__,
            min(steady),
            f" and {len(steady) - 1} more buffers" if len(steady) > 1 else "",
        )


def _moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those that are others afterwards."""
    return {name: after[name] for name in before if name in after and not _same(before[name], after[name])}


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype is not b.dtype or a.is_quantized or b.is_quantized:
        return a is b
    return torch.equal(a, b) or bool(a.is_floating_point() and torch.allclose(a, b, 0, 0, equal_nan=True))


def _put(module: nn.Module, name: str, buffer: torch.Tensor) -> None:
    """Have the module hold this one, wherever it holds the one of that name."""
    held = module.get_buffer(name)
    for submodule in module.modules():
        for key, other in submodule._buffers.items():
            if other is held:
                submodule._buffers[key] = buffer


def _others(x: torch.Tensor) -> torch.Tensor:
    """Other samples of the kind."""
    return (x * 0.5 + 1 if x.is_floating_point() else x).flip(0)
