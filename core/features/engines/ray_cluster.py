"""The cluster that an extraction runs on: joined, or started and ended; what it has room for; and whether its
machines see the store.

Invariant: a cluster that was there before is left as it was, and of one that was started here nothing is left: no
process, no handler of signals, no variable.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import signal
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headstart.common.errors import EngineError
from headstart.common.files import PARTIAL_PREFIX
from headstart.common.log import LOG
from headstart.common.machine import cpus
from headstart.common.text import counted
from headstart.contract import devices
from headstart.features.engines import ray_host
from headstart.features.engines.settings import ADDRESSES, AUTO, LOCAL, Ray

LEAST = (2, 60)
INSTALL = "pip install 'headstart[ray]'"
STORE_NBYTES = 128 << 20
"""of the object store of a cluster that is started here, at least: it holds the parameters and the data set's
paths"""
SEEING_SECONDS = 60.0
ADDRESS = "RAY_ADDRESS"
PROBE_SECONDS = 10.0
"""for a connection to an address: Ray itself would go on trying for ever"""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's workers are nice by 15: they would compute only when nobody else on this machine does, Ray's own
    # processes among them, for which a network's threads then wait for each other.
    "RAY_worker_niceness": "0",
    # No workers ahead of work, each 0.6 % of a core; no events and figures for the dashboard that is not there.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_metrics_collection": "0",
}
"""Variables for a cluster that is started here, where nobody has set them: it is there for one extraction. Ray
reads those that it knows."""
OWN_VARIABLES = (*QUIET, "RAY_AUTH_MODE")
"""that are set meanwhile, here or by Ray"""


def imported() -> Any:
    """The library. EngineError where it is not installed, or too old."""
    try:
        ray = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise EngineError(f"engine=hs.Ray(...) needs ray, which is not installed: {INSTALL}") from None
    there = version("ray")
    if tuple(map(int, re.findall(r"\d+", there)[:2])) < LEAST:
        raise EngineError(
            f"engine=hs.Ray(...) needs ray {LEAST[0]}.{LEAST[1]} or later, {there} is here: {INSTALL}"
        )
    return ray


@contextmanager
def joined(settings: Ray, nbytes: int) -> Iterator[Any]:
    """The library, connected to the cluster while the body runs. `nbytes`: of what goes into its object store."""
    ray = imported()
    if ray.is_initialized():
        yield ray
        return
    address = settings.address or os.environ.get(ADDRESS) or LOCAL
    log = logging.getLogger("ray")
    level, variables = log.level, {name: os.environ.get(name) for name in OWN_VARIABLES}
    handler = signal.getsignal(signal.SIGTERM)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        for name, quiet in QUIET.items():
            os.environ.setdefault(name, quiet)
        options |= {
            "num_cpus": cpus(),
            "include_dashboard": False,
            "object_store_memory": max(STORE_NBYTES, 2 * nbytes),
        }
    log.setLevel(logging.ERROR)
    try:
        try:
            _probe(address)
            ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            text = str(error).strip() or type(error).__name__
            raise EngineError(f"Ray cannot be reached at {address!r}: {text.splitlines()[0]}") from error
        with _messages_in_the_log():
            yield ray
    finally:
        ray.shutdown()
        log.setLevel(level)
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _messages_in_the_log() -> Iterator[None]:
    """While the body runs, what Ray prints of each worker's death, half a page on standard output, goes to the log
    at level debug. There is no setting for it."""
    worker: Any = importlib.import_module("ray._private.worker")
    printing = getattr(worker, "print_to_stdstream", None)

    def note(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        LOG.debug("Ray: %s", " ".join(map(str, data.get("lines", ()))))

    if printing is not None:
        worker.print_to_stdstream = note
    try:
        yield
    finally:
        if printing is not None:
            worker.print_to_stdstream = printing


def _probe(address: str) -> None:
    """OSError or ValueError where nothing answers at HOST:PORT."""
    if address not in (AUTO, LOCAL):
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdecimal():
            raise ValueError(f"expected {ADDRESSES}")
        socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()


# ---- what it has room for


@dataclass(frozen=True)
class Crew:
    """How many workers there are to be, and what each takes."""

    workers: int
    gpus: float
    cpus: int

    def __str__(self) -> str:
        each = f"{counted(self.gpus, 'GPU')} and " if self.gpus else ""
        return f"{counted(self.workers, 'worker')} of {each}{counted(self.cpus, 'CPU')}"


def crew_for(settings: Ray, device: str, nodes: Sequence[Mapping[str, float]]) -> Crew:
    """`nodes`: what each machine of the cluster has, of "CPU" and "GPU". EngineError where there is not so much
    room."""
    with_gpus = [node for node in nodes if node.get("GPU", 0)]
    gpus = settings.gpus_per_worker
    if gpus is None:
        gpus = 1 if device not in (devices.AUTO, devices.CPU) or (device == devices.AUTO and with_gpus) else 0
    at = with_gpus if gpus else list(nodes)
    each = settings.cpus_per_worker
    if each is None:
        each = _share(at, gpus, settings.workers)
    room = sum(_fitting(node, gpus, each) for node in at)
    workers = max(room, 1) if settings.workers is None else settings.workers
    if workers > room:
        there = "; ".join(
            f"{counted(node.get('CPU', 0), 'CPU')} and {counted(node.get('GPU', 0), 'GPU')}" for node in nodes
        )
        raise EngineError(
            f"Ray finds room for {room} of {Crew(workers, gpus, each)}; its machines have: {there or 'nothing'}"
        )
    return Crew(workers, gpus, each)


def _share(nodes: Sequence[Mapping[str, float]], gpus: float, workers: int | None) -> int:
    """CPUs of a worker, where nobody says: those of a machine by its GPUs, else those of all by the workers."""
    counts = [node.get("CPU", 0) for node in nodes] or [0]
    if gpus:
        shares = [node.get("CPU", 0) * gpus / node["GPU"] for node in nodes]
        return max(1, int(min(shares, default=1)))
    if workers is None:
        return max(1, int(min((count for count in counts if count >= 1), default=1)))
    most = int(max(counts))
    for each in range(max(1, min(most, int(sum(counts)) // workers)), 1, -1):
        if sum(int(count) // each for count in counts) >= workers:
            return each
    return 1


def _fitting(node: Mapping[str, float], gpus: float, each: int) -> int:
    by_cpus = int(node.get("CPU", 0) // each)
    return min(by_cpus, int(node.get("GPU", 0) / gpus + 1e-9)) if gpus else by_cpus


def machines(ray: Any) -> list[dict[str, float]]:
    """What each machine of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


# ---- whether all see the store


@contextmanager
def token_in(folder: Path) -> Iterator[tuple[str, str]]:
    """A file in the store while the body runs: its path and what is in it."""
    text = uuid.uuid4().hex
    path = folder / f"{PARTIAL_PREFIX}{text}"
    path.write_text(text)
    try:
        yield str(path), text
    finally:
        with suppress(OSError):
            path.unlink()


def blind_nodes(ray: Any, token: tuple[str, str]) -> list[str]:
    """The other machines of the cluster that do not see the store, by name."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own = ray.get_runtime_context().get_node_id()
    others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != own]
    if not others:
        return []
    look = ray.remote(num_cpus=0, max_retries=0)(ray_host.sees)
    looks = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False)).remote(*token)
        for node in others
    ]
    done, _ = ray.wait(looks, num_returns=len(looks), timeout=SEEING_SECONDS)
    blind = []
    for answer in done:
        with suppress(ray.exceptions.RayError):  # a machine that goes away is no machine to ask
            node, seen = ray.get(answer)
            if not seen:
                blind.append(node)
    return sorted(blind)


@contextmanager
def sent_as_code(ray: Any) -> Iterator[None]:
    """While the body runs, what `ray_host` holds is sent as code, not as the name of a module that a node may
    lack."""
    ray.cloudpickle.register_pickle_by_value(ray_host)
    try:
        yield
    finally:
        ray.cloudpickle.unregister_pickle_by_value(ray_host)
