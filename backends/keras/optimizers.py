"""Keras's optimisers by the rules of `headstart.contract.optimizers`, with a learning rate and a weight decay for
each variable, or each part of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

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

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient, variable, learning_rate * self.multiples[self._get_variable_index(variable)])

    def _apply_weight_decay(self, variables: Any) -> None:
        for variable in variables:
            index = self._get_variable_index(variable)
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
