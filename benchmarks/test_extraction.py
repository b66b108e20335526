"""Extraction beside what people write today, batch by batch in turn: the peer, float32, and bfloat16 where the
device computes in it. Nothing may get faster by getting wrong: the features are held to the peer's.

Of networks with layer norms in Keras nothing was asked for, elsewhere of bfloat16 alone: HEADSTART_BENCH_FULL=1
measures them, too, and takes two more rounds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from children import BACKENDS, Child
from extraction import BATCH
from sizes import FULL, bar_of, sized
from table import NO_BFLOAT16, TARGETS, no_bfloat16, table

COLUMNS = {"resnet18": 512, "resnet50": 2048, "vit_small_patch14_dinov2": 384, "convnext_tiny": 768}
LAYER_NORMS = ("vit_small_patch14_dinov2", "convnext_tiny")
"""networks that normalise layers and not batches: of which nothing can be folded into what is before it"""
COSINES = {"float32": 0.99999, "bfloat16": 0.999}
PEERS = {"torch": "eager float32 under no_grad", "keras": "predict", "jax": "a jitted float32 NNX module"}
ROUNDS = sized(3, 5)
OF_LAYER_NORMS = sized(16, BATCH)
"""images of networks with layer norms, which XLA takes seconds for"""


def asked_for(backend: str, model: str) -> str:
    """What was asked of bfloat16: the name of a target, or of none."""
    return f"layer norms {backend}" if model in LAYER_NORMS else f"extraction {backend}"


@pytest.fixture(scope="module", params=BACKENDS)
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    made = Child(request.param, "extraction.py")
    yield made
    made.close()


WRAPPED = ("resnet18", "mobilenet_v2")
OF_ITS_OWN = {"torch": 1.3, "jax": 3.0}
"""times as long as of the zoo's network, at most; in JAX norms and activations are not part of oneDNN's calls"""


@pytest.mark.parametrize("precision", COSINES)
@pytest.mark.parametrize("model", WRAPPED)
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name in OF_ITS_OWN])
def test_a_wrapped_network(benchmark: Any, backend: str, model: str, precision: str) -> None:
    """Beside the same network of the zoo, and beside the module itself, in float32: eager, in JAX jitted."""
    benchmark.group = f"{backend}: {BATCH} images of 224 px through {model}, wrapped, {precision}"
    if precision == "bfloat16" and no_bfloat16():
        pytest.skip(NO_BFLOAT16)
    wrapped, zoo = Child(backend, "extraction.py"), Child(backend, "extraction.py")
    wrapped.ask(do="prepare", model=model, wrapped=True)
    zoo.ask(do="prepare", model=model)
    asked = {"zoo": (zoo, precision), "module": (zoo, "peer")}
    seconds: dict[str, list[float]] = {name: [] for name in asked}

    def others() -> None:
        for name, (child, which) in asked.items():
            start = time.perf_counter()
            child.ask(do="run", which=which)
            seconds[name].append(time.perf_counter() - start)

    run = {"do": "run", "which": precision}
    benchmark.pedantic(wrapped.ask, kwargs=run, setup=others, rounds=ROUNDS, warmup_rounds=1)
    wrapped.ask(do="run", which="peer")
    cosine, facts = wrapped.ask(do="cosine", which=precision), wrapped.ask(do="facts")
    wrapped.close()
    zoo.close()
    assert cosine >= COSINES[precision]
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    own, medians = benchmark.stats.stats.median, {name: float(np.median(of[1:])) for name, of in seconds.items()}
    for name, peer in (("zoo", "the zoo's"), ("module", PEERS[backend])):
        table.record(
            f"extraction, {BATCH} images of 224 px",
            f"{model}, wrapped, {precision}",
            own,
            backend=backend,
            peer=peer,
            peers=medians[name],
            facts=facts,
        )
    ratios = (
        f"{medians['module'] / own:.2f}x as fast as the module itself, {own / medians['zoo']:.2f} of the zoo's"
    )
    print(f"\n{backend}, {model}, wrapped, {precision}: {ratios}")
    assert own <= OF_ITS_OWN[backend] * medians["zoo"]


@pytest.mark.parametrize("model", COLUMNS)
def test_extraction(benchmark: Any, child: Child, model: str) -> None:
    target = asked_for(child.backend, model)
    in_float32 = model in LAYER_NORMS and no_bfloat16()
    if (target not in TARGETS or in_float32) and not FULL:
        pytest.skip("nothing was asked for of it: HEADSTART_BENCH_FULL=1 measures it")
    batch = OF_LAYER_NORMS if model in LAYER_NORMS else BATCH
    child.ask(do="prepare", model=model, batch=batch)
    precisions = child.ask(do="precisions")
    benchmark.group = f"{child.backend}: {batch} images of 224 px through {model}"
    seconds: dict[str, list[float]] = {which: [] for which in ("peer", *precisions) if which != "float32"}

    def others() -> None:
        for which, taken in seconds.items():
            start = time.perf_counter()
            child.ask(do="run", which=which)
            taken.append(time.perf_counter() - start)

    shape = benchmark.pedantic(
        child.ask, kwargs={"do": "run", "which": "float32"}, setup=others, rounds=ROUNDS, warmup_rounds=1
    )
    assert shape == [batch, COLUMNS[model]]
    cosines = {precision: child.ask(do="cosine", which=precision) for precision in precisions}
    assert all(cosine >= COSINES[precision] for precision, cosine in cosines.items()), cosines
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    medians = {which: float(np.median(taken[1:])) for which, taken in seconds.items()}
    medians["float32"] = benchmark.stats.stats.median
    facts, peers, ratios = child.ask(do="facts"), medians["peer"], {}
    for precision in precisions:
        own = medians[precision]
        asked = precision == "bfloat16" and facts["device"] == "cpu"
        products = child.ask(do="products", which=precision)
        ratios[precision] = peers / own
        settings: dict[str, Any] = {"backend": child.backend, "facts": facts}
        table.record(
            f"extraction, {batch} images of 224 px",
            f"{model}, {precision}",
            own,
            peer=PEERS[child.backend],
            peers=peers,
            target=target if asked and target in TARGETS else None,
            asked_of=bar_of("32 images") if batch < BATCH else "",
            **settings,
        )
        table.record(
            "extraction at the rate of matrix products",
            f"{model}, {precision}",
            own,
            peer="as many multiply-adds in products",
            peers=products,
            target="products rate" if asked and model not in LAYER_NORMS else None,
            **settings,
        )
        print(
            f"\n{child.backend}, {model}, {precision}: {batch / own:.0f} images/s, "
            f"{ratios[precision]:.2f}x as fast as the peer, {products / own:.0%} of the products' rate"
        )
    benchmark.extra_info.update(facts, times_as_fast_as_the_peer=ratios, cosines=cosines)
    assert all(ratio >= 0.8 for ratio in ratios.values()), "slower than what people write today"
