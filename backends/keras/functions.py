"""Functions that engines compile, one for each model.

Invariants: each is traced as often as its own arguments ask for, and counted so. TensorFlow counts by the code of
a function: of five models, each traced once, it warns as of one that is traced again and again. Functions are run
as they are written, as Keras's own steps are: AutoGraph takes a second to rewrite one, asks for its source, warns
in Python 3.13, and where a warning is an error it converts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

from headstart.backends.keras.arrays import DEVICES, ENGINE
from headstart.contract.recipe import Place


def compiled(function: Callable[..., Any], **settings: Any) -> Any:
    """A `tf.function` of it."""
    import tensorflow as tf

    # a partial has no code
    return tf.function(partial(function), reduce_retracing=True, autograph=False, **settings)


def compiled_for_batches(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays, or dicts of arrays, or None in the place of one, that is traced once for any number of
    rows. Left to itself TensorFlow traces it for the first number, and again when another comes, as that of a data
    set's last batch does."""
    import tensorflow as tf

    traced: dict[Any, Any] = {}
    """what rows are like -> a `tf.function` of the arguments that are not None"""

    def spec(array: Any) -> Any:
        return tf.TensorSpec((None, *np.shape(array)[1:]), array.dtype)

    def run(*arguments: Any) -> Any:
        there = [place for place, argument in enumerate(arguments) if argument is not None]
        received = [arguments[place] for place in there]
        taken = keras.tree.map_structure(spec, received)
        key = (*there, *keras.tree.flatten(taken))
        if key not in traced:

            def filled(tensors: Any) -> Any:
                by_place = dict(zip(there, tensors, strict=True))
                return function(*map(by_place.get, range(len(arguments))))

            traced[key] = tf.function(partial(filled), input_signature=[taken], autograph=False)
        return traced[key](received)

    return run


def compiled_for(model: keras.Model, place: Place) -> keras.Model:
    """The model, whose steps and predictions by Keras's own methods are programs of the place on JAX: with what
    XLA has to be told there."""
    if ENGINE == "jax" and model.jit_compile and not model.run_eagerly:
        step = DEVICES.compiled(lambda state, data: model.train_step(state, data), place, 0)
        predict = DEVICES.compiled(lambda state, data: model.predict_step(state, data), place)

        def predicted(state: Any, batches: Any) -> Any:
            outputs, others = predict(state, next(batches))
            return outputs, (state[0], others)

        model.train_function = lambda state, batches: step(state, next(batches))
        model.predict_function = predicted
    return counted_alone(model)


def counted_alone(model: keras.Model) -> keras.Model:
    """The model, whose function for predictions is its own, where it runs on TensorFlow."""
    if ENGINE == "tensorflow":
        model.make_predict_function()
        if traced := getattr(model.predict_function, "python_function", None):
            predict = compiled_for_batches(lambda batch: traced([(batch,)]))
            model.predict_function = lambda batches: predict(batches[0][0])
    return model
