"""Random numbers that a user's code draws, from torch's global generator, Python's or numpy's.

Invariant: what is run here to look at a module leaves all three as they were.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def undrawn(seed: int) -> Iterator[None]:
    """The generators begin at `seed`, and are afterwards as they were. What draws in inference must not draw the
    same in two runs that are compared: they have different seeds."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


def drawn() -> tuple[Any, ...]:
    """Something that differs as soon as a number was drawn."""
    kind, key, *rest = np.random.get_state()
    return random.getstate(), torch.get_rng_state().numpy().tobytes(), kind, np.asarray(key).tobytes(), *rest
