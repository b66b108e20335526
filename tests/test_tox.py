"""The environments of tox.ini name what there is. Most of them run at every change; `card`, `device`, `bench`,
`faults` and `versions` when somebody asks, and what they name may have gone since."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tomllib
from configparser import RawConfigParser
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

pytestmark = pytest.mark.neutral
ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOX = RawConfigParser()
TOX.read(ROOT / "tox.ini")
SECTIONS = [name for name in TOX.sections() if name.startswith("testenv")]
VARIABLE = re.compile(r"HEADSTART_[A-Z_]+")
BROUGHT_BY = {
    "nvidia": "nvidia_nvimgcodec_cu13",
    "pillow_jxl": "pillow_jxl_plugin",
    "triton": "torch",
    "websocket": "selenium",
}
"""a package that tests import: the requirement that brings it, where that is called otherwise"""


def setting(section: str, key: str) -> list[str]:
    """The lines of a section's setting, else of what all have; `factor: ` before a line is left out."""
    text = TOX.get(section, key, fallback=TOX.get("testenv", key, fallback=""))
    while reference := re.search(r"\{\[(.+?)\](.+?)\}", text):
        text = text.replace(reference[0], TOX.get(*reference.groups()))
    lines = [line.strip().replace("{tox_root}", str(ROOT)) for line in text.replace("\\\n", "").splitlines()]
    return [re.sub(r"^[a-z0-9!, -]+: +", "", line) for line in lines if line and not line.startswith("#")]


def pytest_calls(section: str) -> list[argparse.Namespace]:
    """An option that is not listed here ends the test: it may name something, too."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("paths", nargs="*")
    for flag in ("-p", "-m", "--ignore"):
        parser.add_argument(flag, action="append", default=[])
    for flag in ("-n", "--dist"):
        parser.add_argument(flag)
    for flag in ("-s", "--nbmake"):
        parser.add_argument(flag, action="store_true")
    words = [shlex.split(line.replace("{posargs}", "")) for line in setting(section, "commands")]
    return [parser.parse_args(arguments) for program, *arguments in words if program == "pytest"]


def variables(section: str) -> dict[str, str]:
    return {key.strip(): value.strip() for key, value in (s.split("=", 1) for s in setting(section, "set_env"))}


def test_the_environments_are_there() -> None:
    assert {f"testenv:{name}" for name in ("card", "device", "bench", "faults", "machines", "parity")} <= set(
        SECTIONS
    )
    calls = {section: pytest_calls(section) for section in SECTIONS}
    without_tests = {section.removeprefix("testenv:") for section in SECTIONS if not calls[section]}
    assert without_tests == {"lint", "typing", "docs", "versions", "slow"}


def test_versions_runs_its_environments() -> None:
    """The oldest and the newest of each framework."""
    (label,) = (line for line in setting("tox", "labels") if line.startswith("versions = "))
    assert f"testenv:{label.removeprefix('versions = ')}" in SECTIONS
    assert "{oldest, newest}" in label
    assert all(name in label for name in PYPROJECT["project"]["entry-points"]["headstart.backends"])
    assert setting("testenv:versions", "commands") == ["tox run -m versions {posargs}"]


def test_slow_runs_what_others_leave_out() -> None:
    """`-m` with a marker that no test has would find nothing. keras-torch has tests that keras skips for want of
    torch."""
    (command,) = setting("testenv:slow", "commands")
    environments = re.fullmatch(r"tox run -e (\S+) -- -m slow \{posargs\}", command)
    assert environments and set(environments[1].split(",")) == {
        *PYPROJECT["project"]["entry-points"]["headstart.backends"],
        "keras-torch",
        "parity",
    }
    assert any(line.startswith("slow(") for line in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"])


@pytest.mark.parametrize("section", SECTIONS)
def test_paths_plugins_and_markers(section: str) -> None:
    registered = {
        line.split(":")[0].split("(")[0] for line in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]
    }
    folders = variables(section).get("PYTHONPATH", "").split(":")
    for call in pytest_calls(section):
        for path in map(ROOT.joinpath, call.paths):
            notebook = call.nbmake and path.suffix == ".ipynb"
            tests = path.name.startswith("test_") or notebook if path.is_file() else any(path.rglob("test_*.py"))
            assert tests and path.exists(), path
        for path in map(ROOT.joinpath, call.ignore):
            assert path.exists(), path
        for plugin in call.p:
            assert PathFinder.find_spec(plugin, folders) is not None, plugin
        for expression in call.m:
            assert set(re.findall(r"\w+", expression)) - {"and", "or", "not"} <= registered, expression


@pytest.mark.parametrize("section", SECTIONS)
def test_extras(section: str) -> None:
    extras = {extra.strip() for line in setting(section, "extras") for extra in line.split(",")}
    assert extras - {"{env_name}"} <= set(PYPROJECT["project"]["optional-dependencies"])


def test_somebody_reads_the_variables() -> None:
    code = "".join(
        path.read_text() for name in ("core", "tests", "benchmarks") for path in (ROOT / name).rglob("*.py")
    )
    for section in SECTIONS:
        for name in VARIABLE.findall(" ".join(setting(section, "set_env") + setting(section, "pass_env"))):
            assert name in code, f"{section}: {name}"


def test_the_plugin_for_a_gpu_is_the_one_that_its_tests_look_for() -> None:
    """Without it they are skipped, and the environment would pass."""
    looked_for = set()
    for path in (ROOT / "tests/device").glob("test_*.py"):
        looked_for.update(re.findall(r'find_spec\("(\w+)"\)', path.read_text()))
    assert looked_for and looked_for <= {line.replace("-", "_") for line in setting("testenv:device", "deps")}


def requirements(section: str) -> set[str]:
    """The names of what an environment installs, its extras' requirements among them, as packages are imported."""
    extras = {extra.strip() for line in setting(section, "extras") for extra in line.split(",")}
    if "{env_name}" in extras:
        extras |= {*PYPROJECT["project"]["entry-points"]["headstart.backends"]}
    known = PYPROJECT["project"]["optional-dependencies"]
    lines = [*setting(section, "deps"), *(line for extra in extras & {*known} for line in known[extra])]
    return {re.split(r"[^\w.-]", line)[0].replace("-", "_").lower() for line in lines}


@pytest.mark.parametrize("section", ["testenv", "testenv:parity", "testenv:machines"])
def test_what_tests_are_skipped_without_is_installed(section: str) -> None:
    """A test that looks for a package that its environment has not is skipped in each of them, and never runs."""
    (call,) = pytest_calls(section)
    ignored = {ROOT / path for path in call.ignore}
    installed = requirements(section)
    starts = [ROOT / path for path in call.paths or ["tests"]]
    missing: dict[str, set[str]] = {}
    for path in {path for start in starts for path in ([start] if start.is_file() else start.rglob("*.py"))}:
        if ignored & {*path.parents}:
            continue
        for name in re.findall(r'importorskip\("(\w+)', path.read_text("utf-8")):
            ours = name in sys.stdlib_module_names or (ROOT / "tests" / f"{name}.py").exists()
            if not ours and BROUGHT_BY.get(name, name).lower() not in installed:
                missing.setdefault(name, set()).add(path.name)
    assert not missing
