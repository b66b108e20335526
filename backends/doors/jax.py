"""What a caller may have set in JAX for a program or a thread: 64 bits, strict promotion of dtypes or ranks,
guards of transfers, no compilation, searches for NaN. Nothing of it holds in here, and all of it holds outside.

Invariant: what a backend's method gives depends on its arguments alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax

SIXTY_FOUR = "jax_enable_x64"
# the settings by their names, the context that sets each, and what it is in here
SETTINGS = (
    (SIXTY_FOUR, jax.enable_x64, False),
    ("jax_numpy_rank_promotion", jax.numpy_rank_promotion, "allow"),
    ("jax_numpy_dtype_promotion", jax.numpy_dtype_promotion, "standard"),
    ("jax_default_matmul_precision", jax.default_matmul_precision, None),
    ("jax_disable_jit", jax.disable_jit, False),
    ("jax_debug_nans", jax.debug_nans, False),
    ("jax_debug_infs", jax.debug_infs, False),
)
GUARDS = tuple(
    f"jax_transfer_guard{way}" for way in ("", "_host_to_device", "_device_to_device", "_device_to_host")
)


@contextmanager
def door(wide: bool = False, device: Any = None) -> Iterator[None]:
    """JAX's own settings; with `wide`, 64 bits stay as the caller has them. `device`: the default one in here, if
    it is not JAX's first."""
    config = jax.config
    with ExitStack() as stack:
        if config.jax_default_device != device:
            stack.enter_context(jax.default_device(device))
        for name, context, ours in SETTINGS:
            if getattr(config, name) != ours and not (wide and name == SIXTY_FOUR):
                stack.enter_context(context(ours))
        if any(getattr(config, guard) not in (None, "allow") for guard in GUARDS):
            stack.enter_context(jax.transfer_guard("allow"))
        yield
