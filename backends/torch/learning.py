"""What a module does in training, as far as a trace holds it: what is at a cut there, and which submodules have to
stay whole.

Invariant: what is trained is what the module does at that very place, or it is said that it is not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from headstart.backends.torch.shapes import found_by
from headstart.backends.torch.trace import Call, Traced


def traced_in_training(source: nn.Module, call: Call, example: Any) -> Traced | None:
    """The trace in training, or None where there is none."""
    return Traced.of(source, call, training=True, whole=writers(source, call, example))


def tell_unfollowed(source: nn.Module, cut: str) -> None:
    """Warn that what is trained is what the module does in inference."""
    warnings.warn(
        f"in training {type(source).__name__} does at {cut!r} what torch.fx cannot follow, such as skipping "
        "layers at random, keeping statistics or giving more than one tensor: what is trained of it runs as in "
        "inference. Put that into a submodule of its own",
        stacklevel=2,
    )


def counterpart(traced: Traced, learning: Traced, node: fx.Node) -> fx.Node | None:
    """What is in training at the place of `node`, which is of the trace in inference; None where that cannot be
    told. A name is not enough: in training there may be more of its kind before it."""
    places, theirs = traced.tracer.places, learning.tracer.places
    here = [n for n in traced.names if places[n] == places[node]]
    there = [n for n in learning.names if theirs[n] == places[node]]
    if len(here) == len(there):
        return there[here.index(node)]
    for path, result in traced.tracer.results.items():
        if result is node and (last := learning.tracer.results.get(path)) in learning.names:
            return last
    kind, kinds = places[node][:2], [n for n in learning.names if theirs[n][:2] == places[node][:2]]
    same = [n for n in traced.names if places[n][:2] == kind]
    return kinds[same.index(node)] if len(same) == len(kinds) else None


def writers(source: nn.Module, call: Call, example: Any) -> set[str]:
    """Submodules that write to buffers, or to parameters without a gradient, when they are trained: statistics,
    averages, counters. A trace would not hold it. "": the module itself."""
    try:
        return found_by(partial(_writers, call), source, example)
    except Exception:  # in training it may want what the example does not hold, such as more samples
        return set()


def _writers(call: Call, shell: nn.Module, batch: Any) -> set[str]:
    own = {path for path, module in shell.named_modules() if not type(module).__module__.startswith("torch.nn.")}

    def states(of: set[str] | None = None) -> dict[tuple[str, str], tuple[int, ...]]:
        return {key: state for key, state in _states(shell) if of is None or key[0] in of}

    def run() -> None:
        call(shell, pytree.tree_map_only(torch.Tensor, torch.clone, batch))

    run()  # what is kept of a first run is kept then
    shell.train()
    before = states(own)
    run()
    return set() if states(own) == before else _writing(shell, run, states)


def _states(module: nn.Module) -> Iterator[tuple[tuple[str, str], tuple[int, ...]]]:
    """Of each tensor that is not trained: which it is, how often it was written to, and where it lies."""
    for path, submodule in module.named_modules():
        held = [*submodule._buffers.items(), *submodule._parameters.items()]
        for name, tensor in held:
            if tensor is not None and not tensor.requires_grad:
                memory = tensor.untyped_storage()._cdata
                yield (path, name), (id(tensor), tensor._version, memory, tensor.storage_offset())


def _writing(shell: nn.Module, run: Callable[[], None], states: Any) -> set[str]:
    """Which submodules' own code it is."""
    running, writing, known = [""], set(), [states()]

    def look() -> None:
        now = states()
        if now != known[0]:
            writing.add(running[-1])
            known[0] = now

    def before(path: str) -> Any:
        def note(*_: Any) -> None:
            look()
            running.append(path)

        return note

    def after(*_: Any) -> None:
        look()
        running.pop()

    for path, module in shell.named_modules():
        module.register_forward_pre_hook(before(path))
        module.register_forward_hook(after)
    run()
    return writing
