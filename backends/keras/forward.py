"""A model's outputs in inference, left on its device.

Keras's own `predict_on_batch` copies all outputs to the host, and on JAX takes all weights in and out of every
call. Here a model is one compiled program on JAX, and its plain call on torch; what comes out stays where it was
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import ml_dtypes
import numpy as np

from headstart.backends.keras.arrays import DEVICES, ENGINE
from headstart.backends.keras.emit import variables
from headstart.backends.keras.functions import counted_alone
from headstart.contract.recipe import BFLOAT16, FLOAT16, Place
from headstart.graph import Graph

Forward = Callable[[Any], Any]
HALVES: Mapping[str, Any] = {BFLOAT16: ml_dtypes.bfloat16, FLOAT16: np.float16}


def forward(model: keras.Model, place: Place, writes: bool = False) -> Forward:
    """`(n, h, w, c)` images -> what the model gives, computed when it returns. `writes`: the model may write to
    its variables as it runs, as a user's own layers may."""
    if writes or ENGINE == "tensorflow":
        return counted_alone(model).predict_on_batch
    return {"jax": _compiled, "torch": _called}[ENGINE](model, place)


def _compiled(model: keras.Model, place: Place) -> Forward:
    """On JAX. The weights are arguments of the program: as constants they would be compiled into it."""

    def outputs(trained: Any, others: Any, images: Any) -> Any:
        return model.stateless_call(trained, others, images, training=False)[0]

    program = DEVICES.compiled(outputs, place)
    trained, others = model.trainable_variables, model.non_trainable_variables

    def run(images: Any) -> Any:
        state = ([v.value for v in variables] for variables in (trained, others))
        return DEVICES.wait(program(*state, DEVICES.put(images, place)), place)

    return run


def _called(model: keras.Model, place: Place) -> Forward:
    """On torch."""

    def run(images: Any) -> Any:
        with DEVICES.inference():
            return DEVICES.wait(model(DEVICES.put(images, place), training=False), place)

    return run


class HalfWeights:
    """The weights of a model that computes in half precision, rounded to it once and not in every call. Those of
    norms stay in float32, as they are used in that.

    Invariant: what a weight was rounded from can be told as long as nobody has written to it.
    """

    def __init__(self, graph: Graph, model: keras.Model, params: Mapping[str, np.ndarray], place: Place) -> None:
        self.rounded: dict[str, np.ndarray] = {}
        self.dtype = HALVES.get(place.precision, np.float32)
        if (
            place.precision not in (BFLOAT16, FLOAT16) or ENGINE == "tensorflow"
        ):  # whose variables keep their dtype
            return
        for node in graph.nodes:
            for name, variable in variables(node, model).items() if node.op != "native" else ():
                if variable._autocast and variable.dtype == "float32":
                    variable._value = DEVICES.rounded(variable._value, place.precision)
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
