"""What Keras writes of a model that it saves, and what of that is not Keras's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import FunctionType
from typing import Any, NamedTuple

import keras

from headstart.backends.keras.copying import layers_of
from headstart.common.errors import ExportError
from headstart.common.text import shortened


class Foreign(NamedTuple):
    """A layer, function or other part of a model that is no part of Keras."""

    text: str
    """for people"""
    registered: str = ""
    """what Keras writes for it"""
    module: str = ""
    """where it is defined; "": a lambda, or nobody knows"""
    name: str = ""
    """what it is called there"""


def configuration_of(model: keras.Model) -> Any:
    try:
        return json.loads(model.to_json())
    except Exception as error:  # of layers of the user's own
        raise refused("Keras cannot save this model", error) from error


def refused(what: str, error: Exception) -> ExportError:
    words = re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}")  # Keras writes some in bold
    reason = shortened(" ".join(words.split()))
    return ExportError(f"{what} ({reason}); expected layers that say what they are made of, or another format")


def foreign_parts(config: Any, name: str) -> Iterator[Foreign]:
    """What a model's configuration names that is no part of Keras. `name`: of the layer whose it is. Of functions
    it does not say where they come from."""
    if isinstance(config, list):
        for value in config:
            yield from foreign_parts(value, name)
    if not isinstance(config, dict):
        return
    kind, inner, module = config.get("class_name"), config.get("config"), str(config.get("module"))
    if isinstance(inner, dict):
        name = inner.get("name", name)
    if kind == "__lambda__":
        yield Foreign(f"a lambda of layer {name!r}")
    elif kind == "function" and module == "builtins":
        yield Foreign(f"function {inner!r} of layer {name!r}", str(inner))
    elif kind and "module" in config and module.partition(".")[0] not in ("keras", "builtins"):
        yield Foreign(f"layer {name!r} ({kind})", config.get("registered_name") or kind, module, kind)
    for value in config.values():
        yield from foreign_parts(value, name)


def placed(model: keras.Model) -> list[Foreign]:
    """All that a model is made of and that is no part of Keras, with where it is defined, as far as the model's
    layers or what is registered with Keras tell."""
    known: dict[str, Any] = dict(keras.saving.get_custom_objects())
    for layer in layers_of(model):
        functions = [value for value in vars(layer).values() if isinstance(value, FunctionType)]
        known |= {keras.saving.get_registered_name(thing): thing for thing in (type(layer), *functions)}

    def found(part: Foreign) -> Foreign:
        thing = known.get(part.registered)
        return part if thing is None else part._replace(module=thing.__module__, name=thing.__qualname__)

    return [found(part) for part in foreign_parts(configuration_of(model), model.name)]
