"""An epoch of a linear head on features in memory, here and as the frameworks' own users write it, in a process of
its own: `peers.py BACKEND` reads a request a line and answers a line, both JSON.

{"do": "run", "which": NAME}   an epoch; the mean loss, or the accuracy of a peer that tells no loss
{"do": "names"}                the peers there are
{"do": "facts"}                threads and versions

"headstart" trains on float16 rows, as its store keeps them; peers on the float32 that `predict` would have given
them. "products" is the epoch's matrix products alone, forward and backward, of float32 batches as they lie.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from children import facts_of, serve

from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.optimizers import AdamW
from headstart.contract.recipe import Recipe
from headstart.data.order import epoch_order
from headstart.graph import Graph, Node

SAMPLES, COLUMNS, CLASSES, BATCH, LR = 50_000, 2048, 10, 256, 1e-3
STEPS = SAMPLES // BATCH

Epoch = Callable[[], float]


def made() -> tuple[np.ndarray, np.ndarray]:
    """Features of ten classes that overlap: float32 `(n, columns)`, labels int64 `(n,)`."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, SAMPLES)
    x = rng.standard_normal((SAMPLES, COLUMNS), np.float32)
    x += 0.1 * rng.standard_normal((CLASSES, COLUMNS), np.float32)[labels]
    return x, labels


class Ours:
    def __init__(self, name: str, x: np.ndarray, labels: np.ndarray) -> None:
        nodes = (
            Node("x", "input", (), {"shape": (COLUMNS,)}),
            Node("fc", "linear", ("x",), {"in_features": COLUMNS, "out_features": CLASSES}),
        )
        params = {"fc.weight": np.zeros((CLASSES, COLUMNS), np.float32), "fc.bias": np.zeros(CLASSES, np.float32)}
        backend = registry.load(name)
        recipe = Recipe(AdamW(lr=LR), Softmax(), False, 0)
        self.trainer = backend.trainer(Graph(nodes, "fc"), params, recipe, backend.place("auto", "float32"))
        self.rows, self.labels = self.trainer.put(x.astype(np.float16)), labels
        self.epochs = 0

    def __call__(self) -> float:
        order = epoch_order(SAMPLES, BATCH, 0, self.epochs)
        self.epochs += 1
        losses, _ = self.trainer.epoch(self.rows, self.labels, order, np.full(len(order), LR, np.float32))
        return float(losses.mean())


def torch_peers(x: np.ndarray, labels: np.ndarray) -> dict[str, Epoch]:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    rows, targets = torch.from_numpy(x), torch.from_numpy(labels)
    # https://docs.pytorch.org/tutorials/beginner/basics/optimization_tutorial.html
    loader = DataLoader(TensorDataset(rows, targets), batch_size=BATCH, shuffle=True)
    model = nn.Linear(COLUMNS, CLASSES)
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)

    def dataloader() -> float:
        model.train()
        total = 0.0
        for inputs, y in loader:
            loss = loss_fn(model(inputs), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item() * len(y)
        return total / SAMPLES

    weight, above = torch.zeros(CLASSES, COLUMNS), torch.ones(BATCH, CLASSES)

    def products() -> float:
        for i in range(STEPS):
            batch = rows[i * BATCH : (i + 1) * BATCH]
            _ = batch @ weight.T
            _ = above.T @ batch
        return 0.0

    return {"DataLoader over a TensorDataset": dataloader, "products": products}


def keras_peers(x: np.ndarray, labels: np.ndarray) -> dict[str, Epoch]:
    import keras
    import tensorflow as tf

    def compiled() -> keras.Model:
        # https://keras.io/guides/training_with_built_in_methods/
        model = keras.Sequential([keras.Input((COLUMNS,)), keras.layers.Dense(CLASSES)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.AdamW(LR), loss, metrics=["accuracy"])
        return model

    on_arrays, on_data = compiled(), compiled()
    data = tf.data.Dataset.from_tensor_slices((x, labels)).shuffle(1024).batch(BATCH)
    data = data.prefetch(tf.data.AUTOTUNE)
    rows = tf.constant(x)
    # No zeros or ones: TensorFlow knows what comes of these, and multiplies nothing.
    weight, above = tf.random.normal((CLASSES, COLUMNS)), tf.random.normal((BATCH, CLASSES))

    @tf.function
    def multiply() -> Any:
        total = tf.zeros(())
        for i in tf.range(STEPS):
            batch = rows[i * BATCH : (i + 1) * BATCH]
            forward = tf.matmul(batch, weight, transpose_b=True)
            backward = tf.matmul(above, batch, transpose_a=True)
            total += forward[0, 0] + backward[0, 0]  # else nothing would be computed
        return total

    return {
        "fit on arrays": lambda: float(on_arrays.fit(x, labels, BATCH, verbose=0).history["loss"][0]),
        "fit on tf.data": lambda: float(on_data.fit(data, verbose=0).history["loss"][0]),
        "products": lambda: float(multiply()),
    }


def jax_peers(x: np.ndarray, labels: np.ndarray) -> dict[str, Epoch]:
    import jax
    import jax.numpy as jnp
    import optax

    rows, targets = jnp.asarray(x), jnp.asarray(labels)
    rule = optax.adamw(LR)
    # https://docs.jax.dev/en/latest/notebooks/neural_network_with_tfds_data.html, with optax for the update
    params = {"w": jnp.zeros((COLUMNS, CLASSES)), "b": jnp.zeros(CLASSES)}
    state = [params, rule.init(params)]

    def loss_of(params: Any, inputs: jax.Array, y: jax.Array) -> jax.Array:
        logits = inputs @ params["w"] + params["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def update(params: Any, moments: Any, inputs: jax.Array, y: jax.Array) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(params, inputs, y)
        updates, moments = rule.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    rng = np.random.default_rng(0)

    def loop() -> float:
        order = rng.permutation(SAMPLES)
        losses = []
        for i in range(STEPS):
            batch = order[i * BATCH : (i + 1) * BATCH]
            state[0], state[1], loss = update(*state, rows[batch], targets[batch])
            losses.append(loss)
        return float(np.mean(jax.block_until_ready(losses)))

    @jax.jit
    def multiply(weight: jax.Array, above: jax.Array) -> jax.Array:
        def step(total: jax.Array, batch: jax.Array) -> tuple[jax.Array, None]:
            return total + (batch @ weight.T)[0, 0] + (above.T @ batch)[0, 0], None

        batches = rows[: STEPS * BATCH].reshape(STEPS, BATCH, COLUMNS)
        return jax.lax.scan(step, jnp.zeros(()), batches)[0]

    weight, above = jnp.zeros((CLASSES, COLUMNS)), jnp.ones((BATCH, CLASSES))
    return {"a jitted loop": loop, "products": lambda: float(multiply(weight, above))}


def sklearn_peers(x: np.ndarray, labels: np.ndarray) -> dict[str, Epoch]:
    from sklearn.linear_model import SGDClassifier

    classifier = SGDClassifier(loss="log_loss")

    def epoch() -> float:
        classifier.partial_fit(x, labels, classes=np.arange(CLASSES))
        return -float(classifier.score(x[:1000], labels[:1000]))

    return {"scikit-learn SGDClassifier": epoch}


PEERS = {"torch": torch_peers, "keras": keras_peers, "jax": jax_peers}


class Peers:
    """The epochs of one framework, ours among them, by what they are called."""

    def __init__(self, name: str) -> None:
        self.name = name
        x, labels = made()
        self.epochs: dict[str, Epoch] = {"headstart": Ours(name, x, labels), **PEERS[name](x, labels)}
        if name == "torch":
            self.epochs |= sklearn_peers(x, labels)

    def run(self, which: str) -> float:
        return self.epochs[which]()

    def names(self) -> list[str]:
        return [peer for peer in self.epochs if peer != "headstart"]

    def facts(self) -> dict[str, Any]:
        return facts_of(registry.load(self.name))


if __name__ == "__main__":
    serve(lambda: Peers(sys.argv[1]))
