"""Sample ids in their two forms: 32 hex digits for people and dictionaries, 16 raw bytes for everything else.

An id is the digest of a sample's encoded source bytes; it alone joins features with labels. The raw form lets
numpy compare and sort a million of them at once. Invariant: the two forms map to each other one to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.common.errors import SettingError

ID_NBYTES = 16


def ids_to_array(ids: Sequence[str] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Raw bytes of the ids, `(n, 16)` uint8; such an array is returned as it is. SettingError names the first that
    is not 32 hex digits."""
    if isinstance(ids, np.ndarray):
        if ids.dtype != np.uint8 or ids.ndim != 2 or ids.shape[1] != ID_NBYTES:
            raise SettingError(f"sample ids are {ids.dtype} of shape {ids.shape}; expected uint8 (n, {ID_NBYTES})")
        return ids
    if isinstance(ids, str):
        raise SettingError(f"sample ids come as a sequence of strings, received one string {ids!r}")
    try:
        raw = bytes.fromhex("".join(ids))
    except (TypeError, ValueError):
        raw = b""
    # Both tests are needed: two wrong lengths may add up to a right one, and fromhex skips white space.
    if len(raw) != ID_NBYTES * len(ids) or any(len(id) != 2 * ID_NBYTES for id in ids):
        bad = next((i for i, id in enumerate(ids) if not _is_id(id)), 0)
        raise SettingError(f"sample id {ids[bad]!r} (number {bad}) is not 32 hex digits")
    return np.frombuffer(raw, np.uint8).reshape(len(ids), ID_NBYTES)


def array_to_ids(array: NDArray[np.uint8]) -> list[str]:
    """The ids, as 32 hex digits each, of an `(n, 16)` uint8 array."""
    text = array.tobytes().hex()
    return [text[i : i + 2 * ID_NBYTES] for i in range(0, len(text), 2 * ID_NBYTES)]


def sort_keys(array: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """An `(n, 16)` uint8 array of ids as `(n,)` fixed strings of 16 bytes, which numpy sorts and searches.

    numpy ignores trailing zero bytes when it compares such strings; as all are 16 bytes long, two are equal
    just when all their bytes are.
    """
    return np.ascontiguousarray(array).reshape(-1).view(f"S{ID_NBYTES}")


def _is_id(id: Any) -> bool:
    if not isinstance(id, str) or len(id) != 2 * ID_NBYTES:
        return False
    return all(digit in "0123456789abcdefABCDEF" for digit in id)
