"""Whether modules train, as each is told: by flags of its call, by settings of its own that are called like those
of flax's modules.

Invariant: whoever tells a module tells all that is in it, by every name there is for it. NNX's own `train()` and
`eval()` know two of these names.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from flax import linen, nnx
from flax.core import FrozenDict

INFERENCE = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "inference": True,
    "use_running_average": True,
    "update_stats": False,
}
"""arguments of calls, and settings, that say whether a module trains, and what they are in inference"""


def flags_of(call: Any, settings: Mapping[str, Any]) -> tuple[tuple[str, bool], ...]:
    """The flags that a call takes, as they are in inference. One whose default is None is not among them where the
    module's `settings` say it: it then goes by these, as flax's own layers have it."""
    return tuple(
        (name, INFERENCE[name])
        for name, parameter in inspect.signature(call).parameters.items()
        if name in INFERENCE
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and (parameter.default is parameter.empty or isinstance(parameter.default, bool | None))
        and (parameter.default is not None or settings.get(name) is None)
    )


def switch(module: nnx.Module, learns: bool) -> None:
    """Tell a module, and all in it, whether it trains."""
    # not its own, since a setting may be called as the method is
    (nnx.Module.train if learns else nnx.Module.eval)(module)
    for _, part in nnx.iter_modules(module):
        switch_alone(part, learns)
        if isinstance(part, nnx.bridge.ToNNX):
            part.to_nnx__module = switched(part.to_nnx__module, learns)


def switch_alone(module: nnx.Module, learns: bool) -> None:
    """Tell a module itself, by its settings."""
    for name, inference in INFERENCE.items():
        if isinstance(inspect.getattr_static(module, name, None), bool):
            setattr(module, name, inference is not learns)


def switched(module: linen.Module, learns: bool, known: dict[int, linen.Module] | None = None) -> linen.Module:
    """The module, and those that it was made with, in lists and dicts, too, told by their settings. What a call
    can be told, and its owner has said in a setting, stays as it is, as flax's own layers have it. `known`: what
    was met, by identity."""
    known = {} if known is None else known
    if id(module) in known:
        return known[id(module)]
    flags = inspect.signature(type(module).__call__).parameters if callable(module) else {}
    settings = {field.name: getattr(module, field.name) for field in dataclasses.fields(module) if field.init}
    changed: dict[str, Any] = {}
    for name, value in settings.items():
        if name != "parent" and _holds_modules(value):
            changed[name] = _switched_in(value, learns, known)
        elif name in INFERENCE and name not in flags and isinstance(value, bool):
            changed[name] = INFERENCE[name] is not learns
    differs = any(settings[name] is not value for name, value in changed.items())
    known[id(module)] = module.clone(**changed) if differs else module
    return known[id(module)]


def _holds_modules(value: Any) -> bool:
    """Whether it is a linen module, or a list, tuple or dict with such in it."""
    entries = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, linen.Module) or any(map(_holds_modules, entries))


def _switched_in(value: Any, learns: bool, known: dict[int, linen.Module]) -> Any:
    """The same, with the modules in it told; itself where none of them differs."""
    if isinstance(value, linen.Module):
        return switched(value, learns, known)
    if not _holds_modules(value):
        return value
    pairs = [*value.items()] if isinstance(value, Mapping) else [*enumerate(value)]
    told = {key: _switched_in(entry, learns, known) for key, entry in pairs}
    if all(told[key] is entry for key, entry in pairs):
        return value
    if isinstance(value, Mapping):
        return FrozenDict(told) if isinstance(value, FrozenDict) else told
    if hasattr(value, "_fields"):
        return type(value)(*told.values())
    return [*told.values()] if isinstance(value, list) else (*told.values(),)
