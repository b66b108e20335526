"""JAX's own profiler, with its trace where TensorBoard's profile plugin looks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from headstart.common.errors import ProfileError


@contextmanager
def profile(folder: Path) -> Iterator[None]:
    """Write `plugins/profile/<time>/<host>.xplane.pb`, without Python's own calls, which would be most of it."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    try:
        jax.profiler.start_trace(str(folder), profiler_options=options)
    except RuntimeError as error:
        raise ProfileError("jax", str(error)) from error
    try:
        yield
    finally:
        jax.profiler.stop_trace()
