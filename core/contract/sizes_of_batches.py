"""Whether what a user's own module gives for a sample is the same in batches of every size that it is run at.

`wrap` looks at batches of one and of two samples. A branch on the number of samples (`if len(x) > 8`), padding to
multiples, statistics of the batch may come to something else at the sizes that are run later, which differ between
an extraction, an epoch and a prediction of one picture, and stand in no key.

Invariant: the first batch of a size goes out only if two of its samples have the same values in a batch of two. It
is looked at once for a module, size and place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from headstart.common.errors import SettingError
from headstart.contract.alike import allowed_among, excess
from headstart.contract.recipe import Place
from headstart.data.rows import count, window
from headstart.graph import Graph, NativePart

SEEN_BY_WRAP = 2
"""samples in its largest batch"""
STORED = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
"""what rows lose that leave a device in such numbers"""

_alike: WeakKeyDictionary[NativePart, set[tuple[int, Place]]] = WeakKeyDictionary()


class Sizes:
    """Of the batches of one trunk."""

    def __init__(self, graph: Graph, place: Place) -> None:
        self.place = place
        self.parts = [node.attrs["part"] for node in graph.nodes if node.op == "native"]

    def pair(self, batch: Any) -> Any:
        """Two samples of a batch that is the first of its size; None where nothing is to be looked at."""
        size = (count(batch), self.place)
        if size[0] <= SEEN_BY_WRAP or all(size in _alike.get(part, ()) for part in self.parts):
            return None
        return window(batch, 0, SEEN_BY_WRAP)

    def check(self, size: int, pair: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]) -> None:
        """SettingError where the first two rows of a batch of `size` are others than those of the batch of two."""
        allowed = allowed_among(self.place, self.parts)
        for node, whole in rows.items():
            allowed_here = max(allowed, STORED.get(whole.dtype.name, 0.0))
            for alone, among in zip(pair[node], whole[:SEEN_BY_WRAP], strict=True):
                a, b = alone.astype(np.float64), among.astype(np.float64)
                if not np.isfinite(a).all() and not np.isfinite(b).all():
                    continue  # other checks have better words for it
                worst = excess(a, b, allowed_here) if a.shape == b.shape else np.inf
                if worst is not None:
                    raise SettingError(_differs(node, size, worst, float(np.abs(a).max(initial=0.0))))
        for part in self.parts:
            _alike.setdefault(part, set()).add((size, self.place))


def _differs(node: str, size: int, worst: float, scale: float) -> str:
    return (
        f"what the wrapped module gives for a sample at {node!r} depends on what else is in its batch, or on how "
        f"much: in a batch of {size} and in one of {SEEN_BY_WRAP} it differs by {worst:.3g} (of at most "
        f"{scale:.3g}), so neither features nor predictions would be the sample's own. Look for a branch on the "
        "number of samples (`if len(x) > 8`) or on the values of a batch, for statistics of the batch"
    )
