"""An epoch on rows that lie on the device, as one `lax.scan` over its batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

Known = tuple[jax.Array, jax.Array | None]
"""samples' targets and weights"""
Result = tuple[jax.Array, jax.Array]
"""of a batch: the losses, and how many samples are right"""
Step = Callable[[Any, Any, Known, jax.Array], tuple[Any, Result]]
"""what it changes, a batch's rows, what is known of its samples, learning rate -> what it changed, the result"""


def whole_epoch(
    step: Step, carry: Any, rows: jax.Array, known: Known, order: jax.Array | None, rates: jax.Array
) -> tuple[Any, Result]:
    """`order`: int32 `(steps, batch)`, or None for rows as they lie. Results are `(steps, ...)`."""
    if order is None:  # batches of rows are what is gone through, instead of batches of their numbers
        batches = jax.tree.map(lambda a: a.reshape(len(rates), -1, *a.shape[1:]), (rows, known))
        return jax.lax.scan(lambda carry, batch: step(carry, *batch), carry, (*batches, rates))
    return jax.lax.scan(
        lambda carry, batch: resident_step(step, carry, rows, known, *batch), carry, (order, rates)
    )


def resident_step(
    step: Step, carry: Any, rows: jax.Array, known: Known, places: jax.Array, rate: jax.Array
) -> tuple[Any, Result]:
    """A step on the rows at `places`."""
    x, known_of_batch = jax.tree.map(lambda a: a[places], (rows, known))
    return step(carry, x, known_of_batch, rate)
