"""Training. `KerasTrainer` needs the Keras API only and runs on every engine, a compiled step at a time;
`TensorFlowTrainer` compiles whole epochs, which Keras's API has no word for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from headstart.backend import Place, Recipe
from headstart.backends.keras.arrays import dtype_policy, from_numpy, on, to_numpy
from headstart.backends.keras.emit import Style, network, numpy_params, variables
from headstart.data.rows import window
from headstart.graph import Graph
from headstart.training.optimizers import SGD, Optimizer


class Momentum(keras.optimizers.SGD):
    """SGD as `headstart.training.optimizers` has it: the learning rate outside the velocity, and the weight decay
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


class GroupedAdamW(keras.optimizers.AdamW):
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


class KerasTrainer:
    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> None:
        self.graph, self.recipe, self.place = graph, recipe, place
        style = Style(dtype_policy(place), not recipe.train_statistics, recipe.seed)
        with on(place):
            self.model = network(graph, params, (), style)
            self.inference = self.model
            self.weights = [1.0, *(weight for _, weight in graph.auxiliary)]
            if graph.auxiliary:  # the same layers, without those that only training needs
                self.inference = keras.Model(self.model.input, self.model.outputs[0])
            multiples = _multiples(recipe, graph, self.model)
            decays = [recipe.optimizer.weight_decay] * len(multiples)
            self.optimizer = optimizer_of(recipe.optimizer, multiples, decays)
            self.optimizer.build(self.model.trainable_variables)
            count = len(self.weights)
            self.model.compile(
                self.optimizer,
                [self._loss] * count,
                loss_weights=self.weights,
                metrics=[["sparse_categorical_accuracy"], *[[]] * (count - 1)],
            )

    def put(self, rows: np.ndarray) -> Any:
        return from_numpy(rows, self.place)

    def epoch(
        self, rows: Any, labels: np.ndarray, order: np.ndarray | None, rates: np.ndarray
    ) -> tuple[np.ndarray, int]:
        size = len(labels) // len(rates)
        results = []
        for i, rate in enumerate(rates):
            chosen = slice(i * size, (i + 1) * size) if order is None else order[i]
            batch = rows[chosen] if order is None else keras.ops.take(rows, chosen, axis=0)
            results.append(self.step(batch, labels[chosen], rate))
        return np.array([losses for losses, _ in results], np.float32), sum(right for _, right in results)

    def step(self, inputs: Any, labels: np.ndarray, rate: float) -> tuple[np.ndarray, int]:
        count = len(self.weights)
        with on(self.place):
            self.optimizer.learning_rate.assign(rate)
            self.model.reset_metrics()
            # the weighted sum, with several outputs each one's loss, and the accuracy
            result = self.model.train_on_batch(inputs, [labels] * count if count > 1 else labels)
        losses = result[1 : 1 + count] if count > 1 else result[:1]
        return np.array(losses, np.float32), round(float(result[-1]) * len(labels))

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        with on(self.place):
            return to_numpy(self.inference.predict_on_batch(window(inputs, start, stop)))

    def params(self) -> dict[str, np.ndarray]:
        return numpy_params(self.graph, self.model)

    def _loss(self, labels: Any, logits: Any) -> Any:
        classes, smoothing = logits.shape[-1], self.recipe.label_smoothing
        # Keras hands labels on as floats
        one_hot = keras.ops.one_hot(keras.ops.cast(keras.ops.reshape(labels, (-1,)), "int32"), classes)
        targets = one_hot * (1 - smoothing) + smoothing / classes
        return keras.ops.categorical_crossentropy(targets, logits, from_logits=True)


class TensorFlowTrainer(KerasTrainer):
    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> None:
        import tensorflow as tf

        super().__init__(graph, params, recipe, place)
        self._one_step = tf.function(self._update, reduce_retracing=True)
        self._whole_epoch = tf.function(self._updates, reduce_retracing=True)
        self._forward = tf.function(lambda x: self.inference(x, training=False), reduce_retracing=True)

    def epoch(
        self, rows: Any, labels: np.ndarray, order: np.ndarray | None, rates: np.ndarray
    ) -> tuple[np.ndarray, int]:
        with on(self.place):
            losses, correct = self._whole_epoch(rows, labels, order, rates)
        return losses.numpy(), int(correct)

    def step(self, inputs: Any, labels: np.ndarray, rate: float) -> tuple[np.ndarray, int]:
        with on(self.place):
            losses, correct = self._one_step(inputs, labels, np.float32(rate))
        return losses.numpy(), int(correct)

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        with on(self.place):
            return self._forward(window(inputs, start, stop)).numpy()

    def _update(self, x: Any, y: Any, rate: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            outputs = self.model(x, training=True)
            outputs = outputs if isinstance(outputs, list) else [outputs]
            losses = tf.stack([tf.reduce_mean(self._loss(y, logits)) for logits in outputs])
            loss = tf.reduce_sum(losses * self.weights)
        self.optimizer.learning_rate.assign(rate)
        self.optimizer.apply(tape.gradient(loss, self.model.trainable_variables))
        correct = tf.reduce_sum(tf.cast(tf.equal(tf.argmax(outputs[0], 1), y), tf.int64))
        return losses, correct

    def _updates(self, rows: Any, labels: Any, order: Any, rates: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        steps = tf.shape(rates)[0]
        size = tf.shape(labels)[0] // steps
        losses = tf.TensorArray(tf.float32, size=steps, element_shape=(len(self.weights),))
        correct = tf.zeros((), tf.int64)
        for i in tf.range(steps):
            if order is None:  # decided while it is traced
                x, y = rows[i * size : (i + 1) * size], labels[i * size : (i + 1) * size]
            else:
                x, y = tf.gather(rows, order[i]), tf.gather(labels, order[i])
            one, right = self._update(x, y, rates[i])
            losses = losses.write(i, one)
            correct += right
        return losses.stack(), correct


def trainer(graph: Graph, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> KerasTrainer:
    """The trainer for the engine that Keras runs on."""
    kind = TensorFlowTrainer if keras.backend.backend() == "tensorflow" else KerasTrainer
    return kind(graph, params, recipe, place)


def _multiples(recipe: Recipe, graph: Graph, model: keras.Model) -> list[float]:
    """The multiple of the learning rate of each trained variable."""
    # by identity: in a wrapped module two variables may have one path
    named = {id(v): name for node in graph.nodes for name, v in variables(node, model).items()}
    return [recipe.rates.get(named[id(v)], 1.0) for v in model.trainable_variables]


def optimizer_of(o: Optimizer, multiples: Sequence[Any], decays: Sequence[Any]) -> keras.optimizers.Optimizer:
    """With a multiple of the learning rate and a weight decay for each variable, or each part of one."""
    made: Any = (
        Momentum(o.lr, o.momentum, o.nesterov)
        if isinstance(o, SGD)
        else GroupedAdamW(o.lr, 0.0, o.beta1, o.beta2, o.epsilon)
    )
    made.multiples, made.decays = multiples, decays
    return made
