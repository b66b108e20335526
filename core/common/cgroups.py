"""What Linux's control groups leave to this process: a container, a batch system's job and a service have limits
that the machine's own figures do not show.

Both versions, and both at once; groups lie in one another, and each level's limit counts. Where a group's folder
is not in sight, as in a container that sees its own part only, the nearest one above it that is there counts.

Invariant: no file that is missing, cut off or written by a later kernel is an error; what cannot be read limits
nothing. `root` is where the system's files are looked for, for tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
NO_LIMIT = 1 << 60
UNIFIED = ""
"""the controller that version 2 has in place of all"""


def cpu_quota(root: Path = ROOT) -> float | None:
    """The CPUs' worth of time that this process may use at most, such as 1.5; None where nothing limits it."""
    quotas = []
    for folder in _levels(UNIFIED, root):
        words = _text(folder / "cpu.max").split()  # "max 100000" or "150000 100000", in microseconds
        quotas.append(_ratio(*words) if len(words) == 2 else None)
    for folder in _levels("cpu", root):
        quotas.append(_ratio(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")))
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_left(root: Path = ROOT) -> int | None:
    """Bytes that this process can still take before its groups stop it or slow it down; None where nothing limits
    it. Pages of files that were not used for long count as free: the system gives them up first."""
    left = []
    for controller, limits, usage, idle in (
        (UNIFIED, ("memory.max", "memory.high"), "memory.current", "inactive_file"),
        ("memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for folder in _levels(controller, root):
            allowed = [limit for name in limits if (limit := _number(_text(folder / name))) is not None]
            used = _number(_text(folder / usage))
            if allowed and used is not None:
                left.append(max(0, min(allowed) - max(0, used - _field(folder / "memory.stat", idle))))
    return min(left, default=None)


def _levels(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's group for a controller and of the groups around it, innermost first."""
    group = _group(controller, root)
    mount = None if group is None else _mount(controller, root)
    if group is None or mount is None:
        return
    shown, point = mount
    inside = group.relative_to(shown).parts if group.is_relative_to(shown) else ()
    # Of a group outside of what is mounted here the path leads out of it.
    inside = () if ".." in inside else inside
    for depth in range(len(inside), -1, -1):
        folder = point.joinpath(*inside[:depth])
        if folder.is_dir():
            yield folder


def _group(controller: str, root: Path) -> PurePosixPath | None:
    """The group of this process, by the path that the kernel gives it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")  # 4:memory:/user.slice, 3:cpu,cpuacct:/, and of version 2 0::/user.slice
        controllers, colon, path = rest.partition(":")
        if colon and controller in controllers.split(","):
            return PurePosixPath(path)
    return None


def _mount(controller: str, root: Path) -> tuple[PurePosixPath, Path] | None:
    """Which group is mounted for a controller, and where."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not dash or len(fields) < 5 or len(kind) < 3:
            continue
        if controller == UNIFIED:
            fits = kind[0] == "cgroup2"
        else:
            fits = kind[0] == "cgroup" and controller in kind[2].split(",")
        if fits:
            return PurePosixPath(_unescaped(fields[3])), root / _unescaped(fields[4]).lstrip("/")
    return None


def _unescaped(field: str) -> str:
    """Of a path in a table of mounts, in which spaces stand as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    """None also for what version 1 has for no limit, which is more than any machine holds."""
    number = int(text) if re.fullmatch(r"[0-9]{1,30}", text) else None
    return None if number is None or number >= NO_LIMIT else number


def _ratio(quota: str, period: str) -> float | None:
    """None for "max" and -1, which mean no limit."""
    above, below = _number(quota), _number(period)
    return above / below if above and below else None


def _field(path: Path, name: str) -> int:
    """Of a file of lines such as "inactive_file 4096"."""
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return _number(value) or 0
    return 0
