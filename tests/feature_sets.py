"""Feature sets made by hand, without a trunk: random rows in a store of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.annotations import single
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.store import FeatureFolder, FeatureStore, array_to_ids, open_shard, trunk_key

CLASSES = ("daisy", "rose", "tulip")


def folder_of(root: Path, cut: str, dtype: str, view: int = 0) -> FeatureFolder:
    """Where the features of one cut and view are."""
    key = trunk_key(
        graph=[cut],
        weights_digest="0" * 32,
        preprocess={"size": 224},
        precision="float32",
        dtype=dtype,
        views={"view": view} if view else None,
        label={"model": "tiny", "weights": "random", "cut": cut},
    )
    return FeatureStore(root).folder(key)


def some_ids(count: int, seed: int = 0) -> list[str]:
    return array_to_ids(np.random.default_rng(seed).integers(0, 256, (count, 16), dtype=np.uint8))


def made(
    root: Path,
    shapes: dict[str, tuple[int, ...]] | None = None,
    *,
    ids: Sequence[str] | None = None,
    labels: Any = None,
    dtype: str = "float16",
    views: int = 1,
    makers: Sequence[str] = ("numpy",),
) -> FeatureSet:
    """Features at the cuts `shapes`, in as many shards as there are makers. The third sample is the first one's
    double."""
    ids = some_ids(21) if ids is None else list(ids)
    ids[2] = ids[0]
    distinct = list(dict.fromkeys(ids))
    folders = {}
    rng = np.random.default_rng(1)
    for cut, shape in (shapes or {"pool": (3, 5, 4)}).items():
        folders[cut] = [folder_of(root, cut, dtype, view) for view in range(views)]
        for folder in folders[cut]:
            rows = rng.normal(size=(len(distinct), *shape)).astype(np.float32)
            if dtype == "uint8":
                rows = rng.integers(0, 256, rows.shape, np.uint8)
            for maker, part in zip(makers, np.array_split(np.arange(len(distinct)), len(makers)), strict=True):
                with folder.writer(shape, dtype, {"backend": maker}) as writer:
                    writer.add([distinct[i] for i in part], rows[part])
    if labels is None:
        labels = np.arange(len(ids)) % len(CLASSES)
    stats = ExtractionStats(len(distinct), 0, 0.0, tuple(sorted(makers)))
    return FeatureSet("flowers", ids, single(labels, CLASSES), folders, stats)


def damage(features: FeatureSet, row: int) -> Path:
    """Flip a bit of one stored row, and return its shard's path."""
    path = next(features.folder(features.cuts[0]).path.glob("*.safetensors"))
    shard = open_shard(path)
    data = bytearray(path.read_bytes())
    data[shard.data_start + row * shard.row_nbytes] ^= 1
    path.write_bytes(data)
    return path
