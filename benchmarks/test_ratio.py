"""Epochs of a ResNet-50's head on photographs of 224 pixels: frozen, which decodes and runs the trunk every time,
and cached. The last identity block should gain nine tenths of what the ratio of FLOPs allows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import BACKENDS
from epochs import Worker, check_pair
from sizes import sized

HEADS = {"linear": "avgpool", "block": "layer4.1"}
UNCACHED, CACHED = sized(2, 4), sized(4, 5)  # so many, and so many after each
ALIKE = sized(2, None)  # steps in which both train alike; all of an epoch's are held to each other in test_epochs
IMAGES, BATCH = 160, 32
LINEAR_FLOOR = 500.0  # a quarter of what is asked for: an epoch of so few images is mostly the request


@pytest.fixture(
    scope="module",
    params=[(backend, head) for backend in BACKENDS for head in HEADS],
    ids=lambda pair: "-".join(pair),
)
def resnet50(request: pytest.FixtureRequest, process_of: Callable[[str], Worker], photographs: Path) -> Worker:
    backend, head = request.param
    process_of(backend).prepare(
        head,
        HEADS,
        ALIKE,
        model="resnet50",
        weights=os.environ.get("HEADSTART_BENCH_WEIGHTS"),
        photographs=str(photographs),
        images=IMAGES,
        batch=BATCH,
    )
    return process_of(backend)


def test_epochs(benchmark: Any, resnet50: Worker) -> None:
    """In turn: an uncached one, and then some cached ones."""
    benchmark.group = f"{resnet50.backend} {resnet50.head}, resnet50: training epoch"
    benchmark.extra_info.update(resnet50.facts)
    calls, uncached = count(), []

    def now_and_then() -> None:
        if next(calls) % CACHED == 0:
            start = time.perf_counter()
            resnet50.ask(do="epoch", kind="uncached")
            uncached.append(time.perf_counter() - start)

    losses = benchmark.pedantic(
        resnet50.ask, kwargs={"do": "epoch", "kind": "cached"}, setup=now_and_then, rounds=UNCACHED * CACHED
    )
    assert np.shape(losses) == (IMAGES // BATCH, 1) and resnet50.facts["images"] == IMAGES
    assert np.mean(losses) < np.mean(resnet50.first["cached"]), "the head that was timed has learned"
    if benchmark.stats is not None:
        resnet50.medians = {"cached": benchmark.stats.stats.median, "uncached": float(np.median(uncached))}
    linear, ratio = resnet50.head == "linear", resnet50.facts["flops_ratio"]
    floor, scale = (LINEAR_FLOOR, 1.0) if linear else (ratio / 2, ratio)
    check_pair(resnet50, floor, resnet50.head, scale)
