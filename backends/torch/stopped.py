"""A module that torch.fx cannot trace, or a submodule of one: it is run as it is and stopped at a submodule.
Behind the last linear layer there is nothing to be traced, so before it a module can be cut in two.

Invariant: what runs until the stop is the module's own code, with its hooks; what cannot have run is taken away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from headstart.backends.torch.arrays import batch_of, exact_numpy
from headstart.backends.torch.classifier import is_linear
from headstart.backends.torch.ending import at_end, tensors
from headstart.backends.torch.reading import joined
from headstart.backends.torch.steps import ranks_places, ranks_rows
from headstart.backends.torch.trace import Call, Part, sharing
from headstart.common.errors import CutError, SettingError
from headstart.graph.cuts import Paths, listed
from headstart.models.endings import ENDINGS, is_projection, is_shared_out
from headstart.models.several import LOGITS, dotted
from headstart.models.tokens import pooling


class Stop(Exception):  # noqa: N818 - it carries a value, and is always caught
    def __init__(self, value: Any) -> None:
        self.value = value


class Stopping:
    """A forward hook, or pre-hook, that ends the run with what the submodule gives, or takes."""

    def __init__(self, before: bool) -> None:
        self.before = before

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], value: Any = None) -> Any:
        raise Stop(args[0] if self.before else value)


class Reading:
    """A forward pre-hook of one of several classifiers, which notes what it takes; the last one ends the run with
    what all of them take, side by side."""

    def __init__(self, place: int, axes: Sequence[int], taken: list[torch.Tensor]) -> None:
        self.place, self.axes, self.taken = place, axes, taken

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        if self.place == 0:
            self.taken.clear()  # of a run that did not come to its end
        self.taken.append(args[0])
        if len(self.taken) == len(self.axes):
            taken = self.taken[:]
            self.taken.clear()  # which hang on the run's graph, and could not be copied
            raise Stop(joined(taken, self.axes))


class Absent(nn.Module):
    """What stands where a classifier was. An nn.Identity there tells some modules that they have none, and end
    before it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Until:
    """A module's forward that gives what it was stopped with."""

    def __init__(self, forward: Any, by_name: bool) -> None:
        self.forward, self.by_name = forward, by_name

    def __call__(self, batch: Any) -> Any:
        try:
            self.forward(**batch) if self.by_name else self.forward(batch)
        except Stop as stop:
            return stop.value
        raise SettingError("the module ended without coming to its cut; it must come there with every input")


class ByName:
    """A module's forward that takes a dict of its arguments."""

    def __init__(self, forward: Any) -> None:
        self.forward = forward

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        return self.forward(**batch)


@dataclass(frozen=True)
class Run:
    """What was seen of a run."""

    ran: list[str]
    """submodules in the order in which they finish"""
    entered: set[str]
    """those that are running when the cut finishes"""
    values: Mapping[str, tuple[Any, Any]]
    """submodule -> what its last call took, if that was one tensor, and gave"""
    output: Any


def path_of(cut: str, source: nn.Module) -> tuple[str, str] | None:
    """The submodule that a cut names, and what is named behind it: an entry of what it gives."""
    submodules = {name for name, _ in source.named_modules() if name}
    parts = cut.split(".")
    for length in range(len(parts), 0, -1):
        if (path := ".".join(parts[:length])) in submodules:
            return path, ".".join(parts[length:])
    return None


def watched(source: nn.Module, call: Call, example: Any, cut: str | None) -> Run:
    """Run the module, and see what its submodules do."""
    ran: list[str] = []
    running: list[str] = []
    entered: set[str] = set()
    values: dict[str, tuple[Any, Any]] = {}
    submodules = {name: module for name, module in source.named_modules() if name}

    def before(name: str) -> Any:
        return lambda *_: running.append(name)

    def after(name: str) -> Any:
        def note(_module: nn.Module, args: Any, value: Any) -> None:
            running.remove(name)
            if name not in ran:
                ran.append(name)
            values[name] = (args[0] if len(args) == 1 else None, value)
            if name == cut:
                entered.update(running)

        return note

    handles = [m.register_forward_pre_hook(before(name)) for name, m in submodules.items()]
    handles += [m.register_forward_hook(after(name)) for name, m in submodules.items()]
    try:
        with torch.no_grad():
            output = call(source, batch_of(example))
    finally:
        for handle in handles:
            handle.remove()
    return Run(ran, entered, values, output)


def check_called(cut: str, run: Run, kind: str) -> None:
    """Raise CutError unless the submodule was called."""
    if cut not in run.ran:
        raise CutError(f"{cut!r} is not called when {kind} runs; called are {listed(run.ran)}")


def no_such_cut(cut: str, run: Run) -> None:
    """Raise CutError for a name that is none, with near ones."""
    Paths.in_a_row(run.ran).check(cut)


def stop(source: nn.Module, call: Call, example: Any, cut: str, run: Run) -> None:
    """Make of the module one that is stopped at `cut`, and holds nothing that comes behind."""
    source.get_submodule(cut).register_forward_hook(Stopping(False))
    _until(source, call, example, run.ran[: run.ran.index(cut) + 1], {*run.entered, cut})


def stop_before(
    source: nn.Module, call: Call, example: Any, axes: Mapping[str, int], without: Collection[str], run: Run
) -> None:
    """Make of the module one that is stopped before the last of some submodules, with what all of them take side
    by side, and holds nothing that comes behind, nor those in `without`. `axes`: submodule, in the order in which
    they run -> which axis of what it takes holds the channels."""
    taken: list[torch.Tensor] = []
    for path in without:
        _replace(source, path, Absent())
    for place, path in enumerate(axes):
        _replace(source, path, stand_in := Absent())
        hook = Stopping(True) if len(axes) == 1 else Reading(place, [*axes.values()], taken)
        stand_in.register_forward_pre_hook(hook, prepend=True)
    _until(source, call, example, run.ran[: max(map(run.ran.index, axes))], axes.keys())


def _until(source: nn.Module, call: Call, example: Any, ran: Collection[str], entered: Collection[str]) -> None:
    for hooks in (source._forward_hooks, source._forward_hooks_with_kwargs, source._forward_hooks_always_called):
        hooks.clear()  # which get the end, where it never comes
    source.forward = Until(source.forward, call.by_name)
    _prune(source, example, ran, entered)


def _prune(source: nn.Module, example: Any, ran: Collection[str], entered: Collection[str]) -> None:
    """Take away the submodules that the cut comes before. What is never called may yet be used, as the projection
    inside of nn.MultiheadAttention is: the gradient shows it."""
    parameters = dict(source.named_parameters())
    with torch.enable_grad():
        # a copy, since what a module keeps of this run hangs on the gradient's graph and could not be copied
        value = sharing(source)(batch_of(example))
        used: set[str] = set()
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        for _, tensor in tensors(value):
            if trained and tensor.requires_grad:
                total = tensor.abs().sum() if tensor.is_complex() else tensor.sum()
                gradients = torch.autograd.grad(
                    total, list(trained.values()), allow_unused=True, retain_graph=True
                )
                used |= {name for name, g in zip(trained, gradients, strict=True) if g is not None}
    kept = {*ran, *entered}

    def needed(name: str) -> bool:
        inside = any(name == outer or name.startswith(f"{outer}.") for outer in ran)
        around = any(inner == name or inner.startswith(f"{name}.") for inner in kept)
        return inside or around or any(p.startswith(f"{name}.") for p in used)

    spare: list[str] = []
    for name, _ in source.named_modules():
        if name and not needed(name) and not any(name.startswith(f"{outer}.") for outer in spare):
            spare.append(name)
    _take_away(source, example, spare)


def _take_away(source: nn.Module, example: Any, names: Collection[str]) -> None:
    """Those of the submodules without which it runs: others' methods or settings may be used, with no call."""

    def swap(name: str, module: nn.Module) -> nn.Module:
        return _replace(source, name, module)

    def runs() -> bool:
        try:
            with torch.no_grad():
                source(batch_of(example))
        except Exception:
            return False
        return True

    taken = {name: swap(name, nn.Identity()) for name in names}
    if not runs():
        for name, module in taken.items():
            swap(name, module)
        for name, module in taken.items():
            swap(name, nn.Identity())
            if not runs():
                swap(name, module)


def _replace(source: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put a module in the place of a submodule, which is given back."""
    parent, _, last = name.rpartition(".")
    modules = source.get_submodule(parent)._modules
    before, modules[last] = modules[last], module
    assert before is not None
    return before


# ---- before the classifier


def classifier_at_end(run: Run, source: nn.Module, call: Call, example: Any) -> tuple[str, str] | None:
    """The linear layer whose output the module gives, or gives as its logits, and what it makes of it: a name in
    `headstart.models.endings`. None where there is none."""
    if (end := _end(run.output, call)) is None or end.ndim != 2:
        return None
    for name in run.ran:
        taken, given = run.values[name]
        if not ranks_rows(source.get_submodule(name), taken, given) or (ending := _made_of(given, end)) is None:
            continue
        # of numbers that are all 0 or 1 many functions make the same
        if given is end or _made_of(*_probed(source, call, example, name, given)) == ending:
            return name, ending
    return None


def is_projected(run: Run, call: Call, path: str, ending: str) -> bool:
    """Whether what a layer gives is called a projection, and is what the module gives; but not where probabilities
    of classes are made of it."""
    return (
        (bool(call.row) or isinstance(run.output, torch.Tensor))
        and is_projection(path)
        and not is_shared_out(ending)
    )


def _end(output: Any, call: Call) -> torch.Tensor | None:
    if call.row:
        return at_end(output, call.row)
    found = {dotted(entry): tensor for entry, tensor in tensors(output)}
    return found.get("", found.get(LOGITS))


PROBE = 4.0  # of which a sigmoid is 0.982


def _probed(
    source: nn.Module, call: Call, example: Any, path: str, given: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Other logits in the place of what a layer gives, spread where every ending makes numbers of its own; and
    what the module makes of them at its end."""
    probe = torch.linspace(-PROBE, PROBE, given.numel(), dtype=torch.float64).sin() * PROBE
    probe = probe.reshape(given.shape).to(given.dtype)
    handle = source.get_submodule(path).register_forward_hook(lambda *_: probe.clone())
    try:
        with torch.no_grad():
            end = _end(call(source, batch_of(example)), call)
    finally:
        handle.remove()
    return probe, probe[:0] if end is None else end


def _ranking_tokens(source: nn.Module, call: Call, run: Run) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """The linear layers, the last one first, that may make logits of every token where the module gives those of
    one, or what it makes of them: the layer, what it gives, and what the module gives."""
    if (end := _end(run.output, call)) is None or end.ndim != 2:
        return
    for name in reversed(run.ran):
        (taken, given), module = run.values[name], source.get_submodule(name)
        if is_projection(name) or not is_linear(module) or not ranks_places(module, taken, given):
            continue
        if given.shape[-1] == end.shape[-1]:
            yield name, given, end


def classifier_of_one_token(source: nn.Module, call: Call, example: Any, run: Run) -> str | None:
    """The linear layer that makes logits of every token, of which the module gives those of one, or their mean:
    without it the module gives at its end what this layer makes the logits of. None where there is none."""
    for name, _, end in _ranking_tokens(source, call, run):
        shell, module = sharing(source), source.get_submodule(name)
        leave_out(shell, name)
        try:
            with torch.no_grad():
                read = _end(call(shell, batch_of(example)), call)
                if read is not None and read.ndim == 2 and torch.allclose(module(read), end, 1e-4, 1e-6):
                    return name
        except Exception:  # it cannot do without
            continue
    return None


def classifier_of_tokens(source: nn.Module, call: Call, run: Run) -> str | None:
    """The linear layer that makes logits of every token, where the module gives what it makes of those of one of
    them, or of their mean: probabilities, which without the layer would be made of features. None where there is
    none."""
    for name, given, end in _ranking_tokens(source, call, run):
        if given.shape[::2] == end.shape and pooling(exact_numpy(given.float()), exact_numpy(end.float())):
            return name
    return None


def leave_out(source: nn.Module, path: str) -> None:
    """Put what gives what it takes in the place of a submodule."""
    _replace(source, path, Absent())


def _made_of(logits: torch.Tensor, end: torch.Tensor) -> str | None:
    """The ending that makes `end` of the logits, whatever the code between, such as `.float()` under autocast."""
    if logits is end:
        return ""
    if logits.shape != end.shape or not (logits.is_floating_point() and end.is_floating_point()):
        return None
    rows, given = (tensor.detach().double().cpu().numpy() for tensor in (logits, end))
    nearly = 64 * 2.0**-23 * np.ptp(given)  # 0 of a layer that begins at zero, which says nothing
    same = (name for name, make in ENDINGS.items() if np.abs(make(rows) - given).max() < nearly)
    return next(same, None)


def alone(source: nn.Module, path: str) -> nn.Module:
    """One submodule, under its own name."""
    graph = fx.Graph()
    graph.output(graph.call_module(path, (graph.placeholder("x"),)))
    return Part(source, {False: graph}).eval()
