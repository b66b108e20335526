"""What a caller may have set in torch for all of a program: gradients off, inference mode, autocast, another
default dtype or device, products by fewer bits, hooks on every module. Nothing of it holds in here, and all of it
holds again outside.

Invariant: what a backend's method gives depends on its arguments alone.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.modules import module as modules

from headstart.backends.doors.torch_arithmetic import arithmetic, coarse_on_cpu
from headstart.common import settled as doors

HOOKS = (
    modules._global_forward_hooks,
    modules._global_forward_pre_hooks,
    modules._global_backward_hooks,
    modules._global_backward_pre_hooks,
)
AUTOCAST = ("cpu", "cuda", "mps", "xpu")
CPU = torch.device("cpu")


outside: dict[int, dict[int, Any]] = {}
"""of hooks on every module, those that the caller has and that are away for now"""


@contextmanager
def global_hooks() -> Iterator[None]:
    """With the caller's hooks on every module, for a module that is run as its owner runs it."""
    with ExitStack() as stack:
        for hooks in HOOKS:
            if kept := outside.get(id(hooks)):
                stack.callback(_put_back, hooks, dict(hooks))
                hooks.update(kept)
        yield


def _no_second_llvm() -> None:
    """triton, which torch's compiler imports with itself, and TensorFlow each have an LLVM, and the one that comes
    second to TensorFlow's ends the process. So where TensorFlow is there first, triton counts as not installed:
    torch does without, and so do tracing, exporting and torchvision."""
    if "tensorflow" in sys.modules:
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]


@contextmanager
def door() -> Iterator[None]:
    """torch's own settings."""
    _no_second_llvm()
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        if torch.get_default_dtype() is not torch.float32:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        if torch.empty(0).device != CPU:  # get_default_device of torch 2.6 knows of no `with device`
            stack.enter_context(CPU)
        for device in AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if coarse_on_cpu():
            stack.enter_context(arithmetic(tf32=False))
        for hooks in HOOKS:
            if hooks:
                outside.setdefault(id(hooks), dict(hooks))
                stack.callback(_put_back, hooks, dict(hooks))
                stack.callback(outside.pop, id(hooks))
                hooks.clear()
        yield


def _put_back(hooks: dict[int, Any], kept: dict[int, Any]) -> None:
    hooks.clear()
    hooks.update(kept)


settled = functools.partial(doors.settled, door)
behind_door = functools.partial(doors.behind, door)
