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
    """Keras's own, with learning rates that differ by variable; the weight decay goes with them."""

    multiples: Sequence[Any] = ()
    decays: Sequence[Any] = ()

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        if ENGINE == "tensorflow":
            step = keras.ops.cast(self.iterations + 1, "float32")
            self.first_power, self.second_power = (
                keras.ops.power(beta, step) for beta in (self.beta_1, self.beta_2)
            )
        super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        rate = learning_rate * self.multiples[index]
        if ENGINE == "tensorflow" and np.ndim(self.multiples[index]) == 0:
            self._update_at_once(gradient, variable, rate, index)
        else:
            super().update_step(gradient, variable, rate)

    def _update_at_once(self, gradient: Any, variable: Any, rate: Any, index: int) -> None:
        """Keras's step of a variable as one operation of TensorFlow's and not as twenty, of which each writes an
        array, and which take a third of the time in which a step is traced."""
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
            epsilon=scalar(self.epsilon),
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
