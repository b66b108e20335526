"""Figures of each sample as text, in which a run's JSON holds them: short enough for many samples.

Texts may come from anywhere: one that does not hold what it should is read as None.
"""

from __future__ import annotations

import base64

import numpy as np


def bits_text(bits: np.ndarray) -> str:
    """bool `(n,)` as base64, eight samples a byte."""
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def bits_of(text: str, count: int) -> np.ndarray | None:
    """The inverse of `bits_text`; None where the text does not hold `count` bits."""
    packed = _decoded(text, np.dtype(np.uint8))
    if packed is None or not count or len(packed) != -(-count // 8):
        return None
    return np.unpackbits(packed, count=count).astype(bool)


def numbers_text(numbers: np.ndarray) -> str:
    """float `(n,)` or `(n, m)` as base64 of little-endian float32, a row after the other."""
    return base64.b64encode(numbers.astype("<f4").tobytes()).decode()


def numbers_of(text: str, count: int, columns: int) -> np.ndarray | None:
    """The inverse of `numbers_text`, as float64 `(count, columns)`; None where the text does not hold so many
    numbers, or such as are negative or not finite."""
    numbers = _decoded(text, np.dtype("<f4"))
    if numbers is None or not count or len(numbers) != count * columns:
        return None
    rows = numbers.astype(np.float64).reshape(count, columns)
    return rows if np.isfinite(rows).all() and (rows >= 0).all() else None


def weights_of_text(text: str, count: int) -> np.ndarray | None:
    """How much each of `count` samples counts, as `numbers_text` wrote it: float64 `(count,)`; None as of
    `numbers_of`, and where nothing weighs anything."""
    rows = numbers_of(text, count, 1)
    return rows[:, 0] if rows is not None and rows.any() else None


def _decoded(text: str, dtype: np.dtype) -> np.ndarray | None:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype)
    except ValueError:
        return None
