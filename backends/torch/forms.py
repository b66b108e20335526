"""What people have around the module that they mean: compilers, wrappers for several devices, averages of weights,
other dtypes. The module itself is taken out of them where it is there, and where it is not, what to do is said.

Invariant: whatever passes here is an ordinary module with weights, in float32.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from headstart.common.errors import SettingError

COMPILED = "_orig_mod"
WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "AveragedModel": "module",
    "ModelEma": "ema",
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "OptimizedModule": COMPILED,
}
"""class that wraps a module -> the attribute that holds it"""
OWN = ("torch", "timm")
FLOATS = (torch.float16, torch.bfloat16, torch.float64)


def is_exported(native: Any) -> bool:
    """Whether it is what torch.export gives, which is no module."""
    kind = type(native)
    return kind.__name__ == "ExportedProgram" and kind.__module__.startswith("torch")


def unwrapped(native: Any) -> tuple[nn.Module, tuple[str, ...]]:
    """The module inside of wrappers, and the names that they put before its own: `_orig_mod`, `module`. Raises
    SettingError for what cannot be wrapped in any form."""
    prefixes: tuple[str, ...] = ()
    while (held := _held(native)) and isinstance(getattr(native, held, None), nn.Module):
        native, prefixes = getattr(native, held), (*prefixes, held)
    _check(native)
    return native, prefixes


def _held(native: Any) -> str | None:
    kind = type(native)
    return WRAPPERS.get(kind.__name__) if kind.__module__.partition(".")[0] in OWN else None


def without(cut: str | None, prefixes: tuple[str, ...]) -> str | None:
    """A cut by the module's own names, said with or without the wrappers'."""
    if cut is not None:
        for prefix in prefixes:
            cut = cut.removeprefix(f"{prefix}.")
    return cut


def _check(native: Any) -> None:
    kind = type(native).__name__
    if is_exported(native):
        raise SettingError(
            "an ExportedProgram is for the shapes that it was exported with; wrap the torch.nn.Module that it was "
            "exported from"
        )
    if isinstance(native, torch.jit.ScriptModule):
        raise SettingError(
            f"{kind} is TorchScript, into which neither torch.fx nor a copy can look; wrap the torch.nn.Module "
            "that it was scripted or traced from, with its state dict: net.load_state_dict(scripted.state_dict())"
        )
    for name, tensor in (*native.named_parameters(), *native.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise SettingError(
                f"parameter {name!r} of {kind} is lazy and has no shape yet; run the module once on a batch, then "
                "wrap it"
            )
        if is_traceable_wrapper_subclass(tensor):
            raise SettingError(
                f"parameter {name!r} of {kind} is a {type(tensor).__name__}, which holds its numbers in other "
                "tensors, as torchao's quantized weights and distributed ones do; wrap the module as it was, "
                "with plain tensors"
            )
        if tensor.is_meta:
            raise SettingError(
                f"parameter {name!r} of {kind} is on the meta device and has no numbers; materialise it first: "
                "net.to_empty(device='cpu') and net.load_state_dict(...)"
            )


def tell_of_gradient_hooks(native: nn.Module) -> None:
    """Warn of hooks on gradients, which a copy of a parameter, or a traced part, does not have."""
    parameters = (name for name, p in native.named_parameters() if getattr(p, "_backward_hooks", None))
    modules = (
        name or type(native).__name__
        for name, m in native.named_modules()
        if next(m.children(), None) is not None and (m._backward_hooks or m._backward_pre_hooks)
    )
    if names := [*parameters, *modules]:
        warnings.warn(
            f"{names[0]!r} has a hook on its gradients, and {len(names) - 1} others; headstart trains a copy "
            "without them. To freeze a parameter use requires_grad_(False)",
            stacklevel=2,
        )


@contextlib.contextmanager
def told_of_casts(module: nn.Module, was: torch.dtype | None) -> Iterator[None]:
    """SettingError where a copy that was in that dtype fails in float32, as its forward makes the numbers that it
    computes with what they were itself."""
    try:
        yield
    except RuntimeError as error:
        if was is None or "dtype" not in str(error):
            raise
        kind = str(was).removeprefix("torch.")
        raise SettingError(
            f"{type(module).__name__} is in {kind}, and headstart runs it in float32, where it fails ({error}): "
            f"its forward makes numbers {kind} itself, as x.to(torch.{kind}) does. Write "
            "x.to(next(self.parameters()).dtype) there"
        ) from error


def to_float32(copied: nn.Module) -> torch.dtype | None:
    """Make the copy of a module in another precision one in float32: in what headstart feeds and trains. It is
    said. What it was in; None where that was no other. Single tensors in another dtype beside float32 ones are the
    module's own matter."""
    parameters = [p for p in copied.parameters() if p.is_floating_point()]
    kinds = {p.dtype for p in parameters}
    if len(kinds) == 1 and (kind := kinds.pop()) in FLOATS:
        warnings.warn(
            f"{type(copied).__name__} is in {str(kind).removeprefix('torch.')}; its copy is taken as float32, in "
            "which headstart trains. precision='bfloat16' extracts its features faster",
            stacklevel=2,
        )
        copied.float()
        return kind
    return None
