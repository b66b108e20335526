"""What `hs.plan` predicts from a few batches, and what then happens: extraction, cached and uncached epochs,
bytes. At cuts that the plan has measured, and at some that lie between those."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import BACKENDS, Child
from sizes import sized
from table import table

CUTS = sized(("layer4.0", "avgpool"), ("layer3.0", "layer3.1", "layer4.0", "layer4.1", "avgpool"))
FIGURES = {
    "extraction_seconds": "extraction",
    "cached_epoch_seconds": "cached epoch",
    "uncached_epoch_seconds": "uncached epoch",
    "nbytes": "bytes",
}
FLOOR = 2.0  # so many times too high or too low, at most; an epoch of a millisecond now and then is near it


@pytest.fixture(scope="module", params=BACKENDS)
def child(
    request: pytest.FixtureRequest, photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Child]:
    cache = tmp_path_factory.mktemp("cache")
    made = Child(request.param, "planning.py", photographs, cache)
    yield made
    made.close()


def test_what_is_predicted_happens(benchmark: Any, child: Child) -> None:
    benchmark.group = f"{child.backend}: a plan"
    rows = benchmark.pedantic(child.ask, kwargs={"do": "plan"}, rounds=1)
    facts = child.ask(do="facts")
    assert not all(rows[cut]["measured"] for cut in CUTS)
    errors: dict[str, float] = {}
    for cut in CUTS:
        happened = {**child.ask(do="cached", cut=cut), **child.ask(do="uncached", cut=cut)}
        for name, what in FIGURES.items():
            table.record(
                "prediction, beside what happened",
                f"{what} at {cut}{'' if rows[cut]['measured'] else ', not measured'}",
                rows[cut][name],
                unit="bytes" if name == "nbytes" else "s",
                backend=child.backend,
                peer="what happened",
                peers=happened[name],
                target="prediction",
                facts=facts,
            )
            errors[f"{what} at {cut}"] = rows[cut][name] / happened[name]
    benchmark.extra_info.update(facts, predicted_by_happened=errors)
    for what, error in errors.items():
        print(f"\n{child.backend}: {what}: predicted {error:.2f} of what happened", end="")
    print()
    assert all(1 / FLOOR <= error <= FLOOR for error in errors.values()), errors
