"""What is shipped: a wheel built from this tree holds every module and the weights. An editable install would hide
a missing one. And that the tree is held to one style, by whatever tool."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

pytestmark = pytest.mark.neutral
ROOT = Path(__file__).parent.parent


BUILT = ("core", "backends", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
"""what a wheel is made of"""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a source distribution, and of a wheel that was built from that, here and now. By what is
    installed: that pyproject.toml names all that building takes, tox's own build of the package shows."""
    pytest.importorskip("build", reason="`tox -e torch` has it")
    pytest.importorskip("setuptools_scm", reason="`tox -e torch` has it")
    folder = tmp_path_factory.mktemp("distributions")
    source = folder / "source"
    source.mkdir()
    for name in BUILT:  # leave no build folder in the tree
        (source / name).symlink_to(ROOT / name)
    python("-m", "build", "--no-isolation", "--outdir", folder, source)
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> list[str]:
    """Names in the wheel."""
    return list(contents(the_one(distributions, "headstart-*.whl")))


def python(*arguments: str | Path) -> None:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def the_one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


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


def test_nothing_is_in_the_wheel_that_nobody_named(wheel: list[str]) -> None:
    """Package data are named in pyproject.toml; what git tracks beside them is not shipped for that alone."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["include-package-data"] is False
    kinds = {pattern for patterns in settings["package-data"].values() for pattern in patterns} | {"*.py"}
    rest = [name for name in wheel if ".dist-info/" not in name]
    assert [name for name in rest if not any(fnmatch(Path(name).name, kind) for kind in kinds)] == []


def test_licence_and_notice_are_shipped(distributions: Path, wheel: list[str]) -> None:
    assert {name.rsplit("/", 1)[1] for name in wheel if ".dist-info/licenses/" in name} == {"LICENSE", "NOTICE"}
    with tarfile.open(the_one(distributions, "headstart-*.tar.gz")) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "NOTICE", "README.md", "pyproject.toml", "core/store/FORMAT.md"} <= there


def test_what_comes_from_elsewhere_is_in_the_notice() -> None:
    """Of each kind of package data the notice says where it comes from."""
    notice = (ROOT / "NOTICE").read_text()
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for kind in (*package_data["headstart.models"], *package_data["headstart.report"]):
        assert kind.removeprefix("*") in notice, kind
    for path in (ROOT / "core" / "models").iterdir():
        if path.suffix in (".safetensors", ".json", ".txt"):
            assert f"core/models/{path.name}" in notice


def test_an_index_takes_them(distributions: Path) -> None:
    pytest.importorskip("twine", reason="`tox -e torch` has it")
    python("-m", "twine", "check", "--strict", *distributions.glob("headstart-*"))


def test_the_source_distribution_makes_the_same_wheel(distributions: Path, tmp_path: Path) -> None:
    """Here the wheel is made from the tree."""
    python("-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, distributions / "source")
    first, second = (contents(the_one(folder, "headstart-*.whl")) for folder in (distributions, tmp_path))
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


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
