"""Which samples are looked at where something is checked on a few: drawn from the system's random numbers, so that
whoever wrote a cache, or a module, cannot know it beforehand, and no seed of a training is touched."""

from __future__ import annotations

from random import SystemRandom

import numpy as np
from numpy.typing import NDArray


def drawn(count: int, samples: int) -> NDArray[np.intp]:
    """Which of `count` things to look at, at most `samples`, ascending `(k,)`; nobody can foretell it."""
    return np.array(sorted(SystemRandom().sample(range(count), min(count, samples))), np.intp)
