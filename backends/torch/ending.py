"""What is done with what a module, or a part of it, gives until it is features as core has them: one tensor is
taken of several, quantized numbers become floats, padded tokens are left out of a mean, axes are ordered.

Invariant: what needs nothing done has no ending, and the structure that its key holds says nothing of one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from headstart.common.errors import CutError
from headstart.graph.cuts import listed

ORDERS = {"nhwc": (0, 3, 1, 2), "ncl": (0, 2, 1)}
"""layout of a module's features -> how they are turned into what torch's layers take"""
BACK = {"nhwc": (0, 2, 3, 1), "ncl": (0, 2, 1)}
EMBEDDED = ("image_embeds", "text_embeds")  # of transformers' models with a projection
POOLED, TOKENS, LOGITS = "pooler_output", "last_hidden_state", "logits"
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")


@dataclasses.dataclass(frozen=True)
class Ending:
    """A forward hook, which also can be asked what it makes of a value."""

    entry: tuple[str | int, ...] = ()
    """where in a dict, tuple or the like the tensor is"""
    dequantized: bool = False
    first: bool = False
    """of tokens, the first"""
    mask: str = ""
    """of tokens, the mean of those that this array of the batch counts"""
    layout: str = ""
    """of a module whose axes are in an order of its own"""

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], value: Any) -> torch.Tensor:
        return self.of(value, args[0] if args else None)

    def of(self, value: Any, batch: Any) -> torch.Tensor:
        """`batch`: what the module took; a dict where a mask is needed."""
        x: torch.Tensor = entry_of(value, self.entry)
        if self.dequantized:
            x = x.dequantize()
        if self.first:
            x = x[:, 0]
        if self.mask:
            x = x.transpose(1, 2) if self.layout == "ncl" else x
            counted = batch[self.mask].to(x).unsqueeze(-1)
            x = (x * counted).sum(1) / counted.sum(1).clamp(min=1)
        elif self.layout in ORDERS:
            x = x.permute(ORDERS[self.layout])
        return x

    def told(self) -> list[Any]:
        """For the structure; [] where nothing is done."""
        done = [[key, value] for key, value in dataclasses.asdict(self).items() if value]
        return [[key, list(value) if isinstance(value, tuple) else value] for key, value in done]


@dataclasses.dataclass(frozen=True)
class Turned:
    """A forward pre-hook of a head: its features in the order in which its trunk's module has them."""

    layout: str

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].permute(BACK[self.layout]), *args[1:])


@dataclasses.dataclass(frozen=True)
class Cast:
    """A forward pre-hook of a head: its features in the precision in which its trunk's module has them."""

    dtype: torch.dtype

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].to(self.dtype), *args[1:])


OWN = (Cast, Ending, Turned)


def at_end(value: Any) -> torch.Tensor | None:
    """What a module gives at its end, where that is one tensor, or logits among other things."""
    if isinstance(value, Mapping) and LOGITS in value:
        value = value[LOGITS]
    elif dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        value = getattr(value, LOGITS, None)
    return value if isinstance(value, torch.Tensor) and value.ndim > 1 else None


def entry_of(value: Any, entry: tuple[str | int, ...]) -> Any:
    """What is at `entry` in nested dicts, tuples and objects."""
    for key in entry:
        value = getattr(value, key) if isinstance(key, str) and not isinstance(value, Mapping) else value[key]
    return value


def tensors(
    value: Any, before: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], torch.Tensor]]:
    """Where tensors are in what a module gave."""
    if isinstance(value, torch.Tensor):
        yield before, value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from tensors(entry, (*before, key))
    elif isinstance(value, list | tuple):
        names = getattr(value, "_fields", range(len(value)))
        for key, entry in zip(names, value, strict=True):
            yield from tensors(entry, (*before, key))
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name), (*before, field.name))


def dotted(entry: tuple[str | int, ...]) -> str:
    """An entry as it is said in `cut=`."""
    return ".".join(map(str, entry))


def entry_in(value: Any, entry_name: str, samples: int, where: str) -> tuple[str | int, ...]:
    """The entry that `entry_name` names; without a name the only one, or what libraries give for features. Raises
    CutError that lists what there is."""
    there = {dotted(entry): entry for entry, x in tensors(value)}
    fitting = [dotted(e) for e, x in tensors(value) if x.ndim > 1 and len(x) == samples and not x.is_complex()]
    if entry_name:
        if entry_name in there:
            return there[entry_name]
        matching = [name for name in fitting if name.startswith(f"{entry_name}.")]
        if len(matching) == 1:
            return there[matching[0]]
    elif len(fitting) == 1:
        return there[fitting[0]]
    else:
        for name in (POOLED, *EMBEDDED, TOKENS, LOGITS):
            if name in fitting:
                return there[name]
    kind = type(value).__name__
    shapes = [f"{dotted(e)!r} {tuple(x.shape[1:])}" for e, x in tensors(value) if dotted(e) in fitting]
    if not shapes:
        raise CutError(
            f"{where} gives a {kind} without a tensor that has a row for each sample; cut it elsewhere, or wrap a "
            "module of yours that calls it and returns one tensor"
        )
    said = f"no {entry_name!r} is in it; " if entry_name else "which of them are the features? "
    raise CutError(
        f"{where} gives a {kind} and not one tensor; {said}choose with cut=: {listed(shapes)} (shapes of a "
        "sample). Behind the name of a submodule it stands with a dot before it"
    )


def has_class_token(module: nn.Module) -> bool:
    return any(name.rpartition(".")[2] in CLASS_TOKENS for name, _ in module.named_parameters())
