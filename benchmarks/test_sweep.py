"""64 heads trained at once on one cache, beside one head, epoch by epoch in turn; and a sweep of 16 settings with
five folds beside one without, in turn, whole calls."""

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

# What a small set of photographs has behind a ResNet-18, and what a larger one has behind a ResNet-50.
SETTINGS = {"small": (512, 5, 64), "large": (2048, 10, 256)}
FLOOR = 2.0  # so many times as fast as one after the other, at least
SHARE = 0.2  # of the rate of a large product, at least


@pytest.fixture(scope="module", params=BACKENDS)
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    script = Path(__file__).with_name("heads.py")
    made = Child(request.param, [sys.executable, str(script), request.param])
    yield made
    made.close()


@pytest.mark.parametrize("size", SETTINGS)
def test_sixty_four_heads_at_once(benchmark: Any, child: Child, size: str) -> None:
    columns, classes, batch = SETTINGS[size]
    child.ask(do="prepare", columns=columns, classes=classes, batch=batch)
    benchmark.group = f"64 linear heads, {columns} features, {classes} classes, batches of {batch}"
    alone: list[tuple[float, float]] = []

    def one() -> None:
        start = time.perf_counter()
        loss = child.ask(do="epoch", kind="one")
        alone.append((time.perf_counter() - start, loss))

    losses: list[float] = []

    def many() -> None:
        losses.append(child.ask(do="epoch", kind="many"))

    benchmark.pedantic(many, setup=one, rounds=9, warmup_rounds=1)
    # The same head, the same rows, the same rate: the same losses.
    np.testing.assert_allclose(losses, [loss for _, loss in alone], rtol=1e-3)
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    single = float(np.median([seconds for seconds, _ in alone[1:]]))
    facts = child.ask(do="facts")
    times = benchmark.stats.stats.median / single
    table.record(
        "64 heads at once, an epoch",
        benchmark.group.partition(", ")[2],
        benchmark.stats.stats.median,
        backend=child.backend,
        peer="one head",
        peers=single,
        target="64 heads",
        facts=facts,
    )
    benchmark.extra_info.update(facts, one_head_seconds=single, time_of_so_many_heads=times)
    gain = facts["heads"] / times
    print(f"\n{child.backend}, {size}: 64 heads in the time of {times:.1f}, {gain:.1f}x one after the other")
    assert gain >= FLOOR


def test_the_rate_of_sixty_four_heads(benchmark: Any, child: Child) -> None:
    """What 64 heads come to as a share of what the machine can: beside a product of large matrices by the same
    framework, and beside the loop that a user of it would write."""
    columns, classes, batch = SETTINGS["large"]
    child.ask(do="prepare", columns=columns, classes=classes, batch=batch)
    facts = child.ask(do="facts")
    peers: dict[str, list[tuple[float, float]]] = {"product": [], "by hand": []}

    def timed(name: str, **request: Any) -> None:
        start = time.perf_counter()
        answer = child.ask(**request)
        peers[name].append((time.perf_counter() - start, answer))

    def others() -> None:
        timed("product", do="product")
        if "by hand" in facts["kinds"]:
            timed("by hand", do="epoch", kind="by hand")

    benchmark.group = f"64 linear heads, {columns} features, {classes} classes, batches of {batch}"
    losses: list[float] = []
    benchmark.pedantic(
        lambda: losses.append(child.ask(do="epoch", kind="many")), setup=others, rounds=7, warmup_rounds=1
    )
    if hand := peers["by hand"]:  # the same heads, the same rows, epoch after epoch
        np.testing.assert_allclose(losses, [loss for _, loss in hand], rtol=1e-3)
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    own = benchmark.stats.stats.median
    medians = {
        name: float(np.median([seconds for seconds, _ in runs[1:]])) for name, runs in peers.items() if runs
    }
    at_rate = facts["flops"] / peers["product"][0][1] * medians["product"]
    rate = facts["heads"] * facts["samples"] / own
    for peer, seconds, target in (
        ("the same operations in a large product", at_rate, "rate of 64 heads"),
        ("a vmap loop by hand", medians.get("by hand"), "vmap loop"),
    ):
        if seconds is not None:
            table.record(
                "64 heads at once, heads x samples",
                f"{benchmark.group.partition(', ')[2]}: {rate:,.0f} a second",
                own,
                backend=child.backend,
                peer=peer,
                peers=seconds,
                target=target,
                facts=facts,
            )
    benchmark.extra_info.update(facts, heads_times_samples_a_second=rate, share_of_product_rate=at_rate / own)
    loop = f", {medians['by hand'] / own:.2f}x a vmap loop" if hand else ""
    share = f"{at_rate / own:.0%} of the product's rate{loop}"
    print(f"\n{child.backend}: {rate:,.0f} heads x samples a second, {share}")
    assert at_rate / own >= SHARE


FOLDS = {"small": (512, 5, 2000), "large": (2048, 10, 4000)}
COST = 4.0  # of five folds, in times of none, at most; what is asked for stands in the table


@pytest.fixture(scope="module", params=BACKENDS)
def folded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    script = Path(__file__).with_name("folded.py")
    cache = str(tmp_path_factory.mktemp("cache"))
    made = Child(request.param, [sys.executable, str(script), request.param, cache])
    yield made
    made.close()


@pytest.mark.parametrize("size", FOLDS)
def test_five_folds_of_sixteen_settings(benchmark: Any, folded: Child, size: str) -> None:
    columns, classes, rows = FOLDS[size]
    folded.ask(do="prepare", columns=columns, classes=classes, rows=rows)
    benchmark.group = f"sweep of 16 rates, {rows} x {columns} features, {classes} classes"
    plain: list[dict[str, Any]] = []
    of_folds: list[dict[str, Any]] = []
    benchmark.pedantic(
        lambda: of_folds.append(folded.ask(do="sweep", folds=5)),
        setup=lambda: plain.append(folded.ask(do="sweep", folds=None)),
        rounds=3,
        warmup_rounds=1,
    )
    # the same data, the same settings: about the same score, and every head side by side
    assert abs(of_folds[-1]["score"] - plain[-1]["score"]) < 0.08
    assert (plain[-1]["at_once"], of_folds[-1]["at_once"]) == (16, 80)
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    # of the processor: whole calls take seconds, in which others may have had the machine
    cost, peers = (float(np.median([one["processor"] for one in calls[1:]])) for calls in (of_folds, plain))
    facts = folded.ask(do="facts")
    table.record(
        "5 folds of 16 settings",
        benchmark.group.partition(", ")[2],
        cost,
        backend=folded.backend,
        peer="16 settings",
        peers=peers,
        target="5 folds",
        facts=facts,
    )
    benchmark.extra_info.update(facts, times_of_sixteen_settings=cost / peers)
    print(f"\n{folded.backend}, {size}: 5 folds of 16 settings in the time of {cost / peers:.2f} x 16 settings")
    assert cost / peers <= COST
