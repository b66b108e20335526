"""Parts of an extraction: which samples are whose, what launchers say, and processes that fill one store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import headstart as hs
from headstart.errors import SettingError
from headstart.features.dividing import WorkPart, part_of

pytestmark = pytest.mark.neutral
IDS = st.lists(st.text("0123456789abcdef", min_size=32, max_size=32), max_size=60)


@given(IDS, st.integers(1, 40))
def test_every_sample_is_in_one_part(ids: list[str], count: int) -> None:
    """The part in whose stretch of the range it lies, by whole numbers of any size."""
    whose = np.zeros(len(ids), int)
    for number in range(1, count + 1):
        whose[WorkPart(number, count).positions(ids)] += number
    assert whose.tolist() == [int(id[:16], 16) * count // 2**64 + 1 for id in ids]


def test_the_ends_of_the_range() -> None:
    ends = ["0" * 32, "f" * 32, "8" + "0" * 31, "7" + "f" * 31]
    assert [WorkPart(number, 2).positions(ends).tolist() for number in (1, 2)] == [[0, 3], [1, 2]]
    assert WorkPart(999_999_999, 999_999_999).positions(ends).tolist() == [1]


def test_parts_are_equal_to_a_per_cent() -> None:
    """Of a quarter of a million samples in four parts."""
    rng = np.random.default_rng(0)
    digits = rng.bytes(4_000_000).hex()
    ids = [digits[i : i + 32] for i in range(0, len(digits), 32)]
    sizes = np.array([len(WorkPart(number, 4).positions(ids)) for number in range(1, 5)])
    assert sizes.sum() == 250_000 and np.abs(sizes / 62_500 - 1).max() < 0.01


SLURM = {"SLURM_PROCID": "2", "SLURM_NTASKS": "8"}
ARRAY = {"SLURM_ARRAY_TASK_ID": "15", "SLURM_ARRAY_TASK_COUNT": "6", "SLURM_ARRAY_TASK_MIN": "5"}


@pytest.mark.parametrize(
    ("env", "number", "count", "source"),
    [
        ({"RANK": "2", "WORLD_SIZE": "8"}, 3, 8, "RANK=2, WORLD_SIZE=8"),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"}, 1, 3, "OMPI_COMM_WORLD_RANK=0"),
        (SLURM, 3, 8, "SLURM_PROCID=2, SLURM_NTASKS=8"),
        ({**SLURM, "RANK": "5", "WORLD_SIZE": "16"}, 6, 16, "RANK=5"),
        ({**ARRAY, "SLURM_ARRAY_TASK_STEP": "2"}, 6, 6, "SLURM_ARRAY_TASK_ID=15, SLURM_ARRAY_TASK_COUNT=6"),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, 3, 6, "TASK_ID=7"),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "7", **SLURM}, 2 * 8 + 3, 48, "SLURM_NTASKS=8"),
    ],
)
def test_what_a_launcher_says(env: dict[str, str], number: int, count: int, source: str) -> None:
    part = part_of("auto", env=env)
    assert (part.number, part.count) == (number, count) and source in part.source


def test_what_the_framework_says() -> None:
    part = part_of("auto", lambda: (1, 4), {})
    assert (part.number, part.count) == (2, 4) and "process group" in part.source
    assert part_of("auto", lambda: pytest.fail("not asked"), SLURM).count == 8


@pytest.mark.parametrize("value", ["3/8", " 3 / 8", (3, 8), [3, 8]])
def test_a_part_is_named(value: Any) -> None:
    assert part_of(value) == WorkPart(3, 8)


@pytest.mark.parametrize(
    "value", ["", "3", "3/", "/8", "3/8/9", "-1/8", "3.0/8", "0/8", "9/8", (0, 8), (9, 8), (1,), (1.0, 8), 3, True,
              (True, 8), "1/99999999999"]
)  # fmt: skip
def test_what_is_no_part(value: Any) -> None:
    with pytest.raises(SettingError, match="part="):
        part_of(value)


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({}, "nothing says which process this is"),
        ({"RANK": "2"}, "looked for RANK, WORLD_SIZE"),
        ({"RANK": "8", "WORLD_SIZE": "8"}, "no process 8 of 8, counted from 0"),
        ({"RANK": "two", "WORLD_SIZE": "8"}, "RANK='two'; expected a whole number"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, "nothing says"),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "3"}, r"SLURM_ARRAY_TASK_ID=3.*no process -2"),
    ],
)
def test_a_launcher_that_says_nothing(env: dict[str, str], text: str) -> None:
    with pytest.raises(SettingError, match=text):
        part_of("auto", env=env)


# ---- processes


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(160):
        (folder / f"class{i % 4}").mkdir(exist_ok=True)
        picture = np.kron(rng.integers(0, 256, (12, 12, 3), np.uint8), np.ones((12, 12, 1), np.uint8))
        Image.fromarray(picture).save(folder / f"class{i % 4}" / f"{i}.jpg")
    return folder


def begin(photos: Path, cache: Path, *more: str, figures: Path) -> subprocess.Popen[str]:
    """Decoded pictures are features of a kind, for which no framework is imported: there is none that could be."""
    command = [sys.executable, "-m", "headstart", "extract", "--data", str(photos), "--cuts", "input",
               "--model", "lenet", "--json", str(figures), "--workers", "1", *more]  # fmt: skip
    broken = cache.parent / "broken"
    for framework in ("torch", "tensorflow", "jax", "keras"):
        (broken / framework).mkdir(parents=True, exist_ok=True)
        (broken / framework / "__init__.py").write_text(f"raise ImportError('{framework} is not needed here')")
    env = {**os.environ, "HEADSTART_CACHE": str(cache), "PYTHONPATH": str(broken)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> int:
    """Its exit code."""
    said = process.communicate(timeout=300)
    assert process.returncode in (0, -signal.SIGKILL), said
    return process.returncode


@pytest.mark.slow  # parts, and several writers, are tested apart
def test_processes_fill_one_store(photos: Path, tmp_path: Path) -> None:
    """Four parts, of which one is killed, one is begun twice and one has another batch size; what is left is
    computed by a call without a part. The rows are those of an undisturbed store, and none is computed twice but
    those of the part that was begun twice."""
    undisturbed, cache = tmp_path / "one", tmp_path / "many"
    assert ended(begin(photos, undisturbed, figures=tmp_path / "alone.json")) == 0
    parts: dict[str, subprocess.Popen[str]] = {}
    for name in ("1", "2", "3", "4", "2 again"):
        more = ["--batch-size", "7"] if name == "4" else []
        parts[name] = begin(photos, cache, "--part", f"{name[0]}/4", *more, figures=tmp_path / f"{name}.json")
    time.sleep(0.5)
    parts["3"].send_signal(signal.SIGKILL)
    codes = {name: ended(process) for name, process in parts.items()}
    assert [name for name, code in codes.items() if code] in ([], ["3"])
    assert ended(begin(photos, cache, figures=tmp_path / "rest.json")) == 0

    data = hs.data.folder(photos)
    sizes = {name: len(WorkPart(int(name[0]), 4).positions(data.ids)) for name in parts}
    computed = {
        name: json.loads((tmp_path / f"{name}.json").read_text())["extracted"]
        for name in (*parts, "rest")
        if (tmp_path / f"{name}.json").exists()
    }
    for name in ("1", "4"):
        assert computed[name] == sizes[name], name
    assert computed["2"] + computed["2 again"] >= sizes["2"]
    assert computed["rest"] + computed.get("3", 0) <= sizes["3"]
    rows = [
        hs.extract(hs.model("lenet", classes=4), data, "input", cache=folder) for folder in (undisturbed, cache)
    ]
    assert [features.stats.extracted for features in rows] == [0, 0]
    np.testing.assert_array_equal(*(features.numpy("input") for features in rows))


def test_a_part_without_samples(tmp_path: Path) -> None:
    data = hs.data.arrays(np.zeros((2, 8, 8, 3), np.uint8), [0, 1])
    features = [
        hs.extract(hs.model("lenet", classes=2), data, "input", cache=tmp_path, part=(number, 50))
        for number in range(1, 51)
    ]
    assert sum(map(len, features)) == 2 and sum(part.stats.extracted for part in features) == 1  # of equal bytes
