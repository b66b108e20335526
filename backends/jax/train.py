"""Training: steps on batches, and whole epochs on resident rows compiled as one `lax.scan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from headstart.backends.doors.jax_devices import compiled, donates, put
from headstart.backends.jax import cpu_programs, losses
from headstart.backends.jax.arrays import as_float, to_numpy
from headstart.backends.jax.door import behind_door
from headstart.backends.jax.emit import Network
from headstart.backends.jax.epoch import Known, Result, resident_step, whole_epoch
from headstart.backends.jax.masks import Dropped
from headstart.backends.jax.modes import switch
from headstart.backends.jax.norms import check_there, refuse_writing, tell, with_statistics_of
from headstart.contract.devices import CPU
from headstart.contract.optimizers import SGD, Optimizer
from headstart.contract.recipe import Place, Recipe
from headstart.data.rows import window
from headstart.graph import Graph, Node


@behind_door("__init__", "put", "epoch", "step", "logits", "params", "_read", "state", "load_state")
class JaxTrainer:
    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], recipe: Recipe, place: Place) -> None:
        self.place, self.recipe = place, recipe
        self.network = Network(graph, params, (), place, recipe.seed, lambda node: Dropped(node, recipe.seed))
        switch(self.network, False)
        self.inference = nnx.graphdef(self.network)
        switch(self.network, True)
        tell(self.network, recipe.train_statistics)
        self.training, weights, rest = nnx.split(self.network, nnx.Param, ...)
        self.update_rule = _update_rule(recipe)
        self.output_weights = np.array([1.0, *(weight for _, weight in graph.auxiliary)], np.float32)
        names = self.network.paths()
        self.multiples = jax.tree.map_with_path(
            lambda path, _: recipe.rates.get(names.get(tuple(step.key for step in path[:-1]), ""), 1.0), weights
        )
        # what a step changes: parameters, statistics, numbers of steps, random streams, the optimiser's moments
        self.carry = put((weights, rest, first_moments(self.update_rule, as_float(weights))), place)
        self.formed = cpu_programs.may_be_formed(graph, place)
        # On a CPU a convolution inside a loop falls back to code that is 30 times slower than the one outside.
        self.scans = place.kind != CPU or not any(map(_convolves, graph.nodes))
        self._step = compiled(self._one_step, place, changes=0)
        self._resident_step = compiled(self._one_resident_step, place, changes=0)
        self._epoch = compiled(self._whole_epoch, place, changes=0)
        self._logits = compiled(self._forward, place)

    def put(self, rows: np.ndarray) -> jax.Array:
        return put(rows, self.place)

    def epoch(
        self,
        rows: jax.Array,
        targets: np.ndarray,
        order: np.ndarray | None,
        rates: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> tuple[np.ndarray, int]:
        known = put((losses.native_targets(targets), weights), self.place)
        batches = None if order is None else put(order.astype(np.int32), self.place)
        if self.scans:
            self.carry, (means, correct) = self._epoch(self.carry, rows, known, batches, rates)
            return to_numpy(means), int(to_numpy(correct).sum())
        size = len(rows) // len(rates)
        results = []
        for i, rate in enumerate(rates):
            if batches is None:
                x, known_of_batch = jax.tree.map(lambda a, i=i: a[i * size : (i + 1) * size], (rows, known))
                self.carry, result = self._step(self.carry, x, known_of_batch, rate)
            else:
                self.carry, result = self._resident_step(self.carry, rows, known, batches[i], rate)
            results.append(result)  # not waited for: the next step is queued behind it
        return np.array([means for means, _ in results], np.float32), sum(int(right) for _, right in results)

    def step(
        self, inputs: Any, targets: np.ndarray, rate: float, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, int]:
        known = (losses.native_targets(targets), weights)
        x = put(inputs, self.place)
        self.carry, (means, correct) = self._step(self.carry, x, known, np.float32(rate))
        return to_numpy(means), int(correct)

    def logits(self, inputs: Any, start: int, stop: int) -> np.ndarray:
        weights, rest, _ = self.carry
        rows = put(window(inputs, start, stop), self.place)
        return to_numpy(self._logits(weights, rest, rows))

    def params(self) -> dict[str, np.ndarray]:
        weights, rest, _ = self.carry
        return self._read(weights, rest)

    def _read(self, weights: nnx.State, rest: nnx.State) -> dict[str, np.ndarray]:
        nnx.update(self.network, weights, rest)
        return self.network.numpy_params()

    def snapshot(self) -> Callable[[], dict[str, np.ndarray]]:
        """Arrays never change, and are there until the next step where its memory is to be theirs."""
        if donates(self.place):
            params = self.params()
            return lambda: params
        weights, rest, _ = self.carry
        return lambda: self._read(weights, rest)

    def state(self) -> dict[str, np.ndarray]:
        leaves = jax.tree.leaves_with_path(self.carry)
        return {jax.tree_util.keystr(path): np.array(_numbers(leaf)) for path, leaf in leaves}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Of keys of random numbers there are the numbers that they are."""

        def leaf_of(path: Any, leaf: Any) -> Any:
            array = np.array(state[jax.tree_util.keystr(path)])
            if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return array
            return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))

        self.carry = put(jax.tree.map_with_path(leaf_of, self.carry), self.place)

    def _forward(self, weights: nnx.State, rest: nnx.State, x: Any) -> jax.Array:
        def run(weights: nnx.State, rest: nnx.State, x: Any) -> jax.Array:
            return nnx.merge(self.inference, weights, rest)(as_float(x)).astype(jnp.float32)

        return (cpu_programs.on_cpu(run, cpu_programs.TRAINING) if self.formed else run)(weights, rest, x)

    def _one_step(self, carry: Any, x: Any, known: Known, rate: jax.Array) -> tuple[Any, Result]:
        """`known`: of the batch's samples."""
        (weights, rest, moments), (targets, sample_weights) = carry, known

        def loss_of(weights: nnx.State) -> tuple[jax.Array, tuple[jax.Array, jax.Array, nnx.State, nnx.State]]:
            # copies: batch norms write their statistics, which belong to the trace outside
            network = nnx.merge(self.training, weights, rest, copy=True)
            if not self.recipe.train_statistics:
                refuse_writing(network)
            outputs = network(as_float(x))
            _, *written = nnx.split(network, nnx.Param, ...)
            check_there(rest, written[1])
            new_weights, new_rest = map(_as_before, (weights, rest), written)
            if not self.recipe.train_statistics:
                new_rest = with_statistics_of(rest, new_rest)
            # (outputs, n, classes)
            logits = jnp.stack(outputs if isinstance(outputs, tuple) else (outputs,)).astype(jnp.float32)
            means = losses.mean(losses.per_sample(self.recipe.loss, logits, targets), sample_weights)
            return means @ self.output_weights, (means, logits[0], new_weights, new_rest)

        formed = cpu_programs.on_cpu(loss_of, cpu_programs.TRAINING) if self.formed else loss_of
        (_, (means, logits, written, rest)), gradients = jax.value_and_grad(formed, has_aux=True)(weights)
        # A module may write to its parameters, as flax's weight norms do: the step goes on from there.
        weights = jax.tree.map(lambda w, new, m: new.astype(w.dtype) if m else w, weights, written, self.multiples)
        # in half precision the moments would come to nothing
        updates, moments = self.update_rule.update(as_float(gradients), moments, weights)
        # in half precision a parameter stays what it is, though the rate is float32
        weights = jax.tree.map(
            lambda w, u, m: (w - rate * m * u).astype(w.dtype), weights, updates, self.multiples
        )
        # argmax of NaN is 0
        right = losses.count_right(self.recipe.loss, logits, targets) * jnp.isfinite(means[0])
        return (weights, rest, moments), (means, right)

    # programs go by the names of these two in a profile
    def _whole_epoch(self, *args: Any) -> tuple[Any, Result]:
        return whole_epoch(self._one_step, *args)

    def _one_resident_step(self, *args: Any) -> tuple[Any, Result]:
        return resident_step(self._one_step, *args)


def _as_before(rest: nnx.State, written: nnx.State) -> nnx.State:
    """Of what a step has left in a network what was there before it, in the same shape: what is sown is another
    step's or nobody's."""
    after = dict(nnx.to_flat_state(written))

    def shapes(value: Any) -> Any:
        return jax.tree.map(jnp.shape, value)

    return nnx.from_flat_state(
        (path, after[path] if path in after and shapes(after[path]) == shapes(value) else value)
        for path, value in nnx.to_flat_state(rest)
    )


def _numbers(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _convolves(node: Node) -> bool:
    return node.op == "conv" or (node.op == "native" and node.attrs["part"].native.convolutions > 0)


def _update_rule(recipe: Recipe) -> optax.GradientTransformation:
    """The optimiser up to the learning rate, which comes with each step."""
    o = recipe.optimizer
    if isinstance(o, SGD):
        decay = optax.add_decayed_weights(o.weight_decay) if o.weight_decay else optax.identity()
        return optax.chain(decay, direction_of(o))
    return optax.chain(direction_of(o), optax.add_decayed_weights(o.weight_decay))


def direction_of(o: Optimizer) -> optax.GradientTransformation:
    """What an optimiser makes of gradients by its moments alone, without weight decay and learning rate."""
    if isinstance(o, SGD):
        return optax.trace(o.momentum, o.nesterov) if o.momentum else optax.identity()
    return optax.scale_by_adam(o.beta1, o.beta2, o.epsilon)


def first_moments(rule: optax.GradientTransformation, weights: Any) -> Any:
    """The optimiser's moments before the first step: with all rules of `direction_of` they are zero. Made on the
    host, where nothing is compiled for it."""
    return jax.tree.map(lambda moment: np.zeros(moment.shape, moment.dtype), jax.eval_shape(rule.init, weights))
