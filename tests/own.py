"""What the tests of users' own models share; the models are in `own_torch`, `own_keras` and `own_jax`."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import headstart as hs
from headstart.data import Dataset, Preprocess
from headstart.features.extractor import Extractor
from headstart.models import Model
from headstart.store.keys import TrunkKey

P = Preprocess(16, 16)
X = np.random.default_rng(1).standard_normal((5, 16, 16, 3)).astype(np.float32)


def wrapped(own: ModuleType, module: Any = None, **settings: Any) -> Model:
    """The framework's small module, cut where it is usually cut."""
    given = own.small() if module is None else module
    return hs.wrap(given, **{"cut": own.CUT, "preprocess": P, "init": own.init, **settings})


def key(model: Model) -> TrunkKey:
    """Of the wrapped trunk's features."""
    settings: dict[str, Any] = {"backend": None, "device": "cpu", "precision": "float32", "dtype": "float32"}
    return Extractor(model, ["trunk"], batch_size=8, workers=1, cache=None, **settings).folders["trunk"][0].key


def fit(model: Model, data: tuple[Dataset, Dataset], cache: Path, **settings: Any) -> Any:
    """`hs.fit`, small."""
    settings = {"epochs": 2, "batch_size": 16, "dtype": "float32", "device": "cpu", "cache": cache, **settings}
    return hs.fit(model, *data, **settings)


def sentences(count: int = 96) -> dict[str, np.ndarray]:
    """Token ids of sentences of differing lengths, and their mask; every second begins with token 7."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(3, 13, count)
    mask = np.arange(12) < lengths[:, None]
    ids = np.where(mask, rng.integers(8, 20, (count, 12)), 0)
    ids[::2, 0] = 7
    return {"ids": ids.astype(np.int32), "mask": mask}
