"""Models as files of Keras's own, and of TensorFlow's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from headstart.backends.keras import keras_file
from headstart.backends.keras.plain import model_of
from headstart.common.errors import ExportError
from headstart.common.text import shortened
from headstart.contract.programs import Program

Texts = Mapping[str, str]


def write(program: Program, format: str, path: Path, texts: Texts) -> None:
    WRITERS[format](model_of(program), path, texts)


def _keras(model: keras.Model, path: Path, texts: Texts) -> None:
    if path.suffix != ".keras":
        raise ExportError(
            f"{path.name}: Keras opens no file that is called so; expected a name that ends in .keras"
        )
    try:
        config = json.loads(model.to_json())
    except Exception as error:  # of layers of the user's own
        raise _refused("Keras cannot save this model", error) from error
    if foreign := next(_foreign(config, model.name), None):
        raise ExportError(
            f"{foreign} is no part of Keras, so a .keras file that holds it could not be opened without the code "
            "that it comes from; expected layers and functions of Keras's own, or another format"
        )
    model.save(path)
    keras_file.save(str(path), texts)


def _refused(what: str, error: Exception) -> ExportError:
    reason = shortened(" ".join(f"{type(error).__name__}: {error}".split()))
    return ExportError(f"{what} ({reason}); expected layers that say what they are made of, or another format")


def _foreign(config: Any, name: str) -> Iterator[str]:
    """What a model's configuration names that is no part of Keras. `name`: of the layer whose it is."""
    if isinstance(config, list):
        for value in config:
            yield from _foreign(value, name)
    if not isinstance(config, dict):
        return
    kind, inner = config.get("class_name"), config.get("config")
    if isinstance(inner, dict):
        name = inner.get("name", name)
    if kind == "__lambda__":
        yield f"a lambda of layer {name!r}"
    elif kind == "function" and config.get("module") == "builtins":
        yield f"function {inner!r} of layer {name!r}"
    elif kind and "module" in config and str(config["module"]).partition(".")[0] not in ("keras", "builtins"):
        yield f"layer {name!r} ({kind})"
    for value in config.values():
        yield from _foreign(value, name)


WRITERS: Mapping[str, Callable[[keras.Model, Path, Texts], None]] = {"keras": _keras}
