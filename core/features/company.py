"""Checks that a wrapped module's features of a sample do not depend on the other samples in its batch.

`wrap` checks that with two samples, which are made up if no others are at hand. A module that branches on the
values of a batch shows it on real samples only, so real ones are tried before features are stored. The zoo's
trunks are known graphs, and need no check. What is trained on images is checked before its first step
(`training.company`).

Invariant: a row is stored only if the trunk gave it for its sample in batches of two sizes and orders, and stored
rows are served only after a few of them were computed again by this very module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from headstart.common.errors import SettingError
from headstart.contract.alike import allowed_among, excess
from headstart.contract.recipe import Place
from headstart.data.loader import Batch
from headstart.data.rows import each, pad
from headstart.graph import Graph, NativePart
from headstart.models import Model
from headstart.store.feature_folder import FeatureFolder

GROUP, APART = 16, 6  # so many samples are run together, and so many of them apart

Run = Callable[[Batch], Mapping[str, np.ndarray]]


def check_company(
    batch: Batch,
    run: Callable[[Any], Mapping[str, np.ndarray]],
    place: Place,
    size: int | None = None,
    apart: int = APART,
    graph: Graph | None = None,
) -> Mapping[str, np.ndarray]:
    """What `run` gives for a batch; SettingError where what is computed for a sample depends on the others in it.

    `batch`: real samples. They are run together, and `apart` of them without the others. `run`: runs a batch (an
    array, or a dict of arrays); returns node -> rows. `size`: rows of a run, where code is compiled for one shape:
    batches are filled up with zeros. None: a sample without the others is run in a batch of two. `graph`: what is
    run; its modules may compute in coarser numbers than float32.
    """
    parts = [node.attrs["part"] for node in graph.nodes if node.op == "native"] if graph is not None else []
    allowed = allowed_among(place, parts)
    inputs = batch.images if size is None else pad(batch.images, size)
    together = run(inputs)
    for k in _apart(batch, apart):
        alone, at = (_beside_nothing(inputs, k), 1) if size is None else (_without_others(inputs, k), k)
        for node, rows in run(alone).items():
            a, b = together[node][k].astype(np.float64), rows[at].astype(np.float64)
            if not np.isfinite(a).all() and not np.isfinite(b).all():
                continue  # other checks have better words for it
            if (worst := excess(a, b, allowed)) is not None:
                scale = float(np.abs(a).max(initial=0.0))
                raise SettingError(
                    f"what the wrapped module gives for sample {batch.ids[k]} at {node!r} depends on what else is "
                    f"in its batch: beside {len(batch.ids) - 1} others and beside none it differs by {worst:.3g} "
                    f"(of at most {scale:.3g}), so neither features nor predictions would be the sample's own. "
                    "Look for a branch on the values of a batch, for statistics of the batch"
                )
    return together


def _beside_nothing(inputs: Any, k: int) -> Any:
    return each(lambda array: np.stack([np.zeros_like(array[k]), array[k]]), inputs)


def _without_others(inputs: Any, k: int) -> Any:
    def emptied(array: np.ndarray) -> np.ndarray:
        rows = np.zeros_like(array)
        rows[k] = array[k]
        return rows

    return each(emptied, inputs)


def _apart(batch: Batch, count: int) -> list[int]:
    """Which samples of a batch are run without the others: those with the smallest and the largest numbers, on
    which branches depend, and some more."""
    arrays = list(batch.images.values()) if isinstance(batch.images, dict) else [batch.images]
    flat = np.concatenate([array.reshape(len(array), -1).astype(np.float32) for array in arrays], axis=1)
    order = np.lexsort((flat.mean(axis=1), flat.max(axis=1))).tolist()
    others = np.random.default_rng().permutation(len(order)).tolist()
    return list(dict.fromkeys([order[0], order[-1], *order[1:2], *order[-2:-1], *others]))[:count]


def check_unchanged(model: Model, node: str) -> None:
    """SettingError where what a wrapped trunk's code looks up, or the code, has changed since it was wrapped. The
    trunk would now compute other features than its key says."""
    if not (parts := _parts(model, node)):
        return
    from headstart.models.structure import structure_of  # here: the zoo's trunks have none

    for part in parts:
        told = structure_of(part.structure)
        if told is not None and (lookup := told.changed) is not None:
            raise SettingError(
                f"{lookup.difference(model.name)}: its trunk computes something else than the key of its features "
                "says. Call hs.wrap again"
            )


_trusted: WeakKeyDictionary[NativePart, set[str]] = WeakKeyDictionary()


def is_trusted(model: Model, node: str, folder: FeatureFolder) -> bool:
    """Whether stored rows of a wrapped trunk were found right for this very module, in this process. The module
    may differ from the one that made them in ways that no key can hold. True for the zoo's trunks."""
    return all(folder.key.digest in _trusted.get(part, ()) for part in _parts(model, node))


def note_trusted(model: Model, node: str, folder: FeatureFolder) -> None:
    """Note that stored rows were found right for this very module."""
    for part in _parts(model, node):
        _trusted.setdefault(part, set()).add(folder.key.digest)


def _parts(model: Model, node: str) -> list[NativePart]:
    return [n.attrs["part"] for n in model.graph.upto(node).nodes if n.op == "native"] if model.home else []
