"""What dropout and stochastic depth drop in training: the same numbers in every framework.

A framework's own generator draws other masks than the next one's, and goes on from a state that has to be kept.
Here a mask is computed from what is known anyway: the recipe's seed, the node's name, the number of the step, and
where an element stands in the batch. A backend computes it on its device in 32-bit integers, whose products wrap
around everywhere alike. The functions below are what it has to give, in numpy.

* `mixed` is a bijection of 32 bits, Chris Wellons's lowbias32, of the smallest known bias of its form
  (https://nullprogram.com/blog/2018/07/31/): two multiplications and three shifts, without signs.
* The number of the step and those of samples and elements are mixed before they meet, and each meeting is mixed
  again: a step's mask is no earlier one's shifted along, nor is a layer's another's.
* Elements are most of the work. What meets in one is mixed already, so that the middle of `mixed` is enough.
* What is drawn is compared as a signed number, which all frameworks have.

Invariant: masks do not depend on how many samples the batch has, on the precision, or on the memory's layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np

FIRST, SECOND = 0x7FEB352D, 0x846CA68B - (1 << 32)
"""the factors of `mixed`, as int32"""
SHIFTS = (16, 15, 16)
"""before the first of them, between, and behind the second"""
AT_ONCE = 1 << 15
"""numbers that are drawn at a time: 128 kB"""
DROPS = ("dropout", "drop_path")
"""the ops"""


def key_of(seed: int, name: str) -> int:
    """The key, an int32, of the node of this name."""
    return int.from_bytes(blake2b(f"{seed}/{name}".encode(), digest_size=4).digest(), "little", signed=True)


def threshold_of(rate: float) -> int:
    """What a number is kept from, an int32: so many of all are below."""
    return min(round(rate * 2**32) - 2**31, 2**31 - 1)


def scale_of(rate: float) -> float:
    """What is kept is multiplied by this."""
    return 1 / (1 - rate) if rate < 1 else 0.0


def mixed(x: np.ndarray) -> np.ndarray:
    """uint32 -> uint32, of the same shape."""
    before, _, behind = SHIFTS
    return _shift(_mix(_shift(x.copy(), before)), behind)


def of_samples(key: int, step: int, count: int, steps: int = 1) -> np.ndarray:
    """uint32 `(steps, count)`: of each sample of a step's batch, from 0, in this step and the next ones."""
    numbers = np.arange(step, step + steps).astype(np.uint32)
    of_step = mixed(_number(key) ^ mixed(numbers))
    return mixed(of_step[:, None] ^ _counted(count))


def factors(op: str, rate: float, seed: int, name: str, step: int, shape: Sequence[int]) -> np.ndarray:
    """float32: what a node, of an op of `DROPS`, multiplies a batch of this shape by in a training's step `step`,
    from 0; of `drop_path`, whose samples are kept or dropped as a whole, `(n, 1, ...)`."""
    count, *sides = shape
    (samples,) = of_samples(key_of(seed, name), step, count)
    if op == "drop_path":
        return of_sample_factors(samples, rate).reshape(count, *[1] * len(sides))
    return ElementFactors(int(np.prod(sides)), rate)(samples).reshape(shape)


def of_sample_factors(samples: np.ndarray, rate: float) -> np.ndarray:
    """float32 `(n,)`: what each sample is multiplied by, by what was drawn for it."""
    return _factors(samples, rate, np.empty(samples.shape, np.float32))


class ElementFactors:
    """What each of a sample's numbers is multiplied by, in the order of the op table's shapes. The memory that it
    takes is kept from one batch to the next: fresh pages take longer than all that is computed in them."""

    def __init__(self, size: int, rate: float) -> None:
        self.size, self.rate = size, rate
        self.counted = _counted(size)
        self.found = np.empty((0, size), np.float32)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """What was drawn for the samples, uint32 `(n,)` -> float32 `(n, size)`, to be used before the next call.
        A few samples at a time: numbers in a processor's own cache are drawn several times as fast."""
        if len(samples) > len(self.found):
            self.found = np.empty((len(samples), self.size), np.float32)
            self.drawn, self.shifted = np.empty((2, min(len(samples), self._rows), self.size), np.uint32)
        for start in range(0, len(samples), self._rows):
            some = samples[start : start + self._rows, None]
            drawn = np.bitwise_xor(some, self.counted, out=self.drawn[: len(some)])
            _factors(_mix(drawn, self.shifted[: len(some)]), self.rate, self.found[start : start + len(some)])
        return self.found[: len(samples)]

    @property
    def _rows(self) -> int:
        return max(1, AT_ONCE // max(1, self.size))


def _factors(drawn: np.ndarray, rate: float, found: np.ndarray) -> np.ndarray:
    """Into `found`, float32 of the same shape."""
    kept = drawn.view(np.int32) >= np.int32(threshold_of(rate))
    np.multiply(kept, np.float32(scale_of(rate)), out=found)
    return found


@lru_cache(4)
def _counted(count: int) -> np.ndarray:
    """0, 1, ..., mixed: the same in each step."""
    counted = mixed(np.arange(count, dtype=np.uint32))
    counted.flags.writeable = False
    return counted


def _mix(x: np.ndarray, shifted: np.ndarray | None = None) -> np.ndarray:
    """The middle of `mixed`, in place. `shifted`: memory of the same shape."""
    x *= _number(FIRST)
    x = _shift(x, SHIFTS[1], shifted)
    x *= _number(SECOND)
    return x


def _shift(x: np.ndarray, by: int, shifted: np.ndarray | None = None) -> np.ndarray:
    x ^= np.right_shift(x, np.uint32(by), out=shifted)
    return x


def _number(value: int) -> np.ndarray:
    """As uint32 `(1,)`: what a lone number of numpy's wraps around it warns of."""
    return np.array([value & 0xFFFFFFFF], np.uint32)
