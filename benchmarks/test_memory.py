"""Memory at the peak, of a process each: extraction by a ResNet-50, and epochs on features that are in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import BACKENDS, Child
from memory import BATCH, COLUMNS, ROWS, write_features
from sizes import sized
from table import NO_BFLOAT16, TARGETS, no_bfloat16, table

from headstart.common.machine import available_memory

LIMIT, SHARE = "memory of extraction", "memory of an epoch"
IMAGES = sized(4 * BATCH, None)
"""None: all there are; after a few batches nothing more is held"""
# told before a process is started for it
BFLOAT16 = pytest.param("bfloat16", marks=pytest.mark.skipif(no_bfloat16(), reason=NO_BFLOAT16))


@pytest.fixture(params=BACKENDS)
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    made = Child(request.param, "memory.py")
    yield made
    made.close()


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of 0.8 GB, not left behind."""
    root = tmp_path_factory.mktemp("features")
    write_features(root)
    yield root
    shutil.rmtree(root)


@pytest.mark.parametrize("precision", ["float32", BFLOAT16])
def test_extraction(benchmark: Any, child: Child, photographs: Path, tmp_path: Path, precision: str) -> None:
    if precision not in child.ask(do="precisions"):
        pytest.skip(NO_BFLOAT16)
    request = {"photographs": str(photographs), "images": IMAGES, "cache": str(tmp_path), "precision": precision}
    found = benchmark.pedantic(child.ask, kwargs={"do": "extract", **request}, rounds=1)
    assert found["shape"] == [COLUMNS]
    benchmark.group = "memory at the peak"
    benchmark.extra_info.update(found)
    what = f"extraction, resnet50 at 224 px, {precision}, {found['images']} photographs, batches of {BATCH}"
    settings: dict[str, Any] = {"unit": "bytes", "backend": child.backend, "facts": found}
    record = table.record
    record("memory at the peak", f"{what}: the whole process", found["peak"], target=LIMIT, **settings)
    record("memory at the peak", f"{what}: above the framework's", found["peak"] - found["base"], **settings)
    assert found["peak"] < TARGETS[LIMIT].bound


def test_epochs(benchmark: Any, child: Child, features: Path) -> None:
    """Above what is held before the features are read; what the framework needs to train anything is in it."""
    if available_memory() < 8 * ROWS * COLUMNS:
        pytest.skip("not enough memory to hold the features")
    found = benchmark.pedantic(child.ask, kwargs={"do": "epochs", "cache": str(features)}, rounds=1)
    assert found["where"] == "device" and found["losses"][-1] < 0.1 * np.log(10), "it has learned"
    benchmark.group = "memory at the peak"
    benchmark.extra_info.update(found)
    own = found["peak"] - found["base"]
    table.record(
        "memory at the peak",
        f"cached epochs, linear head, {ROWS:,} x {COLUMNS:,} float16: above what was held before",
        own,
        unit="bytes",
        backend=child.backend,
        peer="the features",
        peers=found["nbytes"],
        target=SHARE,
        facts=found,
    )
    assert own < TARGETS[SHARE].bound * found["nbytes"]
