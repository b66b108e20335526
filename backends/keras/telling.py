"""What a Keras model computes, told as JSON for the keys of features: every call in order, with what is called.

Invariant: two models that compute the same tell the same, whatever Keras has numbered their layers.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import keras

from headstart.backends.keras.arrays import to_numpy
from headstart.backends.keras.configuration import is_own_function, settings_of
from headstart.backends.keras.copying import told_state
from headstart.backends.keras.cuts import nodes_of
from headstart.models.hidden import array_digest
from headstart.models.lookups import is_plain
from headstart.models.sources import UnknownStructure, source_of
from headstart.models.structure import Structure
from headstart.models.teller import Teller

LIBRARIES = ("keras", "tensorflow", "keras_hub", "jax", "torch")
# settings that say how weights begin or are trained, and names that Keras numbers
IRRELEVANT = ("_initializer", "_regularizer", "_constraint")
UNTOLD = ("name", "trainable", "seed", "registered_name", "build_config")


def told(model: keras.Model) -> tuple[str | None, str]:
    """A digest of what the model computes, or None and the reason."""

    def special(value: Any) -> Any:
        if isinstance(value, keras.KerasTensor):
            return ["tensor", list(value.shape[1:]), value.dtype]
        if isinstance(value, keras.DTypePolicy):
            return ["dtype", value.name]
        if isinstance(value, keras.Variable) or keras.ops.is_tensor(value):
            return array_digest(to_numpy(keras.ops.copy(value)))
        if _is_kerass(value):  # around a method of the layer's own, which its class tells
            return ["function", source_of(value), []]
        return None

    known: dict[int, int] = {}
    teller = Teller(LIBRARIES, special, _inside)
    return Structure.told_by(teller, lambda teller: _describe(teller, model, known), model.name)


def _is_kerass(value: Any) -> bool:
    """Whether it is what Keras puts on every layer in the place of its methods."""
    if not isinstance(value, types.FunctionType):
        return False
    around = isinstance(getattr(value, "__wrapped__", None), types.MethodType)
    return around and str(value.__globals__.get("__name__")).partition(".")[0] == "keras"


def _inside(value: Any) -> dict[str, Any] | None:
    """What of a layer or a variable may be changed in place."""
    if isinstance(value, keras.Variable):
        return {"": to_numpy(keras.ops.copy(value))}
    if not isinstance(value, keras.Layer):
        return None
    settings = {name: setting for name, setting in vars(value).items() if is_plain(setting) or callable(setting)}
    return settings | {str(place): weight for place, weight in enumerate(value.weights)}


def _describe(teller: Teller, model: keras.Model, known: dict[int, int]) -> list[Any]:
    """Every call in order: what is called, and what it takes, by number. `known`: layers that were told before, by
    number."""
    nodes = list(nodes_of(model).values())
    made = {id(x): [place, i] for place, node in enumerate(nodes) for i, x in enumerate(node.outputs)}

    def argument(value: Any) -> Any:
        if isinstance(value, keras.KerasTensor):
            return ["node", *made[id(value)]]
        if isinstance(value, list | tuple):
            return ["list", *map(argument, value)]
        if isinstance(value, dict):
            return ["dict", [[key, argument(entry)] for key, entry in sorted(value.items())]]
        return teller.value(value)

    return [
        [[made[id(x)] for x in model.inputs], [made[id(x)] for x in model.outputs]],
        [
            [
                _operation(teller, node.operation, known),
                argument(node.arguments.args),
                argument(node.arguments.kwargs),
            ]
            for node in nodes
        ],
    ]


def _operation(teller: Teller, operation: Any, known: dict[int, int]) -> Any:
    if isinstance(operation, keras.layers.Lambda):
        raise UnknownStructure(f"layer {operation.name!r} is a Lambda, any function")
    if isinstance(operation, keras.layers.TFSMLayer):
        raise UnknownStructure(f"layer {operation.name!r} runs a SavedModel, any program, which may be replaced")
    if isinstance(operation, keras.layers.InputLayer):
        return ["input", list(operation.batch_shape[1:]), operation.dtype]
    if isinstance(operation, keras.Sequential) or hasattr(operation, "operations"):
        inner = operation if not isinstance(operation, keras.Sequential) else operation._functional
        return ["model", _describe(teller, inner, known)]
    config, called = settings_of(operation)
    functions = {name: value for name, value in vars(operation).items() if is_own_function(value)} | called
    config = {name: value for name, value in config.items() if name not in functions}
    told = [teller.code(type(operation)), teller.value(_settings(config)), teller.value(functions)]
    if getattr(operation, "weights", ()):
        if id(operation) in known:  # which of several that are set alike: its weights are in the key once
            told.append(["again", known[id(operation)]])
        known.setdefault(id(operation), len(known))
    return told + told_state(operation)


def _settings(config: Any) -> Any:
    """A configuration without what does not bear on the output, in an order of its own."""
    if isinstance(config, Mapping):
        return {
            name: _settings(value)
            for name, value in sorted(config.items())
            if value is not None and name not in UNTOLD and not name.endswith(IRRELEVANT)
        }
    return [_settings(value) for value in config] if isinstance(config, list | tuple) else config
