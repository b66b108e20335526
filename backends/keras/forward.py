"""A model's outputs in inference, left on its device.

Keras's own `predict_on_batch` copies all outputs to the host, and on JAX takes all weights in and out of every
call. Here a model is one compiled program on JAX, and its plain call on torch; what comes out stays where it was
computed, and more can be asked for meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import ml_dtypes
import numpy as np
from keras import ops

from headstart.backends.keras.arrays import DEVICES, ENGINE
from headstart.backends.keras.emit import variables
from headstart.contract.recipe import BFLOAT16, FLOAT16, Place
from headstart.contract.streams import Dtypes
from headstart.graph import Graph

Program = Callable[[Any], Any]
HALVES: Mapping[str, Any] = {BFLOAT16: ml_dtypes.bfloat16, FLOAT16: np.float16}


def program(model: keras.Model, place: Place, finish: Callable[[Any], Any] = lambda outputs: outputs) -> Program:
    """Images on the device -> `finish` of what the model gives, which need not be computed yet when it returns.
    For the JAX and torch engines, and models that write to none of their variables."""
    return {"jax": _compiled, "torch": _called}[ENGINE](model, place, finish)


def _compiled(model: keras.Model, place: Place, finish: Callable[[Any], Any]) -> Program:
    """The weights are arguments of the program: as constants they would be compiled into it."""

    def outputs(trained: Any, others: Any, images: Any) -> Any:
        return finish(model.stateless_call(trained, others, images, training=False)[0])

    compiled = DEVICES.compiled(outputs, place)
    trained, others = model.trainable_variables, model.non_trainable_variables
    return lambda images: compiled([v.value for v in trained], [v.value for v in others], images)


def _called(model: keras.Model, place: Place, finish: Callable[[Any], Any]) -> Program:
    steps = _steps(model)

    def run(images: Any) -> Any:
        with DEVICES.inference():
            return finish(model(images, training=False) if steps is None else _walked(model, steps, images))

    return run


Step = tuple[Any, tuple[int, ...]]
"""a call of an operation as Keras has recorded it, and which tensors nothing needs behind it"""


def _steps(model: keras.Model) -> list[Step] | None:
    """The model's calls in Keras's own order; None where this Keras keeps its record in another way."""
    try:
        by_depth = model._nodes_by_depth
        nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]
        last = {id(tensor): i for i, node in enumerate(nodes) for tensor in (*node.outputs, *node.input_tensors)}
        kept = {id(tensor) for tensor in model.outputs}
        return [
            (node, tuple(key for key, place in last.items() if place == i and key not in kept))
            for i, node in enumerate(nodes)
        ]
    except AttributeError:
        return None


def _walked(model: keras.Model, steps: list[Step], images: Any) -> Any:
    """What Keras's own call gives, which keeps the outputs of all layers until the last has run: of a ViT-L/16 and
    64 images 8 GB, in float32 on a CPU as well."""
    values = {id(tensor): value for tensor, value in zip(model.inputs, keras.tree.flatten(images), strict=True)}
    for node, done in steps:
        args, kwargs = node.arguments.fill_in(values)
        made = node.operation(*args, **kwargs)
        values |= {id(tensor): value for tensor, value in zip(node.outputs, keras.tree.flatten(made), strict=True)}
        del args, kwargs, made
        for key in done:
            del values[key]
    return keras.tree.pack_sequence_as(model._outputs_struct, [values[id(tensor)] for tensor in model.outputs])


def in_store_dtypes(outputs: Mapping[str, Any], dtypes: Dtypes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of these nodes alone, the rows as they are stored; and of those that are stored in less than float32 the
    largest magnitude in each channel, `(c,)`, which tells whether the dtype holds them."""
    rows = {node: ops.cast(outputs[node], dtype.name) for node, dtype in dtypes.items()}
    less = {node: outputs[node] for node, dtype in dtypes.items() if dtype != np.float32}
    return rows, {node: ops.max(ops.abs(x), tuple(range(x.ndim - 1))) for node, x in less.items()}


class HalfWeights:
    """The weights of a model that computes in half precision, rounded to it once and not in every call. Those of
    norms stay in float32, as they are used in that.

    Invariant: what a weight was rounded from can be told as long as nobody has written to it.
    """

    def __init__(self, graph: Graph, model: keras.Model, params: Mapping[str, np.ndarray], place: Place) -> None:
        self.rounded: dict[str, np.ndarray] = {}
        self.dtype = HALVES.get(place.arithmetic, np.float32)
        if (
            place.arithmetic not in (BFLOAT16, FLOAT16) or ENGINE == "tensorflow"
        ):  # whose variables keep their dtype
            return
        for node in graph.nodes:
            for name, variable in variables(node, model).items() if node.op != "native" else ():
                if variable._autocast and variable.dtype == "float32":
                    variable._value = DEVICES.rounded(variable._value, place.arithmetic)
                    self.rounded[name] = np.asarray(params[name])

    def told(self, name: str, value: np.ndarray) -> np.ndarray:
        """A parameter as it is on the device, in the dtype that it was given with."""
        if name not in self.rounded:
            return value
        before = self.rounded[name]
        value = value.astype(before.dtype)
        with np.errstate(over="ignore"):  # what float16 has no number for is infinite there
            held = before.astype(self.dtype).astype(before.dtype)
        return np.where((held == value) | (np.isnan(held) & np.isnan(value)), before, value)
