"""Extraction beside what people write today, batch by batch in turn. Nothing may get faster by getting wrong: the
features are held to the peer's."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import BACKENDS, Child
from table import TARGETS, bfloat16_units, table

COLUMNS = {"resnet18": 512, "resnet50": 2048, "vit_small_patch14_dinov2": 384, "convnext_tiny": 768}
LAYER_NORMS = ("vit_small_patch14_dinov2", "convnext_tiny")
"""networks that normalise layers and not batches: of which nothing can be folded into what is before it"""
COSINES = {"float32": 0.99999, "bfloat16": 0.999}
PEERS = {"torch": "eager float32 under no_grad", "keras": "predict", "jax": "a jitted float32 NNX module"}
ROUNDS = 5


@pytest.fixture(
    scope="module",
    params=[(backend, model) for backend in BACKENDS for model in COLUMNS],
    ids=lambda pair: "-".join(pair),
)
def child(request: pytest.FixtureRequest) -> Iterator[tuple[Child, str]]:
    backend, model = request.param
    made = Child(backend, [sys.executable, str(Path(__file__).with_name("extraction.py")), backend, model])
    yield made, model
    made.close()


@pytest.mark.parametrize("precision", COSINES)
def test_extraction(benchmark: Any, child: tuple[Child, str], precision: str) -> None:
    worker, model = child
    benchmark.group = f"{worker.backend}: 32 images of 224 px through {model}"
    seconds: list[float] = []

    def peer() -> None:
        start = time.perf_counter()
        worker.ask(do="run", which="peer")
        seconds.append(time.perf_counter() - start)

    shape = benchmark.pedantic(
        worker.ask, kwargs={"do": "run", "which": precision}, setup=peer, rounds=ROUNDS, warmup_rounds=1
    )
    assert shape == [32, COLUMNS[model]]
    cosine = worker.ask(do="cosine", which=precision)
    assert cosine >= COSINES[precision]
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    own = benchmark.stats.stats.median
    peers = float(np.median(seconds[1:]))
    ratio = peers / own
    facts = worker.ask(do="facts")
    asked = precision == "bfloat16" and facts["device"] == "cpu" and bfloat16_units()
    target = f"layer norms {worker.backend}" if model in LAYER_NORMS else f"extraction {worker.backend}"
    table.record(
        "extraction, 32 images of 224 px",
        f"{model}, {precision}",
        own,
        backend=worker.backend,
        peer=PEERS[worker.backend],
        peers=peers,
        target=target if asked and target in TARGETS else None,
        facts=facts,
    )
    products = worker.ask(do="products", which=precision)
    table.record(
        "extraction at the rate of matrix products",
        f"{model}, {precision}",
        own,
        backend=worker.backend,
        peer="as many multiply-adds in products",
        peers=products,
        target="products rate" if asked and model not in LAYER_NORMS else None,
        facts=facts,
    )
    benchmark.extra_info.update(
        facts,
        images_per_second=32 / own,
        of_products=products / own,
        times_as_fast_as_the_peer=ratio,
        cosine=cosine,
    )
    print(f"\n{worker.backend}, {model}, {precision}: {32 / own:.0f} images/s, {ratio:.2f}x as fast as the peer")
    assert ratio >= 0.8, "slower than what people write today"
