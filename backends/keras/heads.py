"""Heads side by side: one matrix product for all of them, and epochs as one graph. On TensorFlow only: Keras's own
API trains one model at a time.

Weights lie as `(heads, out, in)`. On a CPU that is what makes an epoch compiled by XLA fast: of a product with few
columns, as a classifier's is, XLA reads rows, converts and multiplies them in one pass where the weight's rows are
as long as the features, and takes four times as long where they lie as Keras has them, `(in, out)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from headstart.backends.keras import losses
from headstart.backends.keras.arrays import at_place, from_numpy, on, to_numpy
from headstart.backends.keras.door import behind_door
from headstart.backends.keras.emit import ACTIVATIONS, network
from headstart.backends.keras.functions import compiled, compiled_for_batches
from headstart.backends.keras.masks import new_step, of_elements
from headstart.backends.keras.optimizers import optimizer_of
from headstart.backends.keras.progress import assign, values_of
from headstart.contract import devices
from headstart.contract.heads import DROPOUT, Chain, HeadsRecipe
from headstart.contract.masks import key_of
from headstart.contract.recipe import BFLOAT16, FLOAT32, TF32, Place, Recipe
from headstart.data.rows import window

# An epoch of so many multiplications, of features by weights, is compiled by XLA: that takes 0.2 s, earned back in
# ten or twenty epochs. What else there is to a step takes as long as so many.
WORTH_COMPILING, OF_A_STEP = 2e8, 1e6


def compiles(chain: Chain, place: Place) -> bool:
    """Whether XLA trains it faster, if there is enough to do: on a CPU its pooling is slower, and some products of
    bfloat16 are; on a GPU this has not been measured."""
    before = () if chain.before is None else chain.before.nodes[1:]
    single = place.kind == devices.CPU and place.arithmetic in (FLOAT32, TF32)
    return single and all(node.op in ("flatten", *ACTIVATIONS) for node in before)


@behind_door("__init__", "put", "epoch", "logits", "params", "state", "load_state", "keep", "logits_of")
@at_place("put", "epoch", "logits", "params", "state", "load_state", "keep", "logits_of")
class TensorFlowHeads:
    compiles = True

    def __init__(
        self,
        chain: Chain,
        params: Mapping[str, np.ndarray],
        recipe: HeadsRecipe,
        place: Place,
        multiples: Mapping[str, float] | None = None,
    ) -> None:
        """`multiples` of the learning rate: 1 for a parameter that is not named."""
        self.chain, self.recipe, self.place, self.multiples = chain, recipe, place, multiples or {}
        self.may_compile = compiles(chain, place)
        with on(place):
            self.before = network(chain.before, {}) if chain.before else None
            self.step = new_step(lambda shape, **settings: keras.Variable(shape=shape, **settings))
            self._begin(params)

    def _begin(self, params: Mapping[str, np.ndarray]) -> None:
        """Train these from now on, by the recipe; nothing is kept of their steps."""
        self.weights = {
            name: keras.Variable(value, name=f"w{i}") for i, (name, value) in enumerate(params.items())
        }
        self.current: list[Any] | None = None
        """the weights as the last epoch has left them; None where they have been set since"""
        rates, decays = (
            [values.reshape(-1, *[1] * (len(w.shape) - 1)) for w in self.weights.values()]
            for values in (self.recipe.lr, self.recipe.weight_decay)
        )
        shares = [np.float32(self.multiples.get(name, 1.0)) for name in self.weights]
        rates = [rate * share for rate, share in zip(rates, shares, strict=True)]
        self.optimizer = optimizer_of(self.recipe.optimizer, rates, decays)
        self.optimizer.build(list(self.weights.values()))
        self.products = sum(w.size for w in params.values())  # of a row
        self._epoch = compiled_for_batches(self._updates)
        self._compiled_epoch = compiled(self._updates, jit_compile=True)
        self._logits = compiled_for_batches(self._forward)
        self._logits_of = compiled_for_batches(self._forward_of)

    def put(self, rows: np.ndarray) -> Any:
        return from_numpy(rows, self.place)

    def epoch(
        self,
        rows: Any,
        targets: np.ndarray,
        order: np.ndarray | None,
        rates: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        count = len(targets) if order is None else order.size
        work = count * self.products + len(rates) * OF_A_STEP
        run = self._compiled_epoch if self.may_compile and work >= WORTH_COMPILING else self._epoch
        known = losses.native_targets(targets)
        means, correct, self.current = run(rows, known, weights, order, np.asarray(rates, np.float32))
        return means.numpy(), correct.numpy()

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        return self._logits(window(inputs, start, stop)).numpy()

    def logits_of(self, inputs: Any, start: int, stop: int, numbers: Sequence[int]) -> np.ndarray:
        return self._logits_of(window(inputs, start, stop), np.array(numbers, np.int32)).numpy()

    def params(self) -> dict[str, np.ndarray]:
        return {name: to_numpy(keras.ops.copy(w.value)) for name, w in self.weights.items()}

    def snapshot(self) -> Callable[[], dict[str, np.ndarray]]:
        """As the last epoch has given them: to read two variables takes a twentieth of a short epoch."""
        values = self.current or [keras.ops.copy(w.value) for w in self.weights.values()]
        return lambda: {name: to_numpy(value) for name, value in zip(self.weights, values, strict=True)}

    def state(self) -> dict[str, np.ndarray]:
        return values_of(self._changed())

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        assign(self._changed(), state)
        self.current = None

    def keep(self, numbers: Sequence[int]) -> None:
        places = list(numbers)
        # the count of steps and the rate, numbers both, are of all heads
        state = {name: kept[places] if kept.ndim else kept for name, kept in self.state().items()}
        self.recipe = self.recipe.of(numbers)
        self._begin({name: value[places] for name, value in self.params().items()})
        self.load_state(state)

    def _changed(self) -> dict[str, keras.Variable]:
        kept = {f"optimizer.{i}": variable for i, variable in enumerate(self.optimizer.variables)}
        return {**{f"variable.{name}": weight for name, weight in self.weights.items()}, **kept, "step": self.step}

    def _forward_of(self, x: Any, places: Any) -> Any:
        import tensorflow as tf

        return self._forward(x, {name: tf.gather(w.value, places) for name, w in self.weights.items()})

    def _forward(self, x: Any, weights: Mapping[str, Any] | None = None, step: Any = None) -> Any:
        """`(n, h, classes)`. `weights`: in place of those that are trained. `step`: its number, in training."""
        import tensorflow as tf

        if weights is None:
            weights = {name: w.value for name, w in self.weights.items()}
        dtype = tf.bfloat16 if self.place.arithmetic == BFLOAT16 else tf.float32
        x = tf.cast(x, tf.float32)
        x = tf.cast(x if self.before is None else self.before(x, training=False), dtype)
        for node in self.chain.layers:
            if node.op == DROPOUT:
                if step is not None:
                    key, shape = key_of(self.recipe.seed, node.name), (tf.shape(x)[0], x.shape[-1])
                    mask = of_elements(key, node.attrs["rate"], step, shape, x.dtype)
                    x = x * (mask if len(x.shape) == 2 else mask[:, None])
                continue
            if node.op != "linear":
                x = keras.activations.get(ACTIVATIONS[node.op])(x)
                continue
            weight, bias = weights[f"{node.name}.weight"], weights.get(f"{node.name}.bias")
            _, outputs, inputs = weight.shape
            kernel = tf.cast(weight, dtype)
            if len(x.shape) == 2:  # the same rows for all heads, of which there may be any number
                x = tf.matmul(x, tf.reshape(kernel, (-1, inputs)), transpose_b=True)
                x = tf.reshape(x, (-1, tf.shape(weight)[0], outputs))
            else:
                x = tf.einsum("nhi,hoi->nho", x, kernel)
            x = x if bias is None else x + tf.cast(bias, dtype)
        return tf.cast(x, tf.float32)

    def _updates(self, rows: Any, targets: Any, weights: Any, order: Any, rates: Any) -> tuple[Any, ...]:
        import tensorflow as tf

        steps, heads = tf.shape(rates)[0], len(self.recipe.lr)
        size = tf.shape(targets)[0] // steps
        means = tf.TensorArray(tf.float32, size=steps, element_shape=(heads,))
        correct = tf.zeros(heads, tf.int64)
        variables = list(self.weights.values())
        first = tf.identity(self.step.value)

        def update(i: Any, means: Any, correct: Any) -> tuple[Any, Any, Any]:
            if order is None:  # decided while it is traced
                x, y, w = (None if a is None else _window(a, i * size, size) for a in (rows, targets, weights))
            else:
                x, y, w = (None if a is None else tf.gather(a, order[i]) for a in (rows, targets, weights))
            with tf.GradientTape() as tape:
                # (h, n, classes)
                outputs = tf.transpose(self._forward(x, step=first + tf.cast(i, first.dtype)), (1, 0, 2))
                by_head = None
                if w is not None and len(w.shape) == 2:
                    by_head = w = tf.transpose(w)
                of_step = losses.mean(losses.per_sample(self.recipe.loss, outputs, y), w)
                loss = tf.reduce_sum(of_step)
            self.optimizer.learning_rate.assign(rates[i])
            self.optimizer.apply(tape.gradient(loss, [w.value for w in variables]), variables)
            hits = losses.right(self.recipe.loss, outputs, y)
            hits = hits if by_head is None else hits * tf.cast(by_head > 0, hits.dtype)
            right = tf.cast(tf.reduce_sum(hits, -1), tf.int64)
            right *= tf.cast(tf.math.is_finite(of_step), tf.int64)  # argmax of NaN is 0
            return i + 1, means.write(i, of_step), correct + right

        start = tf.constant(0), means, correct
        _, means, correct = tf.while_loop(lambda i, *_: i < steps, update, start, maximum_iterations=steps)
        self.step.assign(first + tf.cast(steps, first.dtype))
        return means.stack(), correct, [tf.identity(w.value) for w in variables]


def _window(rows: Any, start: Any, size: Any) -> Any:
    """Not `rows[a:b]`, whose size XLA does not know. The other axes' sizes TensorFlow has to be told."""
    import tensorflow as tf

    sides = rows.shape[1:]
    taken = tf.slice(rows, [start, *[0] * len(sides)], [size, *[-1] * len(sides)])
    taken.set_shape((None, *sides))
    return taken


class ChainTrainer:
    """The trainer of a head of linear layers and activations: one of `TensorFlowHeads`, side by side with none."""

    def __init__(self, chain: Chain, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> None:
        o = recipe.optimizer
        # the rates that come with each step are the head's own
        lr, decay = (np.array([value], np.float32) for value in (1.0, o.weight_decay))
        own = HeadsRecipe(o, lr, decay, recipe.loss, recipe.seed)
        alone = {name: value[None] for name, value in params.items()}
        self.heads = TensorFlowHeads(chain, alone, own, place, recipe.rates)

    def put(self, rows: np.ndarray) -> Any:
        return self.heads.put(rows)

    def epoch(
        self,
        rows: Any,
        targets: np.ndarray,
        order: np.ndarray | None,
        rates: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> tuple[np.ndarray, int]:
        means, correct = self.heads.epoch(rows, targets, order, rates, weights)
        return means, int(correct[0])

    def step(
        self, inputs: Any, targets: np.ndarray, rate: float, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        means, correct = self.epoch(inputs, targets, None, np.array([rate], np.float32), weights)
        return means[0], correct

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        return self.heads.logits(inputs, start, stop)[:, 0]

    def params(self) -> dict[str, np.ndarray]:
        return {name: value[0] for name, value in self.heads.params().items()}

    def snapshot(self) -> Callable[[], dict[str, np.ndarray]]:
        read = self.heads.snapshot()
        return lambda: {name: value[0] for name, value in read().items()}

    def state(self) -> dict[str, np.ndarray]:
        return self.heads.state()

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        self.heads.load_state(state)


def heads(
    chain: Chain, params: Mapping[str, np.ndarray], recipe: HeadsRecipe, place: Place
) -> TensorFlowHeads | None:
    """None where Keras runs on another engine."""
    return TensorFlowHeads(chain, params, recipe, place) if keras.backend.backend() == "tensorflow" else None
