"""Which devices a backend computes on: `python -m headstart.features.engines.device_listing BACKEND PRECISION`
prints their names as JSON. It is a process of its own since whoever asks takes some of each card's memory."""

from __future__ import annotations

import json
import sys

from headstart.common.errors import BackendError
from headstart.contract import devices, registry
from headstart.contract.protocol import Backend


def listed(backend: Backend, precision: str) -> list[str]:
    """All of the best kind, up to the first that it does not compute on; the CPU where there is no other."""
    first = backend.place(devices.AUTO, precision)
    names = [first.device]
    while first.kind != devices.CPU:
        try:
            names.append(backend.place(devices.name_of(first.kind, len(names)), precision).device)
        except BackendError:
            break
    return names


def main() -> None:
    name, precision = sys.argv[1:]
    print(json.dumps(listed(registry.load(name), precision)))


if __name__ == "__main__":
    main()
