"""Parts of a wrapped module as they run: copies of the user's modules, and what core is told of them.

Invariant: the user's module is copied and never touched; parameters keep their names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.backends.doors.torch import settled
from headstart.backends.torch.arrays import batch_of, exact_numpy, from_native, to_numpy
from headstart.backends.torch.chance import seeded
from headstart.backends.torch.ending import Ending
from headstart.backends.torch.graphs import copy_graphs, keep_libraries
from headstart.backends.torch.loose import carry
from headstart.backends.torch.rebinding import rebind
from headstart.backends.torch.registered import copy_operations
from headstart.backends.torch.telling import tensors as state_of
from headstart.backends.torch.trace import sharing
from headstart.backends.torch.writing import Apart, versions, writes_in_training
from headstart.common.errors import CutError, SettingError
from headstart.contract.wrapping import WrapRequest
from headstart.data import Arrays
from headstart.data.rows import count
from headstart.graph import NativePart
from headstart.models.several import STATES


def copied(
    native: nn.Module, memo: dict[int, Any] | None = None, beside: list[nn.Parameter] | None = None
) -> nn.Module:
    """A copy on the CPU, in inference mode, all of whose parameters may be trained. `memo` is filled with the
    copies, by the ids of what they are copies of; `beside` with parameters that only functions hold."""
    memo = {} if memo is None else memo
    # what a weight is computed from before every run, as weight_norm does it, hangs on its graph
    attributes = [value for module in native.modules() for value in vars(module).values()]
    derived = (value for value in attributes if isinstance(value, torch.Tensor) and not value.is_leaf)
    for tensor in (*native.parameters(), *native.buffers(), *derived):
        if id(tensor) not in memo:
            own = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            trained = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(own, own.is_floating_point()) if trained else own
    keep_libraries(native, memo)
    copy_graphs(native, memo)
    copy_operations(attributes, memo)
    copied = copy.deepcopy(native, memo).eval()
    loose = rebind(copied, memo)
    carry(copied, torch.Tensor.cpu)
    if beside is not None:
        beside += loose
    for module in copied.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            _normed(module)
    return copied


def _normed(module: nn.Embedding | nn.EmbeddingBag) -> None:
    """Do with the whole table at once what the module does with the rows it looks up: it writes to its weight."""
    rows, norm, most = torch.arange(len(module.weight)), module.norm_type, float(module.max_norm or 0)
    with torch.no_grad():
        for _ in range(4):  # a rounding away from the limit it would be done again
            torch.embedding_renorm_(module.weight, rows, most, norm)
        over = torch.linalg.vector_norm(module.weight, norm, dim=1, keepdim=True) > most
        module.weight.mul_(torch.where(over, 1 - 1e-6, 1.0))


@dataclass(frozen=True)
class Shown:
    """What a part of a module shows when it runs on the example, once."""

    module: nn.Module
    example: Any
    value: Any
    """what the module gives"""
    writes: bool
    """whether it writes to what it is given"""
    norms: Mapping[str, int]
    """its batch norms that are told of training -> how many numbers of a channel one sample has there"""

    @classmethod
    def by(cls, module: nn.Module, example: Any) -> Shown:
        norms: dict[str, int] = {}
        handles = [
            norm.register_forward_pre_hook(_noting(name, count(example), norms))
            for name, norm in _told_norms(module).items()
        ]
        batch = batch_of(example)
        before = versions(batch)
        try:
            with torch.no_grad():
                value = module(batch)
        finally:
            for handle in handles:
                handle.remove()
        return cls(module, example, value, versions(batch) != before, norms)

    def rows(self, ending: Ending) -> torch.Tensor:
        """What the part gives, after what has to be done with it. Raises CutError where these are no rows."""
        with torch.no_grad():
            value = ending(self.module, (batch_of(self.example),), self.value) if ending.told() else self.value
        return checked_rows(value)

    def features(self, ending: Ending = Ending()) -> np.ndarray:  # noqa: B008 - it is frozen
        """The same, as core has it."""
        return to_numpy(from_native(self.rows(ending)).float())


def checked_rows(value: Any) -> torch.Tensor:
    """What a part gave for two samples, or CutError."""
    if not isinstance(value, torch.Tensor):
        raise CutError(
            f"the part gives a {type(value).__name__} and not one tensor; cut it elsewhere, or wrap a module of "
            "yours that calls it and returns one tensor"
        )
    if value.ndim < 2 or len(value) != 2 or not value.is_floating_point():
        states = value.ndim == 3 and len(value) != 2 and value.shape[1] == 2
        raise CutError(
            f"the part gives {value.dtype} of shape {tuple(value.shape)} for two samples; expected floating-point "
            "numbers, a row for each sample: features are stored, and trained on, as such. "
            + (STATES if states else "Cut it elsewhere")
        )
    return value


def part_of(
    request: WrapRequest,
    shown: Shown,
    structure: Any,
    source: nn.Module,
    ending: Ending = Ending(),  # noqa: B008 - it is frozen
) -> NativePart:
    module = shown.module
    value = shown.rows(ending)
    if said := ending.told():
        module.register_forward_hook(ending)
        structure = structure and structure.extended(said)
    if shown.writes or writes_in_training(module, shown.example):
        module.register_forward_pre_hook(Apart(), prepend=True)
    state = _state(module, source)
    frozen = {name for name, p in request.native.named_parameters(remove_duplicate=False) if not p.requires_grad}
    trained = {name for name, p in module.named_parameters() if p.is_floating_point()}
    return NativePart(
        "torch",
        module,
        Arrays.like(shown.example).entries,
        tuple(from_native(value).shape[1:]),
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        frozenset(state.keys() - trained),
        structure,
        lambda seed: _initial(source, request.init, state.keys(), seed),
        frozenset(state.keys() & trained & frozen),
        norms=shown.norms,
    )


def _told_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms that are told of training, by name."""
    learning = dict(sharing(module).train().named_modules())
    return {
        name: norm
        for name, norm in module.named_modules()
        if isinstance(norm, _BatchNorm) and learning[name].training
    }


def _noting(name: str, samples: int, found: dict[str, int]) -> Callable[[_BatchNorm, Any], None]:
    def note(norm: _BatchNorm, args: Any) -> None:
        values = args[0].numel() // (norm.num_features * samples) if args else 0
        found[name] = min(values, found.get(name, values))

    return note


def _state(module: nn.Module, source: nn.Module) -> dict[str, torch.Tensor]:
    """A part's parameters: those that the source has too, and no tensors which its code holds besides."""
    names = state_of(source).keys()
    return {name: tensor for name, tensor in state_of(module).items() if name in names}


def params_of(module: nn.Module, source: nn.Module) -> dict[str, np.ndarray]:
    """The parameters as numpy arrays that share the module's memory; nobody writes to either."""
    found = {name: exact_numpy(tensor) for name, tensor in _state(module, source).items()}
    for array in found.values():
        array.flags.writeable = False
    return found


Part = TypeVar("Part", NativePart, NativePart | None)


def holding(
    part: Part, params: Mapping[str, np.ndarray], buffers: Mapping[str, np.ndarray | None]
) -> tuple[Part, dict[str, np.ndarray]]:
    """A part, and its parameters, with these buffers in place of those of the same names. One that was None, or
    got another shape as the part ran, with the numbers that came, is the part's own matter."""
    shapes = {name: None if value is None else value.shape for name, value in buffers.items()}
    names = [name for name in params if name not in shapes or shapes[name] == params[name].shape]
    found = {name: params[name] if (value := buffers.get(name)) is None else value for name in names}
    if part is None:
        return part, found
    kept = {name: part.shapes[name] for name in names}
    return replace(part, shapes=kept, buffers=part.buffers & kept.keys()), found


def build(part: NativePart) -> nn.Module:
    """A module of its own for a part, whose parameters are still to be given."""
    part.require("torch")
    return copy.deepcopy(part.native)


@settled
def _initial(
    source: nn.Module, init: Callable[[int], Any] | None, names: Collection[str], seed: int
) -> dict[str, np.ndarray]:
    with seeded(seed):
        if init is not None:
            fresh = copied(init(seed))
        else:
            fresh = copy.deepcopy(source)
            for path in dict.fromkeys(name.rpartition(".")[0] for name in names):
                module = fresh.get_submodule(path)
                if not hasattr(module, "reset_parameters"):
                    raise SettingError(
                        f"mode 'scratch' draws every parameter anew, and {type(module).__name__} "
                        f"({path or 'the module itself'}) has no reset_parameters(); pass init= to hs.wrap, a "
                        "function from a seed to a module made anew"
                    )
                with torch.no_grad():
                    module.reset_parameters()
    found = state_of(fresh)
    if missing := [name for name in names if name not in found]:
        raise SettingError(f"the module that init= has made lacks {', '.join(missing[:5])}")
    return {name: exact_numpy(found[name]) for name in names}
