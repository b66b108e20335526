"""What people get: the tree's last commit is built as for a release, an index would take it, and in an environment
that holds nothing else its wheel brings what the README's first command needs. `tox -e release`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from venv import create

import pytest

pytestmark = pytest.mark.skipif("HEADSTART_RELEASE" not in os.environ, reason="run by tox -e release")
ROOT = Path(__file__).parents[2]


def output(*command: str | Path) -> str:
    """What a command prints, which has to succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both, built from a clone, which has the tags and nothing that git does not have."""
    clone, built = (tmp_path_factory.mktemp(name) for name in ("clone", "built"))
    output("git", "clone", "--quiet", ROOT, clone)
    output(sys.executable, "-m", "build", "--outdir", built, clone)
    return built


@pytest.fixture(scope="module")
def programs(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has had the wheel installed, with torch, and nothing else."""
    environment = tmp_path_factory.mktemp("empty")
    create(environment, with_pip=True)
    programs = environment / "bin"
    (wheel,) = distributions.glob("headstart-*.whl")
    output(programs / "python", "-m", "pip", "install", "--quiet", f"{wheel}[torch]")
    return programs


def test_an_index_takes_them(distributions: Path) -> None:
    output(sys.executable, "-m", "twine", "check", "--strict", *distributions.iterdir())


def test_the_version_is_that_of_the_tags(distributions: Path, programs: Path) -> None:
    version = output(programs / "headstart", "--version").removeprefix("headstart ").strip()
    assert version not in ("", "0+unknown")
    assert {path.name for path in distributions.iterdir()} == {
        f"headstart-{version}-py3-none-any.whl",
        f"headstart-{version}.tar.gz",
    }
    described = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--tags", "--exact-match"], capture_output=True, text=True
    )
    if described.returncode == 0:
        assert version == described.stdout.strip().removeprefix("v")
    else:
        assert ".dev" in version


def test_nothing_is_missing_beside_the_wheel(programs: Path) -> None:
    output(programs / "python", "-m", "pip", "check")


def test_the_first_command_of_the_readme(programs: Path, tmp_path: Path) -> None:
    """Of two modes, two epochs: the wheel has its data and its trunk with it."""
    out = tmp_path / "out"
    words = f"compare --backends torch --modes frozen,cached --epochs 2 --out {out}".split()
    assert "cached" in output(programs / "headstart", *words)
    runs = json.loads((out / "compare.json").read_text())["rows"]
    assert {run["mode"] for run in runs} == {"frozen", "cached"}
    assert all(run["val_accuracy"] > 0.8 for run in runs)
    assert (out / "report.html").stat().st_size > 100_000
