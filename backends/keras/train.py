"""Training. `KerasTrainer` needs the Keras API only and runs on every engine, a compiled step at a time;
`TensorFlowTrainer` compiles whole epochs, which Keras's API has no word for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from headstart.backends.keras import losses
from headstart.backends.keras.arrays import at_place, dtype_policy, from_numpy, on, to_numpy
from headstart.backends.keras.copying import layers_of
from headstart.backends.keras.door import behind_door
from headstart.backends.keras.emit import Style, network, snapshot, variables
from headstart.backends.keras.functions import compiled, compiled_for, compiled_for_batches
from headstart.backends.keras.heads import ChainTrainer, compiles
from headstart.backends.keras.layers import keep_statistics
from headstart.backends.keras.optimizers import optimizer_of
from headstart.backends.keras.progress import assign, values_of
from headstart.contract.heads import chain_of
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Place, Recipe
from headstart.contract.running import Trainer
from headstart.data.rows import window
from headstart.graph import Graph


@behind_door("__init__", "put", "epoch", "step", "logits", "params", "snapshot", "state", "load_state")
@at_place("put", "epoch", "step", "logits", "params", "snapshot", "state", "load_state")
class KerasTrainer:
    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> None:
        self.graph, self.recipe, self.place = graph, recipe, place
        self.kinds = {name: value.dtype for name, value in params.items()}
        style = Style(
            dtype=dtype_policy(place),
            frozen_statistics=not recipe.train_statistics,
            seed=recipe.seed,
            learns=True,
        )
        with on(place):
            self.model = network(graph, params, (), style)
            self.inference = self.model
            self.weights = [1.0, *(weight for _, weight in graph.auxiliary)]
            if graph.auxiliary:  # the same layers, without those that only training needs
                self.inference = keras.Model(self.model.input, self.model.outputs[0])
            multiples = _multiples(recipe, graph, self.model)
            _keep_frozen_statistics(self.model, multiples)
            decays = [recipe.optimizer.weight_decay] * len(multiples)
            self.optimizer = optimizer_of(recipe.optimizer, multiples, decays)
            self.optimizer.build(self.model.trainable_variables)
            self._prepare()

    def _prepare(self) -> None:
        """For steps of Keras's own."""
        count = len(self.weights)
        self.model.compile(
            self.optimizer,
            [self._loss] * count,
            loss_weights=self.weights,
            # a list for each output, but of one alone: Keras 3.10 takes no lists there
            metrics=[[self._right], *[[]] * (count - 1)] if count > 1 else [self._right],
        )
        # Left to its first step, Keras traces the whole model for the shapes of what it gives. That takes long,
        # and fails on JAX where a layer looks something up in a table of TensorFlow's.
        logits = [keras.ops.zeros((1, *output.shape[1:])) for output in self.model.outputs]
        of_classes = isinstance(self.recipe.loss, Softmax)
        targets = [keras.ops.zeros((1,) if of_classes else (1, output.shape[1])) for output in logits]
        shown = (targets, logits) if count > 1 else (targets[0], logits[0])
        self.model.compute_loss(None, *shown)
        self.model.compute_metrics(None, *shown)
        compiled_for(self.model, self.place)
        if self.inference is not self.model:
            compiled_for(self.inference, self.place)

    def put(self, rows: np.ndarray) -> Any:
        return from_numpy(rows, self.place)

    def epoch(
        self,
        rows: Any,
        targets: np.ndarray,
        order: np.ndarray | None,
        rates: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> tuple[np.ndarray, int]:
        size = len(targets) // len(rates)
        results = []
        for i, rate in enumerate(rates):
            places = slice(i * size, (i + 1) * size) if order is None else order[i]
            batch = rows[places] if order is None else keras.ops.take(rows, places, axis=0)
            results.append(self.step(batch, targets[places], rate, None if weights is None else weights[places]))
        return np.array([means for means, _ in results], np.float32), sum(right for _, right in results)

    def step(
        self, inputs: Any, targets: np.ndarray, rate: float, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        count = len(self.weights)
        self.optimizer.learning_rate.assign(rate)
        self.model.reset_metrics()
        known, shares = losses.native_targets(targets), None
        if weights is not None:  # Keras divides by the number of samples
            total = weights.sum(dtype=np.float64)
            shares = (weights * (len(weights) / total if total else 0.0)).astype(np.float32)
        # the weighted sum, with several outputs each one's loss, and the share that is right
        result = self.model.train_on_batch(
            inputs,
            [known] * count if count > 1 else known,
            [shares] * count if count > 1 and shares is not None else shares,
        )
        means = result[1 : 1 + count] if count > 1 else result[:1]
        right = float(result[-1]) if np.isfinite(means[0]) else 0.0  # NaN is taken for the first class
        return np.array(means, np.float32), round(right * len(targets))

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        return to_numpy(self.inference.predict_on_batch(window(inputs, start, stop)))

    def params(self) -> dict[str, np.ndarray]:
        return self.snapshot()()

    def snapshot(self) -> Callable[[], dict[str, np.ndarray]]:
        read = snapshot(self.graph, self.model)
        return lambda: {name: value.astype(self.kinds[name], copy=False) for name, value in read().items()}

    def state(self) -> dict[str, np.ndarray]:
        return values_of(self._changed())

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        assign(self._changed(), state)

    def _changed(self) -> dict[str, keras.Variable]:
        """All that a step changes. Layers' own generators of random numbers are among a model's variables."""
        named = {id(v): name for node in self.graph.nodes for name, v in variables(node, self.model).items()}
        others = (v for v in self.model.variables if id(v) not in named)
        return {
            **{f"variable.{named[id(v)]}": v for v in self.model.variables if id(v) in named},
            **{f"other.{i}": v for i, v in enumerate(others)},
            **{f"optimizer.{i}": v for i, v in enumerate(self.optimizer.variables)},
        }

    def _loss(self, targets: Any, outputs: Any) -> Any:
        """`(n,)`"""
        return losses.per_sample(self.recipe.loss, outputs, self._native(targets))

    def _right(self, targets: Any, outputs: Any) -> Any:
        """`(n,)`, 1 where a sample is classified right."""
        return losses.right(self.recipe.loss, outputs, self._native(targets))

    def _native(self, targets: Any) -> Any:
        """As they were given: Keras hands numbers of classes on as floats, and maybe in a column."""
        if isinstance(self.recipe.loss, Softmax):
            return keras.ops.cast(keras.ops.reshape(targets, (-1,)), "int32")
        return targets


@behind_door("epoch", "step", "logits")
@at_place("epoch", "step", "logits")
class TensorFlowTrainer(KerasTrainer):
    def _prepare(self) -> None:
        self._one_step = compiled(self._update)
        self._whole_epoch = compiled(self._updates)
        self._forward = compiled_for_batches(lambda x: self.inference(x, training=False))

    def epoch(
        self,
        rows: Any,
        targets: np.ndarray,
        order: np.ndarray | None,
        rates: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> tuple[np.ndarray, int]:
        means, correct = self._whole_epoch(rows, losses.native_targets(targets), weights, order, rates)
        return means.numpy(), int(correct)

    def step(
        self, inputs: Any, targets: np.ndarray, rate: float, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        means, correct = self._one_step(inputs, losses.native_targets(targets), weights, np.float32(rate))
        return means.numpy(), int(correct)

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        return self._forward(window(inputs, start, stop)).numpy()

    def _update(self, x: Any, y: Any, weights: Any, rate: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            outputs = self.model(x, training=True)
            outputs = outputs if isinstance(outputs, list) else [outputs]
            means = tf.stack([losses.mean(self._loss(y, logits), weights) for logits in outputs])
            loss = tf.reduce_sum(means * self.weights)
        self.optimizer.learning_rate.assign(rate)
        self.optimizer.apply(tape.gradient(loss, self.model.trainable_variables))
        correct = tf.cast(tf.reduce_sum(self._right(y, outputs[0])), tf.int64)
        return means, correct * tf.cast(tf.math.is_finite(means[0]), tf.int64)  # argmax of NaN is 0

    def _updates(self, rows: Any, targets: Any, weights: Any, order: Any, rates: Any) -> tuple[Any, Any]:
        import tensorflow as tf

        steps = tf.shape(rates)[0]
        size = tf.shape(targets)[0] // steps

        def batch(of_all: Any, i: Any) -> Any:
            if of_all is None:
                return None
            return of_all[i * size : (i + 1) * size] if order is None else tf.gather(of_all, order[i])

        def step(i: Any, means: Any, correct: Any) -> tuple[Any, Any, Any]:
            x, y, w = (batch(of_all, i) for of_all in (rows, targets, weights))
            of_step, right = self._update(x, y, w, rates[i])
            return i + 1, means.write(i, of_step), correct + right

        means = tf.TensorArray(tf.float32, size=steps, element_shape=(len(self.weights),))
        begin = (tf.constant(0), means, tf.zeros((), tf.int64))
        _, means, correct = tf.while_loop(lambda i, *_: i < steps, step, begin)
        return means.stack(), correct


def trainer(graph: Graph, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> Trainer:
    """The trainer for the engine that Keras runs on, and for the head."""
    if keras.backend.backend() != "tensorflow":
        return KerasTrainer(graph, params, recipe, place)
    chain = chain_of(graph)
    if chain is not None and compiles(chain, place):
        return ChainTrainer(chain, params, recipe, place)
    return TensorFlowTrainer(graph, params, recipe, place)


def _multiples(recipe: Recipe, graph: Graph, model: keras.Model) -> list[float]:
    """The multiple of the learning rate of each trained variable."""
    # by identity: in a wrapped module two variables may have one path
    named = {id(v): name for node in graph.nodes for name, v in variables(node, model).items()}
    return [recipe.rates.get(named[id(v)], 1.0) for v in model.trainable_variables]


def _keep_frozen_statistics(model: keras.Model, multiples: list[float]) -> None:
    """A batch norm that its owner froze keeps its statistics, too, as it does in Keras."""
    fixed = {id(v) for v, multiple in zip(model.trainable_variables, multiples, strict=True) if multiple == 0}
    for layer in layers_of(model) if fixed else []:
        if layer.trainable_weights and all(id(v) in fixed for v in layer.trainable_weights):
            keep_statistics(layer)
