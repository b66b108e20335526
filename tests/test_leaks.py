"""A program that trains again and again needs no more memory for it."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np

import headstart as hs

WARM, MORE = 3, 2
# JAX keeps a few things of each program that it compiles, up to a number; what a training makes is thousands.
OBJECTS = 400


def test_training_again_keeps_nothing(backend: str, tmp_path: Path) -> None:
    model = hs.model("lenet", classes=10, size=32)
    features = hs.extract(model, hs.data.digits().subset(np.arange(16)), backend=backend, cache=tmp_path)
    counts = []
    for i in range(WARM + MORE):
        hs.fit(model, features, epochs=1, batch_size=8, backend=backend, device="cpu")
        if i >= WARM - 1:
            gc.collect()
            counts.append(len(gc.get_objects()))
    assert counts[-1] - counts[0] < OBJECTS * MORE, counts
