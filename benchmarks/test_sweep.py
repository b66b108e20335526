"""64 heads trained at once on one cache, beside one head, epoch by epoch in turn, and at the large setting as a
share of what the machine can: beside a product of large matrices by the same framework, and beside the loop that a
user of it would write. And a sweep of 16 settings with five folds beside one without, in turn, whole calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from children import BACKENDS, Child
from sizes import sized
from table import table

# What a small set of photographs has behind a ResNet-18, and what a larger one has behind a ResNet-50.
SETTINGS = {"small": (512, 5, 64), "large": (2048, 10, 256)}
FLOOR = 2.0  # so many times as fast as one after the other, at least
SHARE = 0.2  # of the rate of a large product, at least
ROUNDS, SWEEPS = sized(5, 9), sized(1, 3)


@pytest.fixture(scope="module", params=BACKENDS)
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    made = Child(request.param, "heads.py")
    yield made
    made.close()


@pytest.mark.parametrize("size", SETTINGS)
def test_sixty_four_heads_at_once(benchmark: Any, child: Child, size: str) -> None:
    columns, classes, batch = SETTINGS[size]
    child.ask(do="prepare", columns=columns, classes=classes, batch=batch)
    facts = child.ask(do="facts")
    what = f"{columns} features, {classes} classes, batches of {batch}"
    benchmark.group = f"64 linear heads, {what}"
    requests: dict[str, dict[str, str]] = {"one": {"do": "epoch", "kind": "one"}}
    if size == "large":
        requests["product"] = {"do": "product"}
        requests |= {kind: {"do": "epoch", "kind": kind} for kind in facts["kinds"] if kind == "by hand"}
    seconds: dict[str, list[float]] = {name: [] for name in requests}
    answers: dict[str, list[float]] = {name: [] for name in (*requests, "many")}

    def others() -> None:
        for name, request in requests.items():
            start = time.perf_counter()
            answers[name].append(child.ask(**request))
            seconds[name].append(time.perf_counter() - start)

    def many() -> None:
        answers["many"].append(child.ask(do="epoch", kind="many"))

    benchmark.pedantic(many, setup=others, rounds=ROUNDS, warmup_rounds=1)
    for name in answers.keys() & {
        "one",
        "by hand",
    }:  # the same head, rows and rate: the same losses
        np.testing.assert_allclose(answers["many"], answers[name], rtol=1e-3)
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    own, medians = benchmark.stats.stats.median, {name: float(np.median(of[1:])) for name, of in seconds.items()}
    table.record(
        "64 heads at once, an epoch",
        what,
        own,
        backend=child.backend,
        peer="one head",
        peers=medians["one"],
        target="64 heads",
        facts=facts,
    )
    gain = facts["heads"] * medians["one"] / own
    benchmark.extra_info.update(facts, medians=medians)
    print(f"\n{child.backend}, {size}: 64 heads {gain:.1f}x as fast as one after the other")
    if size == "large":
        share = record_rate(child, what, own, medians, facts, answers["product"][0])
        assert share >= SHARE
    assert gain >= FLOOR


def record_rate(
    child: Child, what: str, own: float, medians: dict[str, float], facts: dict[str, Any], flops: float
) -> float:
    """Rows of the heads times samples a second; the share of the rate at which large matrices are multiplied."""
    at_rate = facts["flops"] / flops * medians["product"]
    rate = facts["heads"] * facts["samples"] / own
    for peer, seconds, target in (
        ("the same operations in a large product", at_rate, "rate of 64 heads"),
        ("a vmap loop by hand", medians.get("by hand"), "vmap loop"),
    ):
        if seconds is not None:
            table.record(
                "64 heads at once, heads x samples",
                f"{what}: {rate:,.0f} a second",
                own,
                backend=child.backend,
                peer=peer,
                peers=seconds,
                target=target,
                facts=facts,
            )
    loop = f", {medians['by hand'] / own:.2f}x a vmap loop" if "by hand" in medians else ""
    print(
        f"{child.backend}: {rate:,.0f} heads x samples a second, {at_rate / own:.0%} of the product's rate{loop}"
    )
    return at_rate / own


FOLDS = {"small": (512, 5, 2000), "large": (2048, 10, 4000)}
WARM_UP = sized(2, None)
"""epochs of the folds that are not timed, None for all: in two whatever is compiled for all heads has been"""
COST = 4.0  # of five folds, in times of none, at most; what is asked for stands in the table


@pytest.fixture(scope="module", params=BACKENDS)
def folded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    made = Child(request.param, "folded.py", tmp_path_factory.mktemp("cache"))
    yield made
    made.close()


@pytest.mark.parametrize("size", FOLDS)
def test_five_folds_of_sixteen_settings(benchmark: Any, folded: Child, size: str) -> None:
    columns, classes, rows = FOLDS[size]
    folded.ask(do="prepare", columns=columns, classes=classes, rows=rows)
    benchmark.group = f"sweep of 16 rates, {rows} x {columns} features, {classes} classes"
    plain: list[dict[str, Any]] = []
    of_folds: list[dict[str, Any]] = []
    if benchmark.enabled:
        folded.ask(do="sweep", folds=None)
        folded.ask(do="sweep", folds=5, max_epochs=WARM_UP)
    benchmark.pedantic(
        lambda: of_folds.append(folded.ask(do="sweep", folds=5)),
        setup=lambda: plain.append(folded.ask(do="sweep", folds=None)),
        rounds=SWEEPS,
    )
    # the same data, the same settings: about the same score, and every head side by side
    assert abs(of_folds[-1]["score"] - plain[-1]["score"]) < 0.08
    assert (plain[-1]["at_once"], of_folds[-1]["at_once"]) == (16, 80)
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    # of the processor: whole calls take seconds, in which others may have had the machine
    cost, peers = (float(np.median([call["processor"] for call in calls])) for calls in (of_folds, plain))
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
