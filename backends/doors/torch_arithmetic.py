"""How torch multiplies float32 numbers. It has switches for that, of all of a program: on a GPU convolutions are
computed in TF32 unless somebody says otherwise, and `torch.set_float32_matmul_precision` lets a CPU do it in
bfloat16. Here a precision decides, of this package's own.

Invariant: float32 is float32, on every device and whatever the caller has set, which holds again outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

B: Any = torch.backends
FINE, COARSE = "ieee", "tf32"


def _newer() -> tuple[list[Any], list[Any]]:
    """What torch 2.9 and later have: switches by library and kind of operation, of GPUs and of CPUs."""
    if not hasattr(B.cuda.matmul, "fp32_precision"):
        return [], []
    cpu = [getattr(B.mkldnn, kind, None) for kind in ("matmul", "conv", "rnn")]
    return [B.cuda.matmul, B.cudnn.conv, B.cudnn.rnn], [switch for switch in cpu if switch is not None]


GPU_SWITCHES, CPU_SWITCHES = _newer()


@contextmanager
def arithmetic(tf32: bool) -> Iterator[None]:
    """float32 products and convolutions by TF32's ten bits on GPUs that have it, or by all of their own; on a CPU
    by all of them."""
    undo: list[Callable[[], None]] = []
    try:
        _switch(undo, tf32)
        yield
    finally:
        for back in undo:
            back()


def _switch(undo: list[Callable[[], None]], tf32: bool) -> None:
    before = [(switch, switch.fp32_precision) for switch in (*GPU_SWITCHES, *CPU_SWITCHES)]
    older: list[tuple[Callable[[], Any], Callable[[Any], None], Any]] = [
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "high" if tf32 else "highest"),
        (lambda: B.cudnn.allow_tf32, partial(setattr, B.cudnn, "allow_tf32"), tf32),
    ]
    for get, put, value in older:
        try:
            kept = get()
        except RuntimeError:  # where a program has used the newer switches torch does not tell any more
            continue
        undo.append(partial(put, kept))
        put(value)
    undo += [partial(setattr, switch, "fp32_precision", kept) for switch, kept in before]
    for switches, mode in ((GPU_SWITCHES, COARSE if tf32 else FINE), (CPU_SWITCHES, FINE)):
        for switch in switches:
            switch.fp32_precision = mode


def coarse_on_cpu() -> bool:
    """Whether the caller has let CPUs multiply float32 numbers by fewer bits. Else no switch is needed."""
    if CPU_SWITCHES:
        return any(switch.fp32_precision not in ("none", FINE) for switch in CPU_SWITCHES)
    return bool(torch.get_float32_matmul_precision() != "highest")
