"""Which backend is meant: the argument, else the variable, else the only one installed; never a guess."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import BackendError, HeadstartError, SettingError, UnknownNameError
from headstart.contract import recipe, registry

MODULES = {"torch": ["torch"], "keras": ["keras"], "jax": ["jax", "flax", "optax"]}
Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make it seem that just these modules are installed; the variable is unset."""
    monkeypatch.delenv(registry.VARIABLE, raising=False)

    def seem(*modules: str) -> None:
        monkeypatch.setattr(registry, "find_spec", lambda name: SimpleNamespace() if name in modules else None)

    seem()
    return seem


def everything() -> list[str]:
    return [module for modules in MODULES.values() for module in modules]


def test_the_names() -> None:
    assert registry.names() == ("torch", "keras", "jax")
    assert {name: list(registry.describe(name).modules) for name in registry.names()} == MODULES


def test_what_is_installed(install: Install) -> None:
    assert registry.installed() == ()
    install("jax", "flax", "keras")
    assert registry.installed() == ("keras",)
    install(*everything())
    assert registry.installed() == ("torch", "keras", "jax")


@pytest.mark.parametrize("name", ["tf", "pytorch", "", "Torch", "numpy"])
def test_a_wrong_name_lists_the_names(install: Install, name: str) -> None:
    install("torch")  # what is installed is no reason to fall back to it
    with pytest.raises(UnknownNameError) as caught:
        registry.choose(name)
    assert str(caught.value).startswith(f"unknown backend {name!r}; expected one of torch, keras, jax")
    assert registry.VARIABLE not in str(caught.value)
    assert isinstance(caught.value, SettingError)


def test_a_wrong_name_in_the_variable_says_where_it_came_from(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("torch")
    monkeypatch.setenv("HEADSTART_BACKEND", "tf")
    with pytest.raises(UnknownNameError) as caught:
        registry.choose()
    assert str(caught.value) == "unknown backend 'tf' (from HEADSTART_BACKEND); expected one of torch, keras, jax"


def test_a_near_miss_is_guessed(install: Install) -> None:
    for name in ("kears", "tensorflow"):  # misspelt; a package that it needs
        with pytest.raises(UnknownNameError, match="did you mean 'keras'"):
            registry.choose(name)


@pytest.mark.parametrize(
    ("name", "there", "missing"),
    [
        ("torch", [], "torch, which is"),
        ("keras", ["torch"], "keras, which is"),
        ("jax", ["jax", "optax"], "flax, which is"),
        ("jax", ["jax"], "flax and optax, which are"),
        ("jax", [], "jax, flax and optax, which are"),
    ],
)
def test_a_missing_framework_is_named_with_the_way_to_install_it(
    install: Install, monkeypatch: pytest.MonkeyPatch, name: str, there: list[str], missing: str
) -> None:
    install(*there)
    wanted = f"needs {missing} not installed: pip install 'headstart[{name}]'"
    with pytest.raises(BackendError) as caught:
        registry.choose(name)
    assert str(caught.value) == f"backend {name!r} {wanted}"
    monkeypatch.setenv("HEADSTART_BACKEND", name)
    with pytest.raises(BackendError) as caught:
        registry.choose()
    assert str(caught.value) == f"backend {name!r} (from HEADSTART_BACKEND) {wanted}"


def test_none_installed(install: Install) -> None:
    with pytest.raises(BackendError, match="no backend is installed") as caught:
        registry.choose()
    for text in ("pip install 'headstart[torch]', or pip", "[keras]", "[jax]"):
        assert text in str(caught.value)


@pytest.mark.parametrize("name", MODULES)
def test_the_only_one_installed_is_chosen(install: Install, name: str) -> None:
    install(*MODULES[name])
    assert registry.choose() == name


def test_several_installed_and_none_named_lists_them(install: Install) -> None:
    install("torch", "jax", "flax", "optax")
    with pytest.raises(BackendError) as caught:
        registry.choose()
    for text in ("(torch, jax)", "backend=", "HEADSTART_BACKEND"):
        assert text in str(caught.value)
    assert "keras" not in str(caught.value)


def test_the_variable_decides_where_nothing_is_named(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(*everything())
    for name in MODULES:
        monkeypatch.setenv("HEADSTART_BACKEND", name)
        assert registry.choose() == name


def test_the_argument_beats_the_variable(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(*everything())
    for value in ("jax", "tf"):
        monkeypatch.setenv("HEADSTART_BACKEND", value)
        assert registry.choose("keras") == "keras"


def test_an_empty_variable_is_none(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("keras")
    monkeypatch.setenv("HEADSTART_BACKEND", "")
    assert registry.choose() == "keras"


def test_choosing_imports_nothing(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(*everything())
    monkeypatch.setattr(registry, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    assert registry.choose("jax") == "jax"
    assert registry.installed() == ("torch", "keras", "jax")


def test_loading_asks_first_and_imports_once(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    imports: list[str] = []

    def import_module(name: str) -> SimpleNamespace:
        imports.append(name)
        return SimpleNamespace(BACKEND=f"the {name}")  # a text has no method, and no ability is looked for

    monkeypatch.setattr(registry, "import_module", import_module)
    described = registry._described
    monkeypatch.setattr(registry, "_described", lambda name: replace(described(name), abilities=frozenset()))
    # the cache is the module's own; one of this test's leaves that as it was
    monkeypatch.setattr(registry, "_load", registry.cache(registry._load.__wrapped__))
    with pytest.raises(BackendError):
        registry.load("torch")
    assert imports == []
    install("torch")
    assert registry.load("torch") is registry.load()
    assert registry.load()._inner == "the headstart.backends.torch.backend"  # type: ignore[attr-defined]
    assert imports == ["headstart.backends.torch.backend"]


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_a_framework_is_imported_without_a_search_for_garbage(
    monkeypatch: pytest.MonkeyPatch, before: bool, fails: bool
) -> None:
    """Afterwards it is looked for as it was before, whether the framework could be imported or not."""
    searches: list[bool] = []

    def import_module(name: str) -> SimpleNamespace:
        searches.append(gc.isenabled())
        if fails:
            raise ImportError(name)
        return SimpleNamespace(BACKEND=SimpleNamespace())

    monkeypatch.setattr(registry, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr(registry, "import_module", import_module)
    described = registry._described
    monkeypatch.setattr(registry, "_described", lambda name: replace(described(name), abilities=frozenset()))
    monkeypatch.setattr(registry, "_load", registry.cache(registry._load.__wrapped__))
    was_enabled = gc.isenabled()
    (gc.enable if before else gc.disable)()
    try:
        with pytest.raises(ImportError) if fails else contextlib.nullcontext():
            registry.load("torch")
        assert gc.isenabled() == before
    finally:
        (gc.enable if was_enabled else gc.disable)()
    assert searches == [False]


def test_versions_of_what_is_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "flax":
            raise registry.PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(registry, "version", version)
    assert registry.versions("jax") == {"jax": "1.2", "optax": "1.2"}


@pytest.mark.parametrize(
    ("device", "precision", "text"),
    [
        ("gpu", "float32", r"unknown device 'gpu'; expected one of auto, cpu, cuda, .*; did you mean 'auto'\?"),
        ("cpu", "fp16", "unknown precision 'fp16'; expected one of float32, tf32, bfloat16, float16"),
    ],
)
def test_an_unknown_place(device: str, precision: str, text: str) -> None:
    with pytest.raises(UnknownNameError, match=text):
        registry.check_place(device, precision)
    for device in registry.device_kinds():
        for precision in recipe.PRECISIONS:
            registry.check_place(device, precision)


def test_forward_says_so_too(install: Install) -> None:
    with pytest.raises(HeadstartError, match=r"headstart\[torch\]"):
        hs.forward(hs.model("lenet", classes=3), np.zeros((1, 32, 32, 3), np.float32), backend="torch")


def test_after_an_interrupted_import_it_says_to_start_python_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody presses stop in a notebook while a framework loads, and runs the cell again: what the framework
    says of a second time names neither the cause nor the mend."""
    raised: list[BaseException] = [KeyboardInterrupt(), ImportError("can only be initialized once per process")]

    def import_module(module: str) -> None:
        raise raised.pop(0)

    monkeypatch.setattr(registry, "import_module", import_module)
    monkeypatch.setattr(registry, "_interrupted", set())
    with pytest.raises(KeyboardInterrupt):
        registry._import("some.backend")
    with pytest.raises(BackendError, match=r"interrupted.*in a notebook restart the kernel") as caught:
        registry._import("some.backend")
    assert isinstance(caught.value.__cause__, ImportError)
    raised.append(ImportError("of its own"))
    with pytest.raises(ImportError, match="of its own"):  # nobody broke this one off
        registry._import("another.backend")
