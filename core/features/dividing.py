"""Dividing an extraction among processes that know nothing of each other but the store.

Whose a sample is follows from its id, a digest of its bytes, and from how many parts there are: no list is kept
and nobody has to be asked. So parts are the same wherever they are worked on and stay what they are when the data
grow; each is a stretch of the ids' range, as an extraction by one process writes them one after the other.

Invariant: every sample belongs to exactly one of the parts 1 to n, and copies of a picture to the same one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.common.errors import SettingError

AUTO = "auto"
EXPECTED = "3/8 for the third of eight parts, or auto"
DIGITS = 16
"""of an id, that say where in the range it lies"""
ARRAY, TASK = "SLURM_ARRAY_TASK_", ("SLURM_PROCID", "SLURM_NTASKS")
RANKS = (("RANK", "WORLD_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE"))
"""variables that launchers set: which process this is, from 0, and of how many. torchrun, Open MPI, MPICH"""


@dataclass(frozen=True)
class WorkPart:
    """Part `number`, from 1, of `count`."""

    number: int
    count: int
    source: str = ""
    """what says so, where nobody has named it"""

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}"

    def positions(self, ids: Sequence[str]) -> np.ndarray:
        """Where among `ids`, 32 hex digits each, the part's samples stand."""
        places = np.frombuffer(bytes.fromhex("".join(id[:DIGITS] for id in ids)), ">u8")
        first, behind = (-(-k * 16**DIGITS // self.count) for k in (self.number - 1, self.number))
        return np.flatnonzero((places >= np.uint64(first)) & (places <= np.uint64(behind - 1)))


def part_of(
    value: Any, rank: Callable[[], tuple[int, int] | None] = lambda: None, env: Mapping[str, str] = os.environ
) -> WorkPart:
    """The part that `part=` means: `(3, 8)`, "3/8", or "auto" for what a launcher says by `env`, else the
    framework by `rank` (this process from 0, and how many there are). SettingError for anything else, and where
    nobody says anything."""
    if value == AUTO:
        return _told(rank, env)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", value)
        numbers: Any = match and tuple(map(int, match.groups()))
    else:
        numbers = value
    is_pair = isinstance(numbers, tuple | list) and len(numbers) == 2 and all(type(n) is int for n in numbers)
    if not is_pair:
        raise SettingError(f"part={value!r}; expected {EXPECTED}: (3, 8) in Python, --part 3/8")
    number, count = numbers
    if not 1 <= number <= count:
        raise SettingError(f"part={value!r}; parts are numbered from 1 to how many there are; expected {EXPECTED}")
    return WorkPart(number, count)


def _told(rank: Callable[[], tuple[int, int] | None], env: Mapping[str, str]) -> WorkPart:
    for pair in RANKS:
        if all(name in env for name in pair):
            return _of_rank(_number(env, pair[0]), _number(env, pair[1]), _words(env, pair))
    place, count = 0, 1
    names: tuple[str, ...] = ()
    if f"{ARRAY}ID" in env and f"{ARRAY}COUNT" in env:
        first, step = (_number(env, f"{ARRAY}{name}", default) for name, default in (("MIN", 0), ("STEP", 1)))
        place, count = (_number(env, f"{ARRAY}ID") - first) // max(step, 1), _number(env, f"{ARRAY}COUNT")
        names = (f"{ARRAY}ID", f"{ARRAY}COUNT")
    if all(name in env for name in TASK) and _number(env, TASK[1]) > 1:
        task, tasks = (_number(env, name) for name in TASK)  # of each of the array's, where it is an array
        place, count, names = place * tasks + task, count * tasks, (*names, *TASK)
    if names:
        return _of_rank(place, count, _words(env, names))
    if (told := rank()) is not None:
        return _of_rank(*told, "the framework's own process group")
    looked_for = [*(name for pair in RANKS for name in pair), *TASK, f"{ARRAY}ID", f"{ARRAY}COUNT"]
    raise SettingError(
        f"part='auto', and nothing says which process this is (looked for {', '.join(looked_for)}, and a process "
        "group of the framework's); expected a launcher such as torchrun or srun, or --part 3/8"
    )


def _of_rank(rank: int, size: int, source: str) -> WorkPart:
    if not 0 <= rank < size:
        raise SettingError(f"part='auto' with {source}: there is no process {rank} of {size}, counted from 0")
    return WorkPart(rank + 1, size, source)


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name, "" if default is None else str(default))
    if not re.fullmatch(r"\d{1,9}", text):
        raise SettingError(f"part='auto' with {name}={text!r}; expected a whole number")
    return int(text)


def _words(env: Mapping[str, str], names: Sequence[str]) -> str:
    return ", ".join(f"{name}={env[name]}" for name in names)
