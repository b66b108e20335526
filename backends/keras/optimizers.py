"""Keras's optimisers by the rules of `headstart.contract.optimizers`, with a learning rate and a weight decay for
each variable, or each part of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from headstart.backends.keras.arrays import ENGINE
from headstart.contract.optimizers import SGD, Optimizer


class Alone:
    """An optimiser of one process's gradients.

    On TensorFlow Keras sums them over replicas, of which there is one, by a function with a gradient of its own.
    TensorFlow registers that for ever, and with it all that was traced: 2.7 MB for each training.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars


class Momentum(Alone, keras.optimizers.SGD):
    """SGD as `headstart.contract.optimizers` has it: the learning rate outside the velocity, and the weight decay
    inside the gradient. Keras's own keeps `rate * gradient` in the velocity, which takes other steps as soon as
    the rate changes, and its `weight_decay` is decoupled."""

    multiples: Sequence[Any] = ()
    """of the learning rate, for each variable: a number, or an array that broadcasts to it"""
    decays: Sequence[Any] = ()
    """the same of the weight decay"""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        learning_rate = learning_rate * self.multiples[index]
        step = gradient = keras.ops.cast(gradient, variable.dtype) + self.decays[index] * variable
        if self.momentum:
            velocity = self.momentums[index]
            self.assign(velocity, velocity * self.momentum + gradient)
            step = gradient + velocity * self.momentum if self.nesterov else velocity
        self.assign_sub(variable, keras.ops.cast(learning_rate, variable.dtype) * step)


class GroupedAdamW(Alone, keras.optimizers.AdamW):
    """AdamW as `headstart.contract.optimizers` has it, with learning rates that differ by variable; the weight
    decay goes with them. Keras's own adds epsilon to the root of the velocity before that is corrected, in whose
    terms it is 32 times as large at the first step: gradients of 1e-6 take other steps."""

    multiples: Sequence[Any] = ()
    decays: Sequence[Any] = ()

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        if ENGINE == "tensorflow":
            step = keras.ops.cast(self.iterations + 1, "float32")
            self.first_power, self.second_power = (
                keras.ops.power(beta, step) for beta in (self.beta_1, self.beta_2)
            )
            self.small = self.epsilon * keras.ops.sqrt(1 - self.second_power)
        super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        rate = learning_rate * self.multiples[index]
        if ENGINE == "tensorflow" and np.ndim(self.multiples[index]) == 0:
            self._update_at_once(gradient, variable, rate, index)
        else:
            self._update(gradient, variable, rate, index)

    def _update(self, gradient: Any, variable: Any, rate: Any, index: int) -> None:
        gradient = keras.ops.cast(gradient, variable.dtype)
        rate, step = (keras.ops.cast(value, variable.dtype) for value in (rate, self.iterations + 1))
        corrected = []
        for moment, value, beta in (
            (self._momentums[index], gradient, self.beta_1),
            (self._velocities[index], keras.ops.square(gradient), self.beta_2),
        ):
            self.assign(moment, moment + (value - moment) * (1 - beta))
            corrected.append(moment / (1 - keras.ops.power(keras.ops.cast(beta, variable.dtype), step)))
        direction, velocity = corrected
        self.assign_sub(variable, rate * direction / (keras.ops.sqrt(velocity) + self.epsilon))

    def _update_at_once(self, gradient: Any, variable: Any, rate: Any, index: int) -> None:
        """The step of a variable as one operation of TensorFlow's and not as twenty, of which each writes an
        array, and which take a third of the time in which a step is traced. It adds epsilon as Keras does."""
        import tensorflow as tf

        def handle(of: Any) -> Any:
            return (of._value if isinstance(of, keras.Variable) else of).handle

        def scalar(value: Any) -> Any:
            return tf.cast(value, variable.dtype)

        tf.raw_ops.ResourceApplyAdam(
            var=handle(variable),
            m=handle(self._momentums[index]),
            v=handle(self._velocities[index]),
            beta1_power=scalar(self.first_power),
            beta2_power=scalar(self.second_power),
            lr=scalar(rate),
            beta1=scalar(self.beta_1),
            beta2=scalar(self.beta_2),
            epsilon=scalar(self.small),
            grad=tf.cast(tf.convert_to_tensor(gradient), variable.dtype),
        )

    def _apply_weight_decay(self, variables: Any) -> None:
        for variable in variables:
            index = self._get_variable_index(variable)
            if not np.any(self.decays[index]):
                continue
            rate = keras.ops.cast(self.learning_rate, variable.dtype) * self.multiples[index]
            self.assign_sub(variable, variable * (self.decays[index] * rate))


def optimizer_of(o: Optimizer, multiples: Sequence[Any], decays: Sequence[Any]) -> keras.optimizers.Optimizer:
    """With a multiple of the learning rate and a weight decay for each variable, or each part of one."""
    made: Any = (
        Momentum(o.lr, o.momentum, o.nesterov)
        if isinstance(o, SGD)
        else GroupedAdamW(o.lr, 0.0, o.beta1, o.beta2, o.epsilon)
    )
    made.multiples, made.decays = multiples, decays
    return made
