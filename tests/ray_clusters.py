"""What tests of extraction by Ray share: pictures, a cluster's own accounts, and its processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

ACTOR = "ray::Host"
"""how the title of an actor's process begins"""


def make_photos(root: Path, count: int, width: int = 48, classes: int = 4) -> Path:
    """Blotches, different for each, as JPEGs in a folder a class."""
    rng = np.random.default_rng(count)
    for i in range(count):
        folder = root / f"class{i % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        blotches = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        blotches.resize((width, width * 3 // 4), Image.Resampling.BICUBIC).save(folder / f"{i:05}.jpg")
    return root


def created_nbytes() -> int:
    """Bytes of all objects that were ever put into the object stores of the cluster that this process is connected
    to, by Ray's own accounts."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return int(get_memory_info_reply(state).store_stats.cumulative_created_bytes)  # of all machines


def processes_below(root: int) -> dict[int, str]:
    """Process -> command, of all that descend from a process."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError, IndexError):
                words = (folder / "stat").read_text().rpartition(")")[2].split()
                if words[0] != "Z":
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    parents[int(folder.name)] = int(words[1]), command.strip()
    found: dict[int, str] = {}
    level = {root}
    while level:
        level = {process for process, (parent, _) in parents.items() if parent in level}
        found |= {process: parents[process][1] for process in level}
    return found


def actors_below(root: int) -> list[int]:
    """The processes of actors."""
    return sorted(process for process, command in processes_below(root).items() if command.startswith(ACTOR))


def cpu_seconds(process: int) -> float:
    """That a process has had of the CPU; 0 where there is none."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def gone(processes: Iterator[int] | list[int], seconds: float = 10.0) -> bool:
    """Whether these processes end within so many seconds."""
    end = time.monotonic() + seconds
    left = list(processes)
    while left and time.monotonic() < end:
        left = [process for process in left if _is_alive(process)]
        time.sleep(0.05)
    return not left


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
