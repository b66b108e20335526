"""Before features of a wrapped module are kept or served: are they what its trunk gives for real samples, whatever
company these are in?

`wrap` asks that with two samples, made up if nothing better is at hand. What branches on the values of a batch
shows itself on real ones only. The zoo's trunks are known graphs, and are not asked.

Invariant: a row is kept only if the trunk gave it for its sample in batches of two sizes and orders, and a stored
row is served only if a few of its kind were computed again by the very module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from weakref import WeakKeyDictionary

import numpy as np

from headstart.backend import Place
from headstart.data.loader import Batch
from headstart.data.rows import each
from headstart.errors import SettingError
from headstart.features.trunk_folder import TrunkFolder
from headstart.graph import NativePart
from headstart.models import Model

GROUP, APART = 8, 4  # so many samples are run together, and so many of them in pairs
# What sums in another order may move: float32's, the shortened products of a GPU, bfloat16's.
EXACT, GPU, COARSE = 1e-4, 1e-2, 0.05

Run = Callable[[Batch], Mapping[str, np.ndarray]]


def check_company(batch: Batch, run: Callable[[object], Mapping[str, np.ndarray]], place: Place) -> None:
    """SettingError where the features of a sample depend on the others in its batch. `batch`: real samples; `run`:
    a batch as core has it -> node -> features."""
    allowed = COARSE if place.precision != "float32" else EXACT if place.device == "cpu" else GPU
    together = run(batch.images)
    count = min(APART, len(batch.ids))
    for first in range(count):
        second = (first + len(batch.ids) - 1) % len(batch.ids)
        # the last pair is a sample and nothing
        with_zeros = first == count - 1
        pair = each(lambda a: np.stack([a[second], a[first]]), batch.images)  # noqa: B023
        if with_zeros:
            pair = each(lambda a: np.stack([np.zeros_like(a[0]), a[1]]), pair)
        for node, rows in run(pair).items():
            a, b = together[node][first].astype(np.float64), rows[1].astype(np.float64)
            scale = max(float(np.abs(a).max(initial=0.0)), float(np.abs(b).max(initial=0.0)))
            if not (worst := float(np.abs(a - b).max(initial=0.0))) <= allowed * scale:
                raise SettingError(
                    f"the features of sample {batch.ids[first]} at {node!r} depend on what else is in its batch: "
                    f"in a batch of {len(batch.ids)} and in one of 2 they differ by {worst:.3g} (of at most "
                    f"{scale:.3g}), so they cannot be kept. Look for a branch on the values of a batch, for "
                    "statistics of the batch"
                )


_compared: WeakKeyDictionary[NativePart, set[str]] = WeakKeyDictionary()


def is_compared(model: Model, node: str, folder: TrunkFolder) -> bool:
    """Whether stored rows of a wrapped trunk were compared with what this very module gives, which is done once in
    a process: the module may differ from the one that made them in what no key can hold. The zoo's are not
    asked."""
    return all(folder.key.digest in _compared.get(part, ()) for part in _parts(model, node))


def note_compared(model: Model, node: str, folder: TrunkFolder) -> None:
    """They were, and are right."""
    for part in _parts(model, node):
        _compared.setdefault(part, set()).add(folder.key.digest)


def _parts(model: Model, node: str) -> list[NativePart]:
    return [n.attrs["part"] for n in model.graph.upto(node).nodes if n.op == "native"] if model.home else []
