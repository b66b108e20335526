"""What a plan predicts, and what then happens, in a process of its own: `planning.py BACKEND PHOTOGRAPHS CACHE`
reads a request a line and answers a line, both JSON.

{"do": "plan"}                      the plan's rows, by cut; nothing has been extracted or compiled before
{"do": "cached", "cut": CUT}        seconds of extraction into an empty cache and of a cached epoch, bytes stored
{"do": "uncached", "cut": CUT}      seconds of an uncached epoch
{"do": "facts"}                     device, threads, versions
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from children import facts_of, serve
from sizes import sized

import headstart as hs
from headstart.contract import registry

MODEL, SIZE, BATCH = "resnet18", sized(128, 160), 32
UNCACHED, CACHED = sized(2, 3), sized(6, 12)
"""epochs, of which the first, in which compilers run, does not count"""


class Setting:
    def __init__(self, name: str, folder: str, cache: str) -> None:
        self.name, self.cache = name, Path(cache)
        data = hs.data.folder(folder)
        self.train, self.val = data.split(0.8, seed=0, by="position")
        self.model = hs.model(MODEL, classes=data.classes, size=SIZE)
        self.common: dict[str, Any] = {"batch_size": BATCH, "backend": name}

    def plan(self) -> dict[str, Any]:
        found = hs.plan(
            self.model, self.train, self.val, **self.common, epochs=UNCACHED, cache=self.cache / "empty"
        )
        return {row["cut"]: row for row in found.table()}

    def cached(self, cut: str) -> dict[str, float]:
        cache = self.cache / cut
        settings = {"cut": cut, "epochs": CACHED, "cache": cache, **self.common}
        run = hs.fit(self.model, self.train, self.val, mode="cached", **settings)
        assert run.extraction is not None and run.extraction.extracted == len(self.train) + len(self.val)
        return {
            "extraction_seconds": run.extraction.seconds,
            "cached_epoch_seconds": run.history.seconds_per_epoch().total,
            "nbytes": sum(path.stat().st_size for path in cache.rglob("*.safetensors")),
        }

    def uncached(self, cut: str) -> dict[str, float]:
        settings = {"cut": cut, "epochs": UNCACHED, **self.common}
        run = hs.fit(self.model, self.train, self.val, mode="frozen", **settings)
        return {"uncached_epoch_seconds": run.history.seconds_per_epoch().total}

    def facts(self) -> dict[str, Any]:
        return facts_of(registry.load(self.name))


if __name__ == "__main__":
    serve(lambda: Setting(*sys.argv[1:]))
