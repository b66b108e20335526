"""Operations that a program registers with torch (`torch.library`): a call of one shows its name alone, and with
another body it computes something else.

Invariant: what torch and installed packages bring is told by name, as their functions are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3

from headstart.models.reflection import is_installed
from headstart.models.teller import Teller

PLACE = re.compile(r"registered at (.+\.py):\d+")


def is_programs(value: Any) -> bool:
    """Whether it is an operation, or what `torch.library.custom_op` gives, that is the program's own."""
    return bool(_functions(value)) or bool(_files(value))


def finding() -> Callable[[Collection[str]], Mapping[str, Any]]:
    """A function that gives, by their names, the program's operations that code may mean which spells some names,
    as `torch.ops.mine.bent`. Of those that are registered now."""
    registered = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    among: dict[str, set[str]] = {}
    for namespace, _, name in (operation.partition("::") for operation in registered):
        among.setdefault(namespace, set()).add(name)

    def named(names: Collection[str]) -> Mapping[str, Any]:
        found = {}
        for namespace in sorted(among.keys() & names):
            for name in sorted(among[namespace] & {*names}):
                operation = getattr(getattr(torch.ops, namespace), name, None)
                if is_programs(operation):
                    found[f"{namespace}::{name}"] = operation
        return found

    return named


def copy_operations(values: Iterable[Any], memo: dict[int, Any]) -> None:
    """Put into `memo`, of a deep copy that is to be made, what is called in place of what
    `torch.library.custom_op` gives, which cannot be copied."""
    for value in values:
        operation = getattr(value, "_opoverload", None) if _is_made(value) else None
        if operation is not None:
            memo[id(value)] = operation


def told(teller: Teller, value: Any) -> Any:
    """The name and the code of such an operation; None for all else. Of one that is registered without a function
    to be found, the texts of the files that do it."""
    if functions := _functions(value):
        return ["operation", _name(value), [teller.value(function) for function in functions]]
    if files := _files(value):
        return ["operation", _name(value), [blake3(file.read_bytes()).hexdigest(length=16) for file in files]]
    return None


def _name(value: Any) -> str:
    if isinstance(value, torch._ops.OpOverload):
        return str(value._schema.name)
    return str(getattr(value, "_qualname" if _is_made(value) else "_qualified_op_name", ""))


def _is_made(value: Any) -> bool:
    return type(value).__name__ == "CustomOpDef" and type(value).__module__.startswith("torch.")


def _is_operation(value: Any) -> bool:
    return isinstance(value, torch._ops.OpOverload | torch._ops.OpOverloadPacket)


def _functions(value: Any) -> list[Any]:
    """The program's own, that `torch.library.custom_op` was given."""
    if _is_operation(value):
        made = getattr(getattr(torch._library, "custom_ops", None), "OPDEFS", {})
        value = made.get(_name(value))
    if not _is_made(value):
        return []
    kept = vars(value)
    functions = [kept.get("_init_fn"), *(function for _, function in sorted(kept.get("_backend_fns", {}).items()))]
    return [function for function in dict.fromkeys(functions) if _is_own(function)]


def _is_own(function: Any) -> bool:
    home = str(getattr(function, "__module__", "torch")).partition(".")[0]
    return function is not None and home != "torch" and not is_installed(function)


def _files(value: Any) -> list[Path]:
    """The program's files that register it with a `torch.library.Library`, in the order of their names."""
    if not _is_operation(value) or _name(value).startswith(("aten::", "prims::")):
        return []
    places = {Path(found) for found in PLACE.findall(torch._C._dispatch_dump(_name(value)))}
    return sorted(place for place in places if place.is_file() and not _is_packages(place))


def _is_packages(file: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(file.parts)
