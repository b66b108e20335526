"""Importing headstart is free of consequences: no framework, no file, no output. And who may import whom holds,
read from the sources of the installed package."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import headstart

FRAMEWORKS = {"torch", "torchvision", "keras", "tensorflow", "jax", "jaxlib", "flax", "optax"}
SLOW = {*FRAMEWORKS, "sklearn", "scipy", "pandas", "bokeh", "jinja2", "tensorboardX"}
DOORS = "doors"  # a file a framework, for those of several backends
# backend -> what it may import of the frameworks
OWN = {"torch": {"torch"}, "keras": {"keras", "tensorflow"}, "jax": {"jax", "flax", "optax"}}

CORE = Path(headstart.__file__).parent
BACKENDS = Path(str(find_spec("headstart.backends").origin)).parent  # type: ignore[union-attr]
CORE_FILES = sorted(path for path in CORE.rglob("*.py") if not path.is_relative_to(BACKENDS))
BACKEND_FILES = sorted(BACKENDS.rglob("*.py"))

pytestmark = pytest.mark.neutral  # sources are the same wherever they are read

EVERYTHING = "import headstart; [getattr(headstart, name) for name in headstart.__all__]"


@pytest.mark.each
@pytest.mark.parametrize(
    "statement",
    [
        "import headstart",
        EVERYTHING,
        "import headstart as hs; hs.model('lenet', classes=3).describe()",
        "from headstart.contract import registry; registry.installed(), registry.device_kinds()",
        "import headstart.cli.main",
    ],
    ids=["headstart", "every-name", "a-model", "registry", "cli"],
)
def test_importing_has_no_consequences(statement: str, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    homes = (
        "HOME",
        "HEADSTART_CACHE",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "KERAS_HOME",
        "TORCH_HOME",
    )
    out = str(tmp_path / "report")
    report = f"import json, sys; json.dump([name.partition('.')[0] for name in sys.modules], open({out!r}, 'w'))"
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{report}"],
        cwd=folder,
        env={**os.environ, **dict.fromkeys(homes, str(folder)), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not SLOW & set(json.loads((tmp_path / "report").read_text()))
    assert list(folder.rglob("*")) == []


def test_every_public_name_is_there_and_no_other() -> None:
    assert set(headstart.__all__) <= set(dir(headstart))
    assert all(getattr(headstart, name) is not None for name in headstart.__all__)
    assert not hasattr(headstart, "no_such_name")


def test_every_error_is_public() -> None:
    """Users catch them, and libraries filter the warnings; a new one cannot be left out."""
    from headstart.common import errors

    raised = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == errors.__name__
    }
    assert set(errors.__all__) == {name for name in raised if not name.startswith("_")}
    assert all(getattr(headstart.errors, name) is getattr(errors, name) for name in errors.__all__)


def test_no_module_hides_a_public_name() -> None:
    """Importing `headstart.x` sets the package's attribute `x`, whatever stood there: a function of that name
    would turn into a module as soon as anything imports it."""
    assert {name for name in headstart.__all__ if find_spec(f"headstart.{name}")} == {
        "cache",
        "data",
        "errors",
        "report",
    }


def imported(path: Path) -> Iterator[str]:
    """The full names of all modules that a file imports, at its top or anywhere inside."""
    for node in ast.walk(ast.parse(path.read_text())):
        yield from imported_by(node)


def imported_by(node: ast.AST) -> Iterator[str]:
    """The full names of what a statement imports, if it is an import."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"a relative import: {ast.unparse(node)}"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_core_imports_no_framework_and_no_backend() -> None:
    for path in CORE_FILES:
        for name in imported(path):
            top = name.partition(".")[0]
            assert top not in FRAMEWORKS, path
            assert top not in ("core", "backends"), path
            assert not name.startswith("headstart.backends."), path


def test_a_backend_imports_no_sibling_and_no_other_framework() -> None:
    for path in BACKEND_FILES:
        backend = path.relative_to(BACKENDS).parts[0]
        framework = path.stem.partition("_")[0] if backend == DOORS else backend
        for name in imported(path):
            parts = name.split(".")
            assert parts[0] not in ("core", "backends"), path
            assert parts[0] not in FRAMEWORKS - OWN.get(framework, set()), path
            if parts[:2] == ["headstart", "backends"]:
                assert parts[2] in (backend, DOORS), path


def file_of(module: str) -> Path | None:
    """The file of one of our modules; None for what is none, such as a name in a module."""
    root, parts = CORE, module.split(".")[1:]
    if parts[:1] == ["backends"]:
        root, parts = BACKENDS, parts[1:]
    path = root.joinpath(*parts)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def imported_at_once(body: list[ast.stmt]) -> Iterator[str]:
    """The full names of our modules, and of names in them, that are imported as a module is."""
    for node in body:
        yield from imported_by(node)
        if isinstance(node, ast.If):
            yield from imported_at_once([] if ast.unparse(node.test) == "TYPE_CHECKING" else node.body)
            yield from imported_at_once(node.orelse)
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            yield from imported_at_once(node.body)


def reached(*modules: str) -> set[str]:
    """All of our modules that are imported with these."""
    found: set[str] = set()
    names = [*modules]
    while names:
        parts = names.pop().split(".")
        for end in range(1, len(parts) + 1 if parts[0] == "headstart" else 0):
            module = ".".join(parts[:end])
            if module not in found and (file := file_of(module)) is not None:
                found.add(module)
                names += imported_at_once(ast.parse(file.read_text()).body)
    return found


OF_A_FIT = ("cli.main", "cli.fit", "training.fit", "training.opening", "training.comparison", "report.build")
"""what a `headstart fit` with its features in the store imports"""
ASKED_FOR = (
    *("training.exporting", "training.prediction", "training.solving", "training.nans", "training.checkpoints"),
    *("training.fold_heads", "training.tensorboard", "training.profiling", "models.wrapped", "models.structure"),
    *("models.faithful", "models.running"),
    *("features.engines.processes", "features.engines.ray_engine", "store.moving", "store.remote"),
)
"""what it imports where it is asked for, which took a fifth as long again as what it needs"""


def test_a_short_training_imports_what_it_needs_and_no_more() -> None:
    found = reached(*(f"headstart.{module}" for module in OF_A_FIT))
    assert {"headstart.training.loop", "headstart.store.shard"} <= found
    later = [f"headstart.{module}" for module in ASKED_FOR]
    assert all(file_of(module) for module in later)
    assert [module for module in later if module in found] == []


def test_the_files_are_where_they_are_looked_for() -> None:
    """An empty list would make the tests above pass."""
    assert {"contract/protocol.py", "common/errors.py", "graph/ops.py"} <= {
        path.relative_to(CORE).as_posix() for path in CORE_FILES
    }
    for backend in OWN:
        here = {path.name for path in BACKEND_FILES if path.parent.name == backend}
        assert {
            "__init__.py",
            "backend.py",
            "emit.py",
            "trunk.py",
            "train.py",
            "arrays.py",
            "wrap.py",
            "exports.py",
        } <= here
