"""Stored features beside what is computed here: a few rows of other makers, and of shared caches, are computed
again before they are used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection

import numpy as np

from headstart.common.errors import FeatureDriftError
from headstart.common.text import share_text
from headstart.data import Dataset
from headstart.data.draws import drawn
from headstart.features.batch_features import BatchFeatures
from headstart.features.company import is_trusted, note_trusted
from headstart.features.distances import distances, wrong_rows
from headstart.features.trunk_keys import INPUT

CHECKED_ROWS = 4
# Two backends' float32 sums differ by about 1e-6; bfloat16 arithmetic by about 1e-2. More is another function.
DRIFT_LIMIT = 0.05


def check_drift(computing: BatchFeatures, data: Dataset, view: int, extracted: Collection[str]) -> bool:
    """Check stored features that another backend, version or device has made, and all features in shared caches: a
    few rows of each maker are computed again, once for each shard. `extracted`: ids of samples that need no check.
    Returns False where shards of shared caches are wrong: they are refused from then on, and their rows missing.

    Raises FeatureDriftError where features of the own cache are wrong.
    """
    reused = np.array([i for i, id in enumerate(data.ids) if id not in extracted], np.int64)
    if not len(reused):
        return True
    right = True
    for node, folders in computing.folders.items():
        folder = folders[view]
        mine = computing.provenance(node)
        by = hashlib.sha256(json.dumps(mine, sort_keys=True).encode()).hexdigest()[:16]
        again = node != INPUT and not is_trusted(computing.model, node, folder)
        unchecked: dict[tuple[bool, str], list[tuple[str, np.ndarray]]] = {}
        for shard, shared, places in folder.sources([data.ids[i] for i in reused]):
            other = (shared or shard.provenance != mine) and not folder.is_checked(shard.path.stem, by)
            if other or again:
                made_by = f"{shard.maker} {str(shard.provenance.get('versions'))[:200]!a}"
                unchecked.setdefault((shared, made_by), []).append((shard.path.stem, reused[places]))
        for (shared, made_by), shards in unchecked.items():
            rows = np.concatenate([places for _, places in shards])
            names = [name for name, _ in shards]
            drift = _drift(computing, data, node, view, rows[drawn(len(rows), CHECKED_ROWS)], made_by)
            if drift is None:
                for name in names:
                    folder.mark_checked(name, by)
            elif shared:
                folder.refuse_shared(names, drift)
                right = False
            else:
                raise FeatureDriftError(
                    f"{folder.path}: {drift}. Extract into another cache (HEADSTART_CACHE), or remove this folder"
                )
        if again:
            note_trusted(computing.model, node, folder)
    return right


def _drift(
    computing: BatchFeatures, data: Dataset, node: str, view: int, sample: np.ndarray, made_by: str
) -> str | None:
    """How the stored rows of these samples differ from what is computed now; None where they do not."""
    folder = computing.folders[node][view]
    for batch, fresh in computing.recomputed(data, node, view, sample):
        stored = folder.read(batch.ids, restore=False)
        if stored.shape != fresh.shape:
            return (
                f"stored rows have the shape {stored.shape[1:]}, and what {computing.provenance(node)['backend']} "
                f"computes here {fresh.shape[1:]}; they were made by {made_by}"
            )
        if wrong_rows(fresh, stored, DRIFT_LIMIT, folder.dtype_name, computing.precision).any():
            far = distances(fresh, stored)
            worst = int(far.argmax())
            return (
                f"the features of {data.source_name(int(batch.indices[worst]))} differ by "
                f"{share_text(far[worst])} from what {computing.provenance(node)['backend']} computes here; they "
                f"were made by {made_by}"
            )
    return None
