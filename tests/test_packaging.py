"""What is shipped: a wheel built from this tree holds every module and the weights. An editable install would hide
a missing one. And that the tree is held to one style, by whatever tool."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.neutral
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in a wheel that is built here and now."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("core", "backends", "pyproject.toml", "README.md"):  # leave no build folder in the tree
        (source / name).symlink_to(ROOT / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("headstart-*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_every_module_is_in_the_wheel(wheel: list[str]) -> None:
    expected = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in (("core", "headstart"), ("backends", "headstart/backends"))
        for path in (ROOT / folder).rglob("*.py")
    }
    assert len(expected) > 50
    assert expected <= set(wheel)
    shipped = {name for name in wheel if name.endswith(".py")}
    assert shipped == expected, "nothing else is"


def test_weights_format_and_type_marker_are_in_the_wheel(wheel: list[str]) -> None:
    assert "headstart/store/FORMAT.md" in wheel
    assert "headstart/models/resnet18_half-tinyimagenet.safetensors" in wheel
    assert "headstart/py.typed" in wheel
    assert any(name.endswith("entry_points.txt") for name in wheel)


def test_every_folder_is_listed_as_a_package() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(
            ("headstart", *([root] if root == "backends" else []), *path.parent.relative_to(ROOT / root).parts)
        )
        for root in ("core", "backends")
        for path in (ROOT / root).rglob("__init__.py")
    }
    assert set(listed) == found


def test_a_commit_is_held_to_the_style_of_the_lint_environment() -> None:
    """The same ruff before a commit and behind it: another version would refuse what the other has formatted."""
    in_tox = re.findall(r"\bruff==(\S+)", (ROOT / "tox.ini").read_text())
    before = re.findall(r"\bruff==([^\]\s]+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert len(in_tox) == 1 and len(before) == 2
    assert set(before) == set(in_tox)
