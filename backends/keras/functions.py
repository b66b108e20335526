"""Functions that TensorFlow compiles, one for each model.

Invariant: each is traced as often as its own arguments ask for, and counted so. TensorFlow counts by the code of a
function: of five models, each traced once, it warns as of one that is traced again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras


def compiled(function: Callable[..., Any], **settings: Any) -> Any:
    """A `tf.function` of it."""
    import tensorflow as tf

    return tf.function(partial(function), reduce_retracing=True, **settings)  # a partial has no code


def counted_alone(model: keras.Model) -> keras.Model:
    """The model, whose function for predictions is its own, where it runs on TensorFlow."""
    if keras.backend.backend() == "tensorflow":
        model.make_predict_function()
        if traced := getattr(model.predict_function, "python_function", None):
            model.predict_function = compiled(traced)
    return model
