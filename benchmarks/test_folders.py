"""Features of a folder of JPEG files: decoding and computing overlap, and how fast that is beside what the
frameworks' tutorials do. Each round runs them all in turn.

On a CPU both want the same cores, so that the whole cannot be faster than what both need of the processor, shared
out over its cores. That bound is in the table as well, and is what the floor is held to.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import BACKENDS, Child
from sizes import sized
from table import table

CAPABILITY = "extraction from a folder of JPEG files"
PEERS = {
    "torch": "ImageFolder, DataLoader, eager float32",
    "keras": "image_dataset_from_directory, predict",
    "jax": "a Pillow loop, a jitted NNX module (no tutorial)",
}
ROUNDS = sized(2, 3)
FLOOR = 1.25  # so many times the longest of decoding alone, computing alone, and both on all cores, at the most
REST = 0.3  # seconds, until the threads of one library's pool no longer spin


@pytest.fixture(scope="module", params=BACKENDS)
def child(
    request: pytest.FixtureRequest, photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Child]:
    cache = tmp_path_factory.mktemp("cache")
    made = Child(request.param, "folders.py", photographs, cache)
    yield made
    made.close()


def test_folder(benchmark: Any, child: Child) -> None:
    """Each precision, beside one run of the peer."""
    precisions = child.ask(do="precisions")
    benchmark.group = f"{child.backend}: {CAPABILITY}"
    alone = [("decode", ""), ("peer", "")]
    own = [(which, precision) for precision in precisions for which in ("compute", "extract")]
    found: dict[tuple[str, str], list[dict[str, float]]] = {what: [] for what in (*alone, *own)}

    def turn() -> None:
        for which, precision in found:
            time.sleep(REST)
            found[which, precision].append(child.ask(do="run", which=which, precision=precision))

    benchmark.pedantic(turn, rounds=ROUNDS)  # the child has done a few photographs in every way
    for precision in precisions:
        facts = child.ask(do="facts", precision=precision)
        assert facts["decoded"] == facts["images"]
        assert facts["shape"] == facts["peers_shape"] == [facts["images"], 512]
        assert facts["alone"] > 0.999999, "what is extracted is what the trunk computes alone, row by row"
        if child.backend != "keras":  # its tutorials stretch images instead of cropping them
            assert facts["peers"] > {"float32": 0.9999, "bfloat16": 0.99}[precision]
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")

    def median(which: str, precision: str = "", what: str = "seconds") -> float:
        return float(np.median([run[what] for run in found[which, precision]]))

    beyond = {}
    for precision in precisions:
        whole = median("extract", precision)
        bounds = {"decoding alone": median("decode"), "computing alone": median("compute", precision)}
        longer = max(bounds, key=lambda name: bounds[name])
        used = median("decode", what="cpu_seconds") + median("compute", precision, "cpu_seconds")
        cores = used / facts["cores"]
        settings = {"backend": child.backend, "facts": facts}
        what = f"resnet18, {precision}, {facts['images']} photographs"
        table.record(CAPABILITY, what, whole, peer=PEERS[child.backend], peers=median("peer"), **settings)
        table.record(CAPABILITY, what, whole, peer=longer, peers=bounds[longer], target="folder", **settings)
        peer = f"CPU seconds of both alone, over {facts['cores']} cores"
        table.record(CAPABILITY, what, whole, peer=peer, peers=cores, target="folder by the processor", **settings)
        beyond[precision] = whole / max(*bounds.values(), cores)
    benchmark.extra_info.update(facts, times_the_longest_bound=beyond)
    assert all(times <= FLOOR for times in beyond.values()), beyond
