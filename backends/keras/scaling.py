"""What a functional keras.Model multiplies its pixels by before anything else looks at them.

Many of Keras's networks take pixels of 0 to 255 and rescale them inside, and so does the usual recipe, which puts
`preprocess_input` into the model. Pixels that were scaled before come out of that nearly alike.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from headstart.backends.keras.arrays import to_numpy
from headstart.backends.keras.copying import functional
from headstart.backends.keras.nested import inner_calls

# augmentation, cropping and noise, which leave the unit of the pixels as it is
KEEPING = ("keras.src.layers.preprocessing.image_preprocessing.", "keras.src.layers.regularization.")
DIVIDING, MULTIPLYING, MOVING = ("Divide", "TrueDivide"), ("Multiply",), ("Add", "Subtract")


def first_factor(model: keras.Model) -> float:
    """The product of the first rescalings, of the channel that is made largest; 1 where there is none."""
    factor = 1.0
    for _, chain in inner_calls(functional(model)):
        node = chain[-1]
        if node.is_input or type(node.operation).__module__.startswith(KEEPING):
            continue
        if (step := _factor(node)) is None:
            break
        factor *= step
    return factor


def _factor(node: Any) -> float | None:
    """What a call multiplies by; None where it does something else."""
    operation, kind = node.operation, type(node.operation).__name__
    if isinstance(operation, keras.layers.Rescaling):
        return _largest(operation.scale)
    if isinstance(operation, keras.layers.Normalization) and operation.built and not operation.invert:
        return _largest(1 / np.sqrt(np.maximum(to_numpy(operation.variance), keras.config.epsilon() ** 2)))
    others = [value for value in node.arguments.args[1:] if not isinstance(value, keras.KerasTensor)]
    if len(others) != 1 or kind not in (*DIVIDING, *MULTIPLYING, *MOVING):
        return None
    return 1.0 if kind in MOVING else _largest(others[0] if kind in MULTIPLYING else 1 / np.asarray(others[0]))


def _largest(values: Any) -> float:
    return float(np.abs(np.asarray(values, np.float64)).max())
