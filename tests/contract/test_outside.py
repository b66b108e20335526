"""A backend of another distribution: installed beside headstart, it is found by its entry point and held to the
same suite. It is in plain numpy, so no framework is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.neutral
OUTSIDE = Path(__file__).parent.parent / "outside"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds the distribution, as pip installs it."""
    folder = tmp_path_factory.mktemp("outside")
    source = shutil.copytree(OUTSIDE, folder / "source")  # leave no build folder in the tree
    command = [*(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check")]
    done = subprocess.run([*command, "--target", folder / "site", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def run(site: Path, *command: str | Path) -> str:
    """What a Python with the distribution says."""
    others = {name: value for name, value in os.environ.items() if name != "HEADSTART_BACKEND"}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env={**others, "PYTHONPATH": str(site)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_passes_the_suite_and_what_it_lacks_is_skipped_by_name(site: Path) -> None:
    told = run(site, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", OUTSIDE / "conformance_numpy.py")
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", told.splitlines()[-1])}
    assert counts["passed"] > 60
    for lacking in (
        "cannot train many heads side by side, and says so",
        "cannot wrap modules of users' own, and says so",
        "cannot record a profile, and says so",
        "hands out nothing, and says so",
    ):
        assert f"backend 'numpy' {lacking}" in told
    assert set(counts) <= {"passed", "skipped", "in"}


def test_it_is_a_backend_as_others_are(site: Path) -> None:
    code = """
import sys
from headstart.contract import registry
assert registry.names()[-1] == "numpy" and "numpy" in registry.installed()
import headstart as hs
train, val = hs.data.digits().subset(range(120)).split(0.8, seed=0)
grid = hs.sweep(hs.model("lenet", classes=10), train, val, grid={"lr": [0.01, 0.003]}, epochs=1, backend="numpy")
run = hs.fit(hs.model("lenet", classes=10), train, val, mode="full", epochs=1, backend="numpy")
print(len(grid.runs), run.backend)
assert not {"torch", "keras", "jax"} & sys.modules.keys()
"""
    assert run(site, "-c", code).startswith("2 numpy")
