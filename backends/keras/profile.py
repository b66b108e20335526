"""The profiler of Keras's engine, with its trace where TensorBoard's profile plugin looks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import keras

from headstart.common.errors import ProfileError
from headstart.contract import registry


def profile(folder: Path) -> AbstractContextManager[None]:
    """On TensorFlow its own profiler; on another engine that one's, as its own backend has it."""
    engine = keras.backend.backend()
    return _tensorflow(folder) if engine == "tensorflow" else registry.load(engine).profile(folder)


@contextmanager
def _tensorflow(folder: Path) -> Iterator[None]:
    """Write `plugins/profile/<time>/<host>.xplane.pb`, without Python's own calls, which would be most of it."""
    import tensorflow as tf

    options = tf.profiler.experimental.ProfilerOptions(python_tracer_level=0)
    try:
        tf.profiler.experimental.start(str(folder), options)
    except tf.errors.OpError as error:
        raise ProfileError("tensorflow", error.message) from error
    try:
        yield
    finally:
        tf.profiler.experimental.stop()
