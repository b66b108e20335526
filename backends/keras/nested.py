"""Cuts inside of models that are layers of a keras.Model, as the usual recipe for transfer learning has them.

Invariants: unfolded, a copy gives what the model gives, or is refused; the user's model is looked at by views of
it, and no layer of it is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from headstart.backends.keras.copying import (
    calls,
    copied,
    differ,
    functional,
    is_functional,
    one_or_all,
    outputs,
    structure_of,
)
from headstart.common.errors import CutError

SEPARATOR = "/"
# Keras allows no slash in names.
WRITTEN = "__"


def has_models(model: keras.Model) -> bool:
    return any(is_functional(node.operation) for node in calls(model))


def unfolded(model: keras.Model, rows: list[Any]) -> tuple[keras.Model, dict[int, int], dict[str, str]]:
    """A copy in which the layers of models inside are the model's own; weight of the model -> weight of the copy,
    by identity; and name of a layer -> its path, such as `base/conv1`, for those from inside. The model is given
    up: its layers are called again. `rows`: samples by which both are compared."""
    expected = outputs(model, rows)
    made: dict[int, Any] = {id(x): x for x in model.inputs}
    names: dict[int, tuple[str, str]] = {}
    taken = {node.operation.name for node in calls(model)}

    def run(inner: keras.Model, path: str, training: bool | None) -> None:
        for node in calls(inner):
            if node.is_input:
                continue
            args, kwargs = node.arguments.fill_in(made)
            operation = node.operation
            if training is not None and "training" in getattr(operation, "_call_context_args", {}):
                kwargs["training"] = training
            if is_functional(operation):
                if kwargs.get("mask") is not None:
                    raise CutError(f"{operation.name!r} is called with a mask, so it cannot be cut inside of")
                part = functional(operation)
                for entry, tensor in zip(part.inputs, node.input_tensors, strict=True):
                    made[id(entry)] = _entering(made[id(tensor)], entry, operation.name)
                run(part, f"{path}{operation.name}{SEPARATOR}", kwargs.get("training"))
                given = [made[id(tensor)] for tensor in part.outputs]
            else:
                if path and id(operation) not in names:
                    names[id(operation)] = _renamed(operation, path, taken)
                given = keras.tree.flatten(operation(*args, **kwargs))
            made.update({id(tensor): value for tensor, value in zip(node.outputs, given, strict=True)})

    run(functional(model), "", None)
    ends = keras.tree.map_structure(lambda x: made[id(x)], structure_of(model))
    flat = keras.Model(one_or_all(model.inputs), ends, name=model.name)
    clean = copied(flat)  # in which each layer is called as often as it is in the model
    if any(map(differ, expected, outputs(clean, rows))):
        raise CutError(
            f"the models inside of {model.name} cannot be cut: without the calls of these models it computes "
            "something else. Cut between them"
        )
    pairs = {id(before): id(after) for before, after in zip(flat.weights, clean.weights, strict=True)}
    return clean, pairs, dict(names.values())


def _entering(value: Any, entry: Any, name: str) -> Any:
    """What a model makes of a tensor that it is called with."""
    if len(value.shape) != len(entry.shape):
        raise CutError(
            f"{name!r} takes {entry.shape} and is given {value.shape}, so it cannot be cut inside of; cut before "
            "or after it"
        )
    return value if value.dtype == entry.dtype else keras.ops.cast(value, entry.dtype)


def _renamed(operation: Any, path: str, taken: set[str]) -> tuple[str, str]:
    """Its new name, which no other has, and its path."""
    shown = f"{path}{operation.name}"
    name = written = shown.replace(SEPARATOR, WRITTEN)
    count = 0
    while name in taken:
        count += 1
        name = f"{written}_{count}"
    taken.add(name)
    operation.name = name
    return name, shown


def inner_calls(model: keras.Model, path: str = "") -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The path of each call of a layer, inside of models too, and the calls of these models around it, outermost
    first, and itself."""
    for node in calls(model):
        name = f"{path}{node.operation.name}"
        if not is_functional(node.operation):
            yield name, (node,)
            continue
        for inner, chain in inner_calls(functional(node.operation), f"{name}{SEPARATOR}"):
            if not chain[-1].is_input:
                yield inner, (node, *chain)


def run_to(model: keras.Model, chain: tuple[Any, ...], index: int, rows: list[Any]) -> np.ndarray:
    """What the last of the calls gives, run as the model's owner runs it; of several tensors that at `index`."""
    for node in chain[:-1]:
        rows = outputs(keras.Model(one_or_all(model.inputs), one_or_all(node.input_tensors)), rows)
        model = functional(node.operation)
    return outputs(keras.Model(one_or_all(model.inputs), chain[-1].outputs[index]), rows)[0]
