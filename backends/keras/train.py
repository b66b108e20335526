"""Training. `KerasTrainer` needs the Keras API only and runs on every engine, a compiled step at a time;
`TensorFlowTrainer` compiles whole epochs, which Keras's API has no word for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from headstart.backend import Place, Recipe
from headstart.backends.keras.arrays import dtype_policy, from_numpy, on, to_numpy
from headstart.backends.keras.emit import Style, network, numpy_params
from headstart.graph import Graph
from headstart.training.optimizers import SGD


class Momentum(keras.optimizers.SGD):
    """SGD as `headstart.training.optimizers` has it: the learning rate outside the velocity, and the weight decay
    inside the gradient. Keras's own keeps `rate * gradient` in the velocity, which takes other steps as soon as
    the rate changes, and its `weight_decay` is decoupled."""

    decay = 0.0

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        step = gradient = keras.ops.cast(gradient, variable.dtype) + self.decay * variable
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            self.assign(velocity, velocity * self.momentum + gradient)
            step = gradient + velocity * self.momentum if self.nesterov else velocity
        self.assign_sub(variable, keras.ops.cast(learning_rate, variable.dtype) * step)


class KerasTrainer:
    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> None:
        self.graph, self.recipe, self.place = graph, recipe, place
        style = Style(dtype_policy(place), not recipe.train_statistics, recipe.seed)
        with on(place):
            self.model = network(graph, params, (), style)
            self.optimizer = _optimizer(recipe)
            self.optimizer.build(self.model.trainable_variables)
            self.model.compile(self.optimizer, self._loss, metrics=["sparse_categorical_accuracy"])

    def put(self, rows: np.ndarray) -> Any:
        return from_numpy(rows, self.place)

    def epoch(self, rows: Any, labels: np.ndarray, order: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, int]:
        results = [
            self.step(keras.ops.take(rows, batch, axis=0), labels[batch], rate)
            for batch, rate in zip(order, rates, strict=True)
        ]
        return np.array([loss for loss, _ in results], np.float32), sum(right for _, right in results)

    def step(self, inputs: Any, labels: np.ndarray, rate: float) -> tuple[float, int]:
        with on(self.place):
            self.optimizer.learning_rate.assign(rate)
            self.model.reset_metrics()
            loss, accuracy = self.model.train_on_batch(inputs, labels)
        return float(loss), round(float(accuracy) * len(labels))

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        with on(self.place):
            return to_numpy(self.model.predict_on_batch(inputs[start:stop]))

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
        self._forward = tf.function(lambda x: self.model(x, training=False), reduce_retracing=True)

    def epoch(self, rows: Any, labels: np.ndarray, order: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, int]:
        with on(self.place):
            losses, correct = self._whole_epoch(rows, labels, order, rates)
        return losses.numpy(), int(correct)

    def step(self, inputs: Any, labels: np.ndarray, rate: float) -> tuple[float, int]:
        with on(self.place):
            loss, correct = self._one_step(inputs, labels, np.float32(rate))
        return float(loss), int(correct)

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        with on(self.place):
            return self._forward(inputs[start:stop]).numpy()

    def _update(self, x: Any, y: Any, rate: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            logits = self.model(x, training=True)
            loss = tf.reduce_mean(self._loss(y, logits))
        self.optimizer.learning_rate.assign(rate)
        self.optimizer.apply(tape.gradient(loss, self.model.trainable_variables))
        correct = tf.reduce_sum(tf.cast(tf.equal(tf.argmax(logits, 1), y), tf.int64))
        return loss, correct

    def _updates(self, rows: Any, labels: Any, order: Any, rates: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        steps = tf.shape(order)[0]
        losses = tf.TensorArray(tf.float32, size=steps)
        correct = tf.zeros((), tf.int64)
        for i in tf.range(steps):
            loss, right = self._update(tf.gather(rows, order[i]), tf.gather(labels, order[i]), rates[i])
            losses = losses.write(i, loss)
            correct += right
        return losses.stack(), correct


def trainer(graph: Graph, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> KerasTrainer:
    """The trainer for the engine that Keras runs on."""
    kind = TensorFlowTrainer if keras.backend.backend() == "tensorflow" else KerasTrainer
    return kind(graph, params, recipe, place)


def _optimizer(recipe: Recipe) -> keras.optimizers.Optimizer:
    o = recipe.optimizer
    if isinstance(o, SGD):
        made = Momentum(o.lr, o.momentum, o.nesterov)
        made.decay = o.weight_decay
        return made
    return keras.optimizers.AdamW(o.lr, o.weight_decay, o.beta1, o.beta2, o.epsilon)
