"""What it takes to make a comparison again: settings, versions, data, and the command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from headstart.common.sizes import binary_size
from headstart.common.text import counted
from headstart.report import figures
from headstart.report.scores import noun


def repetition(known: Mapping[str, Any]) -> dict[str, Any]:
    machine, data, model = (known.get(name) or {} for name in ("machine", "data", "model"))
    facts = {
        "headstart": known.get("headstart"),
        "made": known.get("created"),
        "machine": machine_line(known),
        "system": machine.get("system"),
        "python": machine.get("python"),
        **{
            f"versions, {backend}": ", ".join(f"{name} {version}" for name, version in (found or {}).items())
            for backend, found in (known.get("versions") or {}).items()
        },
        "seed": ", ".join(
            dict.fromkeys(short((entry.get("settings") or {}).get("seed")) for entry in known["rows"])
        ),
        **{f"data, {name}": fact(value) for name, value in data.items() if name not in ("skipped", "classes")},
        noun(data.get("task"))[1]: ", ".join(map(str, data.get("classes") or ())),
        **{f"model, {name}": fact(value) for name, value in model.items()},
    }
    settings = {entry["label"]: flat(entry.get("settings") or {}) for entry in known["rows"]}
    names = list(dict.fromkeys(name for of_run in settings.values() for name in of_run))
    # versions stand above, and a CPU has no facts of its own
    names = [name for name in names if not name.startswith("versions.") and name != "device_facts"]
    same = {name: {of_run.get(name, figures.NONE) for of_run in settings.values()} for name in names}
    return {
        "command": command(known.get("command") or ()),
        "facts": {name: value for name, value in facts.items() if value},
        "asked": flat(known.get("settings") or {}),
        "same": {name: next(iter(values)) for name, values in same.items() if len(values) == 1},
        "differing": [name for name, values in same.items() if len(values) > 1],
        "settings": settings,
        "skipped": [tuple(line) for line in data.get("skipped") or ()],
    }


def command(argv: Sequence[Any]) -> str:
    """What to type, without the folder that headstart is installed in on the machine it ran on."""
    if not argv:
        return ""
    first, *rest = map(str, argv)
    if first in ("-", "-c"):  # typed into Python: there is no line to repeat
        return ""
    place = PurePath(first.replace("\\", "/"))
    if place.name == "__main__.py":
        return shlex.join(["python", "-m", place.parent.name, *rest])
    name = place.name.removesuffix(".exe")
    return shlex.join([name if name == "headstart" else first, *rest])


def flat(given: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """{"optimizer": {"head": {"name": "adamw"}}} -> {"optimizer.head.name": "adamw"}"""
    found: dict[str, str] = {}
    for name, value in given.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = short(value)
    return found


def fact(value: Any) -> str:
    return figures.count(value) if isinstance(value, int) and not isinstance(value, bool) else short(value)


def short(value: Any) -> str:
    if value is None:
        return figures.NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(short, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {short(entry)}" for name, entry in value.items()) or "none"
    return str(value)


def machine_line(known: Mapping[str, Any]) -> str:
    """Its processor, the devices that were computed on, and the rest if known."""
    machine = known.get("machine") or {}
    cores, memory = machine.get("cores"), machine.get("memory_bytes")
    facts = [machine.get("cpu"), cores and counted(cores, "core")]
    devices = [(row.get("settings") or {}).get("device_facts") or {} for row in known.get("rows") or ()]
    names = dict.fromkeys(short(device["name"]) for device in devices if device.get("name"))
    return ", ".join(filter(None, [*facts, memory and f"{binary_size(memory)} of memory", *names]))
