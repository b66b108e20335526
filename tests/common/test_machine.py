"""What is known of the machine: the CPUs and the memory that control groups leave, on made-up trees of files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from headstart.common import cgroups
from headstart.common.machine import available_memory, cpus

pytestmark = pytest.mark.neutral

MIB = 1 << 20
V1 = """31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 {shown} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 {shown} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
"""
V2 = "31 23 0:28 {shown} {point} rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw\n"


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def version_1(root: Path, group: str, files: Mapping[str, str], shown: str = "/") -> Path:
    about = {"proc/self/cgroup": f"4:memory:{group}\n3:cpu,cpuacct:{group}\n0::/", "proc/self/mountinfo": ""}
    about["proc/self/mountinfo"] = V1.format(shown=shown)
    return tree(root, about | {f"sys/fs/cgroup/{name}": text for name, text in files.items()})


def version_2(
    root: Path, group: str, files: Mapping[str, str], shown: str = "/", point: str = "/sys/fs/cgroup"
) -> Path:
    about = {"proc/self/cgroup": f"0::{group}", "proc/self/mountinfo": V2.format(shown=shown, point=point)}
    inside = point.replace("\\040", " ").lstrip("/")
    return tree(root, about | {f"{inside}/{name}": text for name, text in files.items()})


@pytest.mark.parametrize(
    ("quota", "count"), [(20_000, 1), (50_000, 1), (100_000, 1), (110_000, 2), (250_000, 3), (6_400_000, 16)]
)
def test_a_quota_counts_as_affinity_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: int, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    new = version_2(tmp_path / "2", "/job", {"job/cpu.max": f"{quota} 100000"})
    old = version_1(
        tmp_path / "1",
        "/job",
        {"cpu,cpuacct/job/cpu.cfs_quota_us": str(quota), "cpu,cpuacct/job/cpu.cfs_period_us": "100000"},
    )
    assert cpus(new) == cpus(old) == count


def test_the_least_quota_of_all_levels_counts(tmp_path: Path) -> None:
    levels = {"a/cpu.max": "max 100000", "a/b/cpu.max": "150000 50000", "a/b/c/cpu.max": "400000 100000"}
    assert cgroups.cpu_quota(version_2(tmp_path / "2", "/a/b/c", levels)) == 3.0
    assert cgroups.cpu_quota(version_2(tmp_path / "2", "/a", {})) is None
    levels = {
        f"cpu,cpuacct/{group}cpu.cfs_{name}_us": str(value)
        for group, quota in (("", -1), ("a/", 120_000), ("a/b/", -1))
        for name, value in (("quota", quota), ("period", 100_000))
    }
    assert cgroups.cpu_quota(version_1(tmp_path / "1", "/a/b", levels)) == 1.2


def test_memory_of_every_level_and_version(tmp_path: Path) -> None:
    files = {
        "a/memory.max": str(1500 * MIB),
        "a/memory.current": str(900 * MIB),
        "a/memory.stat": f"anon 5\ninactive_file {100 * MIB}\nactive_file 7",
        "a/b/memory.max": "max",
        "a/b/memory.high": str(1000 * MIB),
        "a/b/memory.current": str(300 * MIB),
        "a/b/c/memory.max": str(8000 * MIB),
        "a/b/c/memory.current": str(1 * MIB),
    }
    root = version_2(tmp_path / "2", "/a/b/c", files)
    assert cgroups.memory_left(root) == 700 * MIB
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {9000 << 10} kB\n")
    assert available_memory(root) == 700 * MIB
    (root / "sys/fs/cgroup/a/b/memory.high").write_text("max")
    assert available_memory(root) == 700 * MIB
    (root / "sys/fs/cgroup/a/memory.max").write_text("max")
    assert available_memory(root) == 7999 * MIB
    files = {
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/memory.usage_in_bytes": "5",
        "memory/job/memory.limit_in_bytes": str(1500 * MIB),
        "memory/job/memory.usage_in_bytes": str(1600 * MIB),
        "memory/job/memory.stat": f"cache 3\ninactive_file 0\ntotal_inactive_file {400 * MIB}",
    }
    assert cgroups.memory_left(version_1(tmp_path / "1", "/job", files)) == 300 * MIB
    assert cgroups.memory_left(version_1(tmp_path / "1", "/", files)) is None


def test_a_container_that_sees_its_own_part_only(tmp_path: Path) -> None:
    """The mount begins at the container's group, or the group's path leads out of what is seen, or its folder is
    not there: what is there counts."""
    limits = {"memory.max": str(512 * MIB), "memory.current": "0"}
    inner = {"in/memory.max": str(256 * MIB), "in/memory.current": "0"}
    found = {
        "mounted": version_2(tmp_path / "a", "/docker/7f/in", limits | inner, "/docker/7f"),
        "outside": version_2(tmp_path / "b", "/../other", limits | inner),
        "elsewhere": version_2(tmp_path / "c", "/docker/7f", limits | inner, "/docker/8e"),
        "gone": version_2(tmp_path / "d", "/in/gone/deeper", limits | inner),
        "spaces": version_2(tmp_path / "e", "/in", limits | inner, point="/my\\040groups"),
    }
    left = {name: cgroups.memory_left(root) for name, root in found.items()}
    outer, nested = 512 * MIB, 256 * MIB
    assert left == {"mounted": nested, "outside": outer, "elsewhere": outer, "gone": nested, "spaces": nested}


@pytest.mark.parametrize("text", ["", "max", "many 100000", "100000 0", "-1 100000", "1 2 3", "\xff" * 50])
def test_what_cannot_be_read_limits_nothing(tmp_path: Path, text: str) -> None:
    names = ("cpu.max", "memory.max", "memory.high", "memory.current", "memory.stat")
    root = version_2(tmp_path, "/job", {f"job/{name}": text for name in names})
    assert cgroups.cpu_quota(root) is None
    assert cgroups.memory_left(root) is None
    for broken in ("", "0:", ":::", "nonsense\n0::", "0::/job\n" * 3):
        (root / "proc/self/cgroup").write_text(broken)
        assert cgroups.memory_left(root) is None
    (root / "proc/self/mountinfo").write_text("31 23 - cgroup2\n - \n\n31 23 0:28 / / - cgroup2 x\n")
    assert cgroups.memory_left(root) is None
    assert cgroups.cpu_quota(tmp_path / "nowhere") is None
    assert available_memory(tmp_path / "nowhere") > 0
