"""What tests of wrapped modules hold headstart's numbers beside is computed with the framework itself."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from headstart.contract import registry


@pytest.fixture(autouse=True)
def _all_bits() -> Iterator[None]:
    """In float32, also on a GPU, where JAX multiplies in TF32 unless it is told otherwise. headstart hears nothing
    of it: a caller's settings do not hold in there."""
    if os.environ.get(registry.VARIABLE) != "jax":
        yield
        return
    import jax

    with jax.default_matmul_precision("highest"):
        yield
