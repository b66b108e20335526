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
AT_ONCE = 1 << 14
"""numbers that are drawn at a time: 64 kB, which the system's memory allocator has at hand as well"""
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


def of_samples(key: int, step: int, count: int) -> np.ndarray:
    """uint32 `(count,)`: of each sample of the step's batch, from 0."""
    of_step = mixed(_number(key) ^ mixed(_number(step)))
    return mixed(of_step ^ _counted(count))


def of_elements(samples: np.ndarray, size: int) -> np.ndarray:
    """uint32 `(n, size)`: of each of a sample's numbers, in the order of the op table's shapes."""
    return _mix(samples[:, None] ^ _counted(size))


def factors(op: str, rate: float, seed: int, name: str, step: int, shape: Sequence[int]) -> np.ndarray:
    """float32: what a node, of an op of `DROPS`, multiplies a batch of this shape by in a training's step `step`,
    from 0; of `drop_path`, whose samples are kept or dropped as a whole, `(n, 1, ...)`."""
    count, *sides = shape
    samples = of_samples(key_of(seed, name), step, count)
    if op == "drop_path":
        return of_sample_factors(samples, rate).reshape(count, *[1] * len(sides))
    return of_element_factors(samples, int(np.prod(sides)), rate).reshape(shape)


def of_sample_factors(samples: np.ndarray, rate: float) -> np.ndarray:
    """float32 `(n,)`: what each sample is multiplied by, by what was drawn for it."""
    return _factors(samples, rate, np.empty(samples.shape, np.float32))


def of_element_factors(samples: np.ndarray, size: int, rate: float) -> np.ndarray:
    """float32 `(n, size)`: what each of a sample's numbers is multiplied by. A few samples at a time: numbers in a
    processor's own cache are drawn several times as fast."""
    found = np.empty((len(samples), size), np.float32)
    rows = max(1, AT_ONCE // max(1, size))
    for start in range(0, len(samples), rows):
        some = slice(start, start + rows)
        _factors(of_elements(samples[some], size), rate, found[some])
    return found


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


def _mix(x: np.ndarray) -> np.ndarray:
    """The middle of `mixed`, in place: fresh memory takes longer than what is written to it."""
    x *= _number(FIRST)
    x = _shift(x, SHIFTS[1])
    x *= _number(SECOND)
    return x


def _shift(x: np.ndarray, by: int) -> np.ndarray:
    x ^= x >> np.uint32(by)
    return x


def _number(value: int) -> np.ndarray:
    """As uint32 `(1,)`: what a lone number of numpy's wraps around it warns of."""
    return np.array([value & 0xFFFFFFFF], np.uint32)
