"""What a Keras model computes, told as JSON for the keys of features: every call in order, with what is called.

Invariant: two models that compute the same tell the same, whatever Keras has numbered their layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from headstart.backends.keras.arrays import to_numpy
from headstart.backends.keras.configuration import is_own_function, settings_of
from headstart.backends.keras.copying import told_state
from headstart.backends.keras.cuts import nodes_of
from headstart.models.sources import UnknownStructure
from headstart.models.structure import Structure, Teller, array_digest

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
        return None

    teller = Teller(LIBRARIES, special)
    return Structure.told_by(teller, lambda teller: _describe(teller, model), model.name)


def _describe(teller: Teller, model: keras.Model) -> list[Any]:
    """Every call in order: what is called, and what it takes, by number."""
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
            [_operation(teller, node.operation), argument(node.arguments.args), argument(node.arguments.kwargs)]
            for node in nodes
        ],
    ]


def _operation(teller: Teller, operation: Any) -> Any:
    if isinstance(operation, keras.layers.Lambda):
        raise UnknownStructure(f"layer {operation.name!r} is a Lambda, any function")
    if isinstance(operation, keras.layers.TFSMLayer):
        raise UnknownStructure(f"layer {operation.name!r} runs a SavedModel, any program, which may be replaced")
    if isinstance(operation, keras.layers.InputLayer):
        return ["input", list(operation.batch_shape[1:]), operation.dtype]
    if isinstance(operation, keras.Sequential) or hasattr(operation, "operations"):
        inner = operation if not isinstance(operation, keras.Sequential) else operation._functional
        return ["model", _describe(teller, inner)]
    config, called = settings_of(operation)
    functions = {name: value for name, value in vars(operation).items() if is_own_function(value)} | called
    config = {name: value for name, value in config.items() if name not in functions}
    told = [teller.code(type(operation)), teller.value(_settings(config)), teller.value(functions)]
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
