"""How an engine is named: plain data, importable without its library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headstart.common.errors import SettingError
from headstart.contract import devices
from headstart.data.workers import check_counts

AUTO, LOCAL = "auto", "local"
ADDRESSES = "'auto' (the cluster that this machine is in), 'local' (one of this machine's own) or HOST:PORT"


@dataclass(frozen=True)
class Ray:
    """Extraction by Ray: an actor holds the trunk and is given lists of ids, whose features it writes into the
    store, where all of the cluster's machines see that, else pushes to the URL `push`. Needs the extra
    `headstart[ray]`."""

    address: str | None = None
    """Of the cluster: "auto" for the one that this machine is in, HOST:PORT, or "local" for one that is started
    on this machine and ends with the extraction. None: the one that this process is connected to, else what
    RAY_ADDRESS says, else "local"."""
    workers: int | None = None
    """How many actors. None: as many as the cluster has room for."""
    gpus_per_worker: float | None = None
    """GPUs of each, which may be a part of one. None: one where the device may be a GPU and the cluster has any,
    else none."""
    cpus_per_worker: int | None = None
    """CPUs of each, which are also the threads that it computes with. None: its share of the machine's."""

    def __post_init__(self) -> None:
        """SettingError for a value that can be none."""
        if self.address is not None and not (isinstance(self.address, str) and self.address.strip()):
            raise SettingError(f"Ray(address={self.address!r}); expected {ADDRESSES}")
        if self.address is not None and "://" in self.address:
            raise SettingError(
                f"Ray(address={self.address!r}): the process that extracts must be in the cluster itself; "
                f"expected {ADDRESSES}"
            )
        for name in ("workers", "cpus_per_worker"):
            if (value := getattr(self, name)) is not None:
                check_counts(**{name: value})
        gpus: Any = self.gpus_per_worker
        is_number = isinstance(gpus, int | float) and not isinstance(gpus, bool)
        if gpus is not None and not (is_number and (0 <= gpus < 1 or (gpus >= 1 and gpus == int(gpus)))):
            raise SettingError(
                f"Ray(gpus_per_worker={gpus!r}); expected a number of 0 or more, whole or below 1: 1 or 0.5, say"
            )


ALL = "all"


@dataclass(frozen=True)
class Processes:
    """Extraction by processes of this machine, one for each of its devices."""

    devices: tuple[str, ...] | None = None
    """their names; None: all devices of the best kind that the backend finds"""


Engine = Ray | Processes


def processes_on(devices_named: Any, engine: Any, device: str) -> tuple[Engine | None, str]:
    """The engine and the device that `devices=` means: "all", or names, of which one alone needs no engine.
    SettingError and its kin for anything else, and beside `engine=` or `device=`."""
    if devices_named is None:
        return engine, device
    for name, value, unset in (("engine", engine, None), ("device", device, devices.AUTO)):
        if value != unset:
            raise SettingError(f"devices={devices_named!r} with {name}={value!r}; leave out one of them")
    if isinstance(devices_named, str) and devices_named == ALL:
        return Processes(), device
    names = tuple(devices_named) if isinstance(devices_named, list | tuple) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise SettingError(f"devices={devices_named!r}; expected 'all', or names such as ['cuda:0', 'cuda:1']")
    if devices.AUTO in names:
        raise SettingError(f"devices={devices_named!r}; 'auto' is one device, which device='auto' asks for")
    return (Processes(names), device) if len(names) > 1 else (None, names[0])


def check_engine(engine: Any, device: str) -> None:
    """SettingError for what is no engine, and for a device that is one of this machine's by its number."""
    if engine is None:
        return
    if isinstance(engine, Processes):
        if device != devices.AUTO:
            raise SettingError(f"device={device!r} with all devices of this machine; leave out one of them")
        return
    if not isinstance(engine, Ray):
        raise SettingError(f"engine={engine!r}; expected None or an hs.Ray(...)")
    if device != devices.AUTO and ":" in device:
        raise SettingError(
            f"device={device!r} with engine=hs.Ray(...), which gives each worker its own GPUs; expected the kind "
            f"alone, {device.partition(':')[0]!r}, or 'auto'"
        )
