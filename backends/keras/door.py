"""What a caller may have set in Keras and its engine for all of a program: another floatx, dtype policy or order
of axes, functions that run eagerly. Nothing of it holds in here, and all of it holds again outside.

Invariant: what a backend's method gives depends on its arguments alone.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock
from typing import Any

from keras import backend, config
from keras.src.backend import nn
from keras.src.backend.common import global_state

from headstart.backends.keras.layers import silu
from headstart.common import settled as doors

# of Keras's settings: how each is read and set, and what it is in here
SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], None], Any], ...] = (
    (config.floatx, config.set_floatx, "float32"),
    (config.image_data_format, config.set_image_data_format, "channels_last"),
    (config.epsilon, config.set_epsilon, 1e-7),
)
POLICY = "float32"
ENGINE = backend.backend()
# Whatever engine Keras runs on, TensorFlow may be imported and keep a setting of its own.
engine_door: Callable[[], AbstractContextManager[Any]] | None = (
    importlib.import_module(f"headstart.backends.doors.{ENGINE}").door if ENGINE in ("jax", "torch") else None
)


SILU = nn.silu
lock, inside = Lock(), 0


@contextmanager
def _plain_silu() -> Iterator[None]:
    """What is traced in here calls ours, until the last thread has left."""
    global inside
    with lock:
        inside += 1
        nn.silu = silu
    try:
        yield
    finally:
        with lock:
            inside -= 1
            if not inside:
                nn.silu = SILU


@contextmanager
def door() -> Iterator[None]:
    """Keras's own settings, and its engine's."""
    with ExitStack() as stack:
        if engine_door is not None:
            stack.enter_context(engine_door())
        policy = global_state.get_global_attribute("dtype_policy")  # None: made of floatx when it is first needed
        if policy is None or policy.name != POLICY:
            stack.callback(global_state.set_global_attribute, "dtype_policy", policy)
            config.set_dtype_policy(POLICY)
        for read, put, ours in SETTINGS:
            if (theirs := read()) != ours:
                stack.callback(put, theirs)
                put(ours)
        if ENGINE == "tensorflow":
            stack.enter_context(_plain_silu())
        tf: Any = sys.modules.get("tensorflow")
        if tf is not None and tf.config.functions_run_eagerly():
            stack.callback(tf.config.run_functions_eagerly, True)
            tf.config.run_functions_eagerly(False)
        yield


settled = functools.partial(doors.settled, door)
behind_door = functools.partial(doors.behind, door)
