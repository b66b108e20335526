"""A program that trains again and again needs no more memory for it."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

import headstart as hs
from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Place, Recipe

pytestmark = pytest.mark.usefixtures("own_garbage")

WARM, MORE = 3, 2
# JAX keeps a few things of each program that it compiles, up to a number; what a training makes is thousands.
OBJECTS = 400


def test_training_again_keeps_nothing(backend: str, tmp_path: Path) -> None:
    model = hs.model("lenet", classes=10, size=32)
    features = hs.extract(model, hs.data.digits().subset(np.arange(16)), backend=backend, cache=tmp_path)
    counts = []
    for i in range(WARM + MORE):
        hs.fit(model, features, epochs=1, batch_size=8, backend=backend, device="cpu")
        if i >= WARM - 1:
            gc.collect()
            counts.append(len(gc.get_objects()))
    assert counts[-1] - counts[0] < OBJECTS * MORE, counts


@pytest.mark.of("keras")
def test_what_is_traced_again_is_not_kept(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    """TensorFlow keeps gradients that are functions, for ever, and warns of functions that are traced again."""
    import keras
    import tensorflow as tf
    from tensorflow.python.framework import ops

    from headstart.backends.keras.train import TensorFlowTrainer

    x = keras.Input((5,))
    net = keras.Model(x, keras.layers.Dense(3)(keras.ops.silu(keras.layers.Dense(4, "silu")(x))))
    model = hs.wrap(net)
    rows, place = np.ones((2, 5), np.float32), Place("cpu", "float32")
    registered = len(ops.gradient_registry.list())
    tf.get_logger().addHandler(caplog.handler)
    try:
        for _ in range(5):
            registry.load(backend).trunk(model.graph.upto("trunk"), model.params, ["trunk"], place).run(rows)
        for _ in range(2):
            trainer = TensorFlowTrainer(
                model.graph, model.params, Recipe(hs.SGD(lr=0.1), Softmax(), True, 0), place
            )
            trainer.step(rows, np.zeros(2, np.int64), 0.1)
    finally:
        tf.get_logger().removeHandler(caplog.handler)
    assert len(ops.gradient_registry.list()) == registered
    assert not [message for message in caplog.messages if "retracing" in message]
    assert keras.src.backend.nn.silu.__module__.startswith("keras."), "outside it is Keras's own"
