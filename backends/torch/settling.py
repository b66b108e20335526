"""Buffers and attributes that a module fills as it runs for the first time, such as a table of how far tokens are
apart, which it makes for as many of them as come (ConViT), or what was None until then.

Invariant: what is taken over is the same whatever the module is run on, and a second run leaves it as it is. What
counts runs, or follows the numbers that come, stays as the module's owner has it; then so do all attributes of
that submodule, of which one may say what another is.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from headstart.backends.torch.arrays import batch_of
from headstart.backends.torch.telling import INTERNAL
from headstart.backends.torch.trace import Call, sharing
from headstart.common.errors import SettingError
from headstart.common.log import LOG
from headstart.data.rows import each, with_one_more

PLAIN = (bool, int, float, complex, str, bytes, np.ndarray, np.generic, torch.dtype, torch.device)


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


def empty_of(module: nn.Module) -> list[str]:
    """The names of its buffers that are None."""
    return [
        _joined(path, name)
        for path, part in module.named_modules()
        for name, buffer in part._buffers.items()
        if buffer is None
    ]


def settle(source: nn.Module, ran: nn.Module, call: Call, example: Any, before: dict[str, torch.Tensor]) -> None:
    """Give `source`, and `before`, what its first run fills. `ran`: the copy of it that was run on the example.
    `before`: its buffers, as they were before."""
    filled, made = _moved(before, buffers_of(ran)), {} if _hooks(source) != _hooks(ran) else _changed(source, ran)
    if not filled and not made:
        return
    try:
        call(ran, batch_of(example))
        fresh = _elsewhere(source, call, example, before)
    except Exception:  # of code that takes these samples only
        return
    again, elsewhere = buffers_of(ran), buffers_of(fresh)
    steady = filled.keys() - _moved(filled, again).keys() - _moved(filled, elsewhere).keys()
    for name in steady:
        before[name] = filled[name]
        _put(source, name, filled[name].clone())
    moving = {name.rpartition(".")[0] for name in filled.keys() - steady}
    runs = (_changed(source, ran), _changed(source, fresh)) if made else ({}, {})
    moving |= {
        path
        for path, name in made.keys() | runs[0].keys() | runs[1].keys()
        if not all((path, name) in run and alike(run[path, name], made.get((path, name))) for run in runs)
    }
    tables = {*steady}
    for (path, name), value in made.items():
        if path in moving:
            continue
        module = source.get_submodule(path)
        if name in module._buffers:
            before[_joined(path, name)] = value.clone()
            module._buffers[name] = value
        else:
            vars(module)[name] = value
        tables |= {_joined(path, name)} if isinstance(value, torch.Tensor) else set()
    if tables:
        LOG.info(
            "%s fills %r%s in its first run, whatever it is run on; they are taken as they are then",
            type(source).__name__,
            min(tables),
            f" and {len(tables) - 1} more" if len(tables) > 1 else "",
        )


def _hooks(module: nn.Module) -> list[tuple[str, int, int]]:
    """How many hooks there are, and where. A first run that puts some on, as transformers' do, says so in
    attributes: without the hooks they would not be true."""
    parts = module.named_modules()
    return [(path, len(part._forward_pre_hooks), len(part._forward_hooks)) for path, part in parts]


def _elsewhere(source: nn.Module, call: Call, example: Any, before: dict[str, torch.Tensor]) -> nn.Module:
    """A fresh copy, run on other samples: more of them, where it takes as many."""
    for batch in (with_one_more(example), example):
        fresh = sharing(source, buffers=False)
        for name in before:
            _put(fresh, name, before[name].clone())
        with contextlib.suppress(Exception):
            call(fresh, batch_of(each(others, batch)))
            return fresh
    raise SettingError(f"{type(source).__name__} runs on one example only")


def _changed(source: nn.Module, ran: nn.Module) -> dict[tuple[str, str], Any]:
    """The path of a submodule and the name of an attribute, or of a buffer that was None -> what it is since the
    module ran, copied; of what is made of tensors, numbers and texts."""
    shared = {id(tensor): tensor for tensor in (*source.parameters(), *source.buffers())}
    found = {}
    for path, module in source.named_modules():
        try:
            now = ran.get_submodule(path)
        except AttributeError:
            continue
        was = vars(module) | {name: None for name, tensor in module._buffers.items() if tensor is None}
        is_now = vars(now) | {name: now._buffers.get(name) for name in was.keys() & module._buffers.keys()}
        for name in is_now.keys() - INTERNAL:
            if is_plain(is_now[name]) and not (name in was and alike(was[name], is_now[name])):
                found[path, name] = copy.deepcopy(is_now[name], {**shared})
    return found


def is_plain(value: Any) -> bool:
    """Whether it is a tensor, an array, a number or a text, or a container of such."""
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_plain, value))
    tensor = isinstance(value, torch.Tensor) and not isinstance(value, fx.Proxy) and value.grad_fn is None
    return tensor or value is None or isinstance(value, PLAIN)


def alike(a: Any, b: Any) -> bool:
    """Whether two such values are the same."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return _same(a, b)
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return [*a] == [*b] and all(map(alike, a.values(), b.values()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return is_plain(a) and bool(a == b)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


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


def others(samples: np.ndarray) -> np.ndarray:
    """Other samples of the kind."""
    half = samples.dtype.type(0.5) if samples.dtype.kind == "f" else None
    return np.ascontiguousarray((samples if half is None else samples * half + 1)[::-1])
