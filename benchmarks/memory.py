"""How much memory a process holds at the most, in a process of its own: `memory.py BACKEND` reads a request a line
and answers a line, both JSON, one request a process: what one has freed, another would take again.

{"do": "precisions"}               what extraction is measured in: see `children.precisions_of`
{"do": "extract", "photographs": DIR, "images": N, "cache": DIR, "precision": NAME}   features of the first
                                   photographs, null for all, by a ResNet-50
{"do": "epochs", "cache": DIR}     a linear head trained on the features that `write_features` has put there

The answer tells `base`, held before, with the framework there and its device looked for; `peak`; and facts.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
from children import facts_of, precisions_of, serve

import headstart as hs
from headstart.contract import registry
from headstart.data.annotations import single
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.features.trunk_keys import key_of
from headstart.models import Model
from headstart.store import FeatureStore, array_to_ids

BATCH, CUT = 32, "avgpool"
ROWS, COLUMNS, CLASSES = 200_000, 2048, 10
BLOCK = 4096
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def held(what: str) -> int:
    """Bytes that this process holds ("VmRSS"), or held at the most ("VmHWM")."""
    if STATUS.exists():
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{what}:"))
        return int(line.split()[1]) << 10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def forget_the_peak() -> None:
    """What was held while frameworks were imported is not asked for. Where it cannot be forgotten, it counts."""
    if RESET.exists():
        RESET.write_text("5")


def begin(backend: str) -> int:
    """Import the framework, and tell what is held then."""
    registry.load(backend).place("auto", "float32")
    forget_the_peak()
    return held("VmRSS")


def model_of(classes: Any) -> Model:
    return hs.model("resnet50", classes=classes)


def features_in(cache: str | Path, model: Model) -> FeatureSet:
    """`ROWS` features as the model's trunk would give them, there or not."""
    ids = array_to_ids(np.random.default_rng(0).integers(0, 256, (ROWS, 16), np.uint8))
    folder = FeatureStore(cache).folder(key_of(model, CUT, precision="float32", dtype="float16"))
    stats = ExtractionStats(0, ROWS, 0.0, ())
    return FeatureSet("noise", ids, single(np.arange(ROWS) % CLASSES, model.classes), {CUT: [folder]}, stats)


def write_features(cache: Path) -> None:
    """Noise in which ten columns tell the classes."""
    features = features_in(cache, model_of(CLASSES))
    noise = np.random.default_rng(0).standard_normal((BLOCK, COLUMNS)).astype(np.float16)
    with features.folder(CUT).writer((COLUMNS,), "float16", {}) as out:
        for start in range(0, ROWS, BLOCK):
            labels = features.labels[start : start + BLOCK]
            block = noise[: len(labels)].copy()
            block[np.arange(len(block)), labels] += 3
            out.add(features.ids[start : start + BLOCK], block)


class Memory:
    """What a process that uses one framework holds at the most."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def precisions(self) -> list[str]:
        return precisions_of(registry.load(self.backend))

    def extract(self, photographs: str, images: int | None, cache: str, precision: str) -> dict[str, Any]:
        data = hs.data.folder(photographs)
        data = data.subset(range(min(len(data), images or len(data))))
        base = begin(self.backend)
        model = model_of(data.classes)
        features = hs.extract(
            model, data, CUT, backend=self.backend, batch_size=BATCH, cache=cache, precision=precision
        )
        peak = held("VmHWM")
        assert features.stats.extracted == len(set(data.ids)) and np.isfinite(features.numpy()).all()
        return self._facts(base, peak, images=len(data), shape=[*features.shape()])

    def epochs(self, cache: str) -> dict[str, Any]:
        model = model_of(CLASSES)
        features = features_in(cache, model)
        base = begin(self.backend)
        run = hs.fit(model, features, mode="cached", cut=CUT, epochs=3, batch_size=256, backend=self.backend)
        peak = held("VmHWM")
        return self._facts(
            base,
            peak,
            nbytes=features.nbytes(),
            where=run.settings["features"]["where"],
            losses=[record.loss for record in run.history],
        )

    def _facts(self, base: int, peak: int, **more: Any) -> dict[str, Any]:
        """`base`, `peak`: what was held before and at the most, in bytes."""
        return facts_of(registry.load(self.backend), base=base, peak=peak, **more)


if __name__ == "__main__":
    serve(lambda: Memory(sys.argv[1]))
