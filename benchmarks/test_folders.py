"""Features of a folder of JPEG files: decoding and computing overlap, and how fast that is beside what the
frameworks' tutorials do. Each round runs them all in turn.

On a CPU both want the same cores, so that the whole cannot be faster than what both need of the processor, shared
out over its cores. That bound is in the table as well, and is what the floor is held to.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import BACKENDS, Child
from table import table

CAPABILITY = "extraction from a folder of JPEG files"
PEERS = {
    "torch": "ImageFolder, DataLoader, eager float32",
    "keras": "image_dataset_from_directory, predict",
    "jax": "a Pillow loop, a jitted NNX module (no tutorial)",
}
ROUNDS = 3
FLOOR = 1.25  # so many times the longest of decoding alone, computing alone, and both on all cores, at the most
REST = 0.3  # seconds, until the threads of one library's pool no longer spin


@pytest.fixture(
    scope="module",
    params=[(backend, precision) for backend in BACKENDS for precision in ("float32", "bfloat16")],
    ids=lambda pair: "-".join(pair),
)
def child(
    request: pytest.FixtureRequest, photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Child, str]]:
    backend, precision = request.param
    script = Path(__file__).with_name("folders.py")
    cache = tmp_path_factory.mktemp("cache")
    command = [sys.executable, str(script), backend, str(photographs), str(cache), precision]
    made = Child(backend, command)
    yield made, precision
    made.close()


def test_folder(benchmark: Any, child: tuple[Child, str]) -> None:
    worker, precision = child
    benchmark.group = f"{worker.backend}: {CAPABILITY}"
    found: dict[str, list[dict[str, float]]] = {which: [] for which in ("decode", "compute", "peer", "extract")}

    def run(which: str) -> None:
        time.sleep(REST)
        found[which].append(worker.ask(do="run", which=which))

    def others() -> None:
        for which in ("decode", "compute", "peer"):
            run(which)

    benchmark.pedantic(run, args=("extract",), setup=others, rounds=ROUNDS, warmup_rounds=1)
    facts = worker.ask(do="facts")
    assert facts["decoded"] == facts["images"]
    assert facts["shape"] == facts["peers_shape"] == [facts["images"], 512]
    assert facts["alone"] > 0.999999, "what is extracted is what the trunk computes alone, row by row"
    if worker.backend != "keras":  # its tutorials stretch images instead of cropping them
        assert facts["peers"] > {"float32": 0.9999, "bfloat16": 0.99}[precision]
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")

    def median(which: str, what: str = "seconds") -> float:
        return float(np.median([one[what] for one in found[which][1:]]))  # without the warm-up

    whole = median("extract")
    longer = max(("decode", "compute"), key=median)
    bounds = {which: median(which) for which in ("decode", "compute")}
    bounds["cores"] = (median("decode", "cpu_seconds") + median("compute", "cpu_seconds")) / facts["cores"]
    benchmark.extra_info.update(facts, seconds=bounds, times_as_fast_as_the_peer=median("peer") / whole)
    settings = {"backend": worker.backend, "facts": facts}
    what = f"resnet18, {precision}, {facts['images']} photographs"
    name = {"decode": "decoding alone", "compute": "computing alone"}[longer]
    table.record(CAPABILITY, what, whole, peer=PEERS[worker.backend], peers=median("peer"), **settings)
    table.record(CAPABILITY, what, whole, peer=name, peers=median(longer), target="folder", **settings)
    peer = f"CPU seconds of both alone, over {facts['cores']} cores"
    table.record(CAPABILITY, what, whole, peer=peer, peers=bounds["cores"], cost=True, **settings)
    assert whole <= FLOOR * max(bounds.values()), f"{whole:.2f} s, where {bounds} would do"
