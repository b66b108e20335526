"""The table itself: what meets what was asked for, and that no row is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quick
import table as module
from table import COLUMNS, NO_GPU, TARGETS, Table, Target


@pytest.fixture
def filled() -> Table:
    made = Table()
    facts = {"device": "cpu", "threads": 2, "versions": {"torch": "2.15"}}
    made.record("extraction", "a|b", 2.0, backend="torch", peer="eager", peers=9.0, target="extraction torch")
    made.record("sweep", "64 heads", 5.0, backend="jax", peer="one", peers=1.0, target="64 heads", facts=facts)
    made.record("starting", "[bold]", 0.0123, target="import headstart")
    made.record("peak memory", "above the framework", 1.5e9, unit="bytes", backend="jax")
    return made


def test_what_is_met_is_computed(filled: Table) -> None:
    assert [row.met for row in filled.rows] == [True, False, True, None]
    assert [row.ratio for row in filled.rows] == [4.5, 5.0, None, None]
    assert [row.cells()[6:9] for row in filled.rows] == [
        ("4.50x as fast", "at least 4.00x", "yes"),
        ("5.00x of it", "at most 4.00x", "no"),
        ("-", "at most 0.15 s", "yes"),
        ("-", "-", "-"),
    ]
    assert filled.rows[3].cells()[3] == "1.5 GB" and filled.rows[2].cells()[3] == "12.3 ms"


@pytest.mark.parametrize(
    ("target", "own", "met"),
    [
        (Target("speed", 2.0), 0.5, True),
        (Target("speed", 2.0), 0.51, False),
        (Target("cost", 1.1), 1.1, True),
        (Target("cost", 1.1), 1.11, False),
        (Target("own", 0.3), 0.3, True),
        (Target("own", 0.3), 0.31, False),
        (Target("near", 0.25), 0.75, True),
        (Target("near", 0.25), 1.25, True),
        (Target("near", 0.25), 0.74, False),
        (Target("near", 0.25), 1.26, False),
    ],
)
def test_a_bound_is_met_from_its_own_side(target: Target, own: float, met: bool) -> None:
    assert target.met(own, 1.0, 1.0) is met


def test_numbers_of_numpy_are_written(tmp_path: Path) -> None:
    made = Table()
    made.record("solving", "a path", np.float64(1.0), peer="another's", peers=np.float64(9.0), target="ridge path")
    written, _ = made.write(tmp_path)
    assert [row["met"] for row in json.loads(written.read_text("utf-8"))["rows"]] == [True]


def test_a_smaller_setting_says_what_was_asked_of() -> None:
    made = Table()
    made.record(
        "path", "1,000 x 8", 1.0, peer="RidgeCV", peers=6.0, target="ridge path", asked_of="50,000 x 2,048"
    )
    made.record("path", "50,000 x 2,048", 1.0, peer="RidgeCV", peers=6.0, target="ridge path")
    assert [row.asked for row in made.rows] == ["at least 5.00x, of 50,000 x 2,048", "at least 5.00x"]


def test_a_bound_is_scaled() -> None:
    made = Table()
    for seconds in (1.0, 1.2):
        made.record("ratio", "block", seconds, peer="uncached", peers=6.3, target="block", scale=7.0)
    assert [row.met for row in made.rows] == [True, False]
    assert made.rows[0].asked == "at least 6.30x"


@pytest.mark.parametrize("own", [0.0, -1.0, float("nan"), float("inf")])
def test_what_was_not_measured_is_refused(own: float) -> None:
    with pytest.raises(ValueError, match="no measured figures"):
        Table().record("ratio", "block", own, peer="uncached", peers=1.0)


def test_a_target_that_is_not_there_is_refused() -> None:
    with pytest.raises(KeyError):
        Table().record("ratio", "block", 1.0, target="blok")
    assert all(target.bound > 0 for target in TARGETS.values())


def test_files(filled: Table, tmp_path: Path) -> None:
    as_json, as_markdown = filled.write(tmp_path / "new")
    found = json.loads(as_json.read_text())
    assert [row["own"] for row in found["rows"]] == [2.0, 5.0, 0.0123, 1.5e9]
    assert found["backends"] == {"torch": {}, "jax": {"versions": {"torch": "2.15"}, "threads": 2}}
    assert found["machine"]["cores"] >= 1 and found["date"] and found["headstart"]
    lines = [line for line in as_markdown.read_text().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(filled.rows)
    assert all(line.replace("\\|", "").count("|") == 1 + len(COLUMNS) for line in lines)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["benchmarks.json", "benchmarks.md"]


@pytest.mark.parametrize("width", [120, 160])
def test_text(filled: Table, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "gpu", lambda: None)
    text = filled.text(width)
    assert max(map(len, text.splitlines())) <= max(width, max(map(len, filled.facts_lines())))
    assert text.count(NO_GPU) == 1 and "[bold]" in text and "device" not in text
    assert [text.index(row.capability) for row in filled.rows] == sorted(
        text.index(row.capability) for row in filled.rows
    )


def test_a_gpu_has_a_column(filled: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "gpu", lambda: "Quick 9000")
    assert any("nothing was measured on it" in line for line in filled.facts_lines())
    filled.record("extraction", "c", 1.0, backend="torch", facts={"device": "cuda"})
    text = filled.text(160)
    assert "device" in text and "cuda: Quick" in text and NO_GPU not in text and "nothing was" not in text


RUN = """
import os
import pytest
from table import table

def test_first():
    table.record("capability", "first", 1.0)
    assert False

def test_second():
    pytest.skip("nothing here")

def test_third():
    table.record("capability", "third", 1.0)

def test_fourth():
    if os.environ["DIES"]:
        os._exit(1)
"""


@pytest.mark.parametrize("dies", ["", "1"])
def test_no_row_is_lost(tmp_path: Path, dies: str) -> None:
    """To a failure, a skip, or the end of the process itself."""
    (tmp_path / "test_run.py").write_text(RUN)
    options: Any = ["-p", "conftest", "-p", "no:cacheprovider", "-c", os.devnull, "--table", tmp_path / "figures"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tmp_path / "test_run.py"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "DIES": dies},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    found = json.loads((tmp_path / "figures" / "benchmarks.json").read_text())
    assert [row["what"] for row in found["rows"]] == ["first", "third"]
    assert ("written to" in done.stdout) is (not dies)
    assert dies or "1 failed, 2 passed, 1 skipped" in done.stdout


def test_a_ratio_that_has_halved_is_found(filled: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is told as so many times as fast, or as so many times of what the peer takes."""
    monkeypatch.setattr(quick, "KNOWN", tmp_path / "quick.json")
    assert quick.regressions(filled.rows) == []
    assert quick.summary(filled.rows)[-1] == "0 ratios compared with quick.json"
    quick.keep(filled.rows)
    later = Table()
    later.record("extraction", "a|b", 4.2, backend="torch", peer="eager", peers=9.0)
    later.record("sweep", "64 heads", 9.8, backend="jax", peer="one", peers=1.0, cost=True)
    later.record("extraction", "another", 1.0, backend="torch", peer="eager", peers=9.0)
    assert quick.regressions(later.rows) == ["extraction | a|b | torch | eager: 2.14x as fast, 4.50x before"]
    assert quick.summary(later.rows)[1:] == [
        "not in quick.json: extraction | another | torch | eager",
        "2 ratios compared with quick.json",
    ]
    quick.keep(later.rows[2:])
    assert len(quick.known()) == 3, "what was not measured now is kept"


def test_quick_runs_some_of_what_there_is() -> None:
    """No pattern of a test that is called otherwise now."""
    folder = Path(quick.__file__).parent
    words = [sys.executable, "-m", "pytest", str(folder), "--collect-only", "-q", "-p", "no:cacheprovider"]
    env = {name: value for name, value in os.environ.items() if name != "HEADSTART_BACKEND"}
    done = subprocess.run([*words, "--quick"], capture_output=True, text=True, env=env, cwd=folder.parent)
    assert done.returncode == 0, done.stdout
    tests = [line for line in done.stdout.splitlines() if "::" in line]
    for pattern in quick.TESTS:
        assert any(quick.is_meant(test, pattern) for test in tests), pattern
