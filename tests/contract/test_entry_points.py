"""Backends of other distributions: found by their entry points, described without a framework, named in errors.

A distribution is a folder on the path with a `.dist-info` in it, as pip leaves one; each test asks in a process of
its own, whose installation that is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headstart.contract import registry

pytestmark = pytest.mark.neutral

DESCRIPTION = """
from headstart.contract.description import Description

TINY = Description(
    module="tiny_backend.backend",
    modules=("tinylib",),
    distributions=("tiny-lib", "numpy"),
    install="pip install 'tiny-backend[lib]'",
)
FASTER = Description("tiny_backend.backend", (), (), "", frozenset(), order=0)
NOTHING = "a text"
"""
BACKEND = """
import tinylib

from headstart.contract.recipe import Place


class Tiny:
    name = "tiny"

    def place(self, device, precision):
        return Place("cpu", precision)


BACKEND = Tiny()
"""
Ask = Callable[..., Any]


@pytest.fixture
def installed(tmp_path: Path) -> Ask:
    """Install a distribution that registers these entry points."""

    def install(distribution: str = "tiny-backend", **entries: str) -> Path:
        info = tmp_path / f"{distribution.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[headstart.backends]", *lines]) + "\n")
        package = tmp_path / "tiny_backend"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text(DESCRIPTION)
        (package / "backend.py").write_text(BACKEND)
        return tmp_path

    return install


def ask(folder: Path, *expressions: str) -> list[Any]:
    """What each expression gives in a new process with the folder on its path; of an error its type and text."""
    program = """
import json, sys
from headstart.contract import registry
answers = []
for expression in sys.argv[1:]:
    try:
        answers.append(eval(expression))
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}")
print(json.dumps([answers, sorted({"torch", "keras", "tensorflow", "jax", "tinylib"} & set(sys.modules))]))
"""
    environment = {name: value for name, value in os.environ.items() if name != registry.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", program, *expressions],
        env={**environment, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    answers, imported = json.loads(done.stdout)
    return [*answers, imported]


def test_another_distribution_s_backend_is_found_and_named(installed: Ask) -> None:
    folder = installed(tiny="tiny_backend:TINY")
    names, there, missing, unknown, versions, device, imported = ask(
        folder,
        "registry.names()",
        "'tiny' in registry.installed()",
        "registry.choose('tiny')",
        "registry.choose('tinny')",
        "list(registry.versions('tiny'))",
        "registry.device_kinds()[0]",
    )
    assert names == ["torch", "keras", "jax", "tiny"], "ours first, others by name"
    assert not there
    assert missing == (
        "BackendError: backend 'tiny' needs tinylib, which is not installed: pip install 'tiny-backend[lib]'"
    )
    assert unknown.endswith("expected one of torch, keras, jax, tiny; did you mean 'tiny'?")
    assert versions == ["numpy"], "what is not installed has none"
    assert device == "cpu"
    assert imported == []


def test_it_is_loaded(installed: Ask) -> None:
    folder = installed(tiny="tiny_backend:TINY")
    (folder / "tinylib.py").touch()
    there, place, refused, memory, profile, exports, imported = ask(
        folder,
        "'tiny' in registry.installed()",
        "registry.load('tiny').place('auto', 'bfloat16').__dict__",
        "registry.load('tiny').place('cuda', 'float32')",
        "registry.load('tiny').memory(None)",
        "registry.load('tiny').profile('folder')",
        "registry.exporting('tiny')",
    )
    assert there
    assert place == {"device": "cpu", "precision": "bfloat16"}
    assert refused == "UnknownNameError: unknown device 'cuda' (of backend 'tiny'); expected one of auto, cpu"
    assert memory is None, "what it cannot say, core does without"
    assert profile == "MissingAbilityError: backend 'tiny' cannot record a profile; leave out profile="
    assert exports == (
        "MissingAbilityError: backend 'tiny' cannot hand out features; expected one of torch, tf, jax; "
        "or use .numpy()"
    )
    assert imported == ["tinylib"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no_such_module:TINY", "cannot be loaded from no_such_module:TINY: ModuleNotFoundError: No module named"),
        ("tiny_backend:GONE", "cannot be loaded from tiny_backend:GONE: AttributeError"),
        ("tiny_backend:NOTHING", "tiny_backend:NOTHING is a str; expected a headstart.contract.description.Descr"),
    ],
)
def test_one_that_cannot_be_described_harms_nobody_else(installed: Ask, value: str, said: str) -> None:
    folder = installed(tiny=value)
    names, there, broken, imported = ask(
        folder, "registry.names()", "'tiny' in registry.installed()", "registry.choose('tiny')"
    )
    assert names == ["torch", "keras", "jax", "tiny"]
    assert not there
    assert broken.startswith("BackendError: backend 'tiny' of tiny-backend 1.5")
    assert said in broken
    assert imported == []


def test_a_name_that_two_distributions_register_is_neither_s(installed: Ask) -> None:
    installed(tiny="tiny_backend:TINY", swift="tiny_backend:FASTER")
    folder = installed("another-backend", tiny="tiny_backend:TINY", torch="tiny_backend:TINY")
    names, twice, ours, _ = ask(folder, "registry.names()", "registry.choose('tiny')", "registry.choose('torch')")
    assert names == ["swift", "keras", "jax", "tiny", "torch"]
    assert twice == (
        "BackendError: backend 'tiny' is registered by several distributions: another-backend 1.5, "
        "tiny-backend 1.5; uninstall all but one"
    )
    assert "another-backend 1.5, headstart" in ours


def test_an_ability_without_its_method_is_a_bug_of_the_backend(installed: Ask) -> None:
    folder = installed(tiny="tiny_backend:TINY")
    (folder / "tinylib.py").touch()
    text = DESCRIPTION.replace("install=", 'abilities=frozenset({"heads"}), install=')
    (folder / "tiny_backend" / "__init__.py").write_text(text)
    said, _ = ask(folder, "registry.load('tiny')")
    assert said == ("BackendError: backend 'tiny' says that it has the ability 'heads', and has no method 'heads'")
