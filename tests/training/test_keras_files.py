"""What is Keras's own about the files that it writes: what cannot be in one, and what is in none."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import small_model

import headstart as hs
from headstart.errors import ExportError

pytestmark = pytest.mark.of("keras")
EXAMPLE = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


def owned(module: str, make: str, *about: Any) -> Any:
    """A module of a user's, wrapped."""
    return hs.wrap(getattr(import_module(module), make)(*about), example=EXAMPLE, name="theirs")


def kinds(config: Any) -> set[str]:
    """The modules of all classes that a saved configuration names."""
    if isinstance(config, list):
        return set().union(*map(kinds, config)) if config else set()
    if not isinstance(config, dict):
        return set()
    named = {str(config["module"]).partition(".")[0]} if "module" in config else set()
    return named.union(*map(kinds, config.values()))


@pytest.mark.parametrize(
    "make",
    [small_model, lambda: owned("own_keras_layers", "ending", "layer"), lambda: owned("own_keras", "nested")],
    ids=["of headstart's", "with a softmax taken off", "nested"],
)
def test_a_keras_file_holds_nothing_but_keras(make: Callable[[], Any], tmp_path: Path) -> None:
    hs.export(make(), tmp_path / "out.keras", verify=False)
    with zipfile.ZipFile(tmp_path / "out.keras") as archive:
        assert kinds(json.loads(archive.read("config.json"))) <= {"keras", "builtins"}


def test_what_is_the_users_own_is_in_no_keras_file(tmp_path: Path) -> None:
    steep = import_module("own_keras").steep
    refused = {
        "layer 'own_norm' \\(OwnNorm\\)": owned("own_keras_layers", "norms"),
        "a lambda of layer 'lambda": owned("own_keras", "lambdas"),
        "function 'steep' of layer 'conv2d": owned("own_keras", "active", steep),
    }
    for text, model in refused.items():
        with pytest.raises(ExportError, match=f"{text}.* is no part of Keras"):
            hs.export(model, tmp_path / "out.keras", verify=False)
    with pytest.raises(ExportError, match="expected a name that ends in"):
        hs.export(small_model(), tmp_path / "out.bin", format="keras", verify=False)
    assert not [*tmp_path.iterdir()]
