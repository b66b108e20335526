"""Plans: bytes that are exact, choices within a budget, and nothing left behind. Whether the seconds come true is
measured in `benchmarks/`."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import headstart as hs
from headstart.cli.main import app
from headstart.common.errors import CutError, SettingError
from headstart.training.plan import Budget, CutPlan, Plan, spread

MODEL = "resnet18_half"


@pytest.fixture
def data() -> hs.data.Dataset:
    rng = np.random.default_rng(0)
    return hs.data.arrays(rng.integers(0, 256, (40, 32, 32, 3), np.uint8), np.arange(40) % 4)


def row(cut: str, nbytes: int, extraction: float, cached: float, uncached: float, epochs: int = 5) -> CutPlan:
    return CutPlan(
        cut=cut,
        shape=(1,),
        nbytes=nbytes,
        trunk_multiply_adds=1,
        head_multiply_adds=1,
        missing=1,
        extraction_seconds=extraction,
        cached_epoch_seconds=cached,
        uncached_epoch_seconds=uncached,
        where="device",
        measured=True,
        total_seconds=extraction + epochs * cached,
        uncached_total_seconds=epochs * uncached,
    )


def test_the_epochs_after_which_a_cache_has_paid() -> None:
    assert row("a", 1, 10, 1, 3).pays_off_after_epochs == 5
    assert row("a", 1, 10.1, 1, 3).pays_off_after_epochs == 6
    assert row("a", 1, 0, 1, 3).pays_off_after_epochs == 1
    assert row("a", 1, 10, 3, 3).pays_off_after_epochs is None
    assert row("a", 1, 10, 4, 3).pays_off_after_epochs is None


def test_a_budget_in_bytes_and_in_time() -> None:
    assert Budget.parse("2GB") == Budget(2 * 1000**3, None)
    assert Budget.parse("90s") == Budget(None, 90)
    assert Budget.parse("1.5min") == Budget(None, 90)
    assert Budget.parse(" 2h , 1GiB") == Budget(1 << 30, 7200)
    assert Budget.parse(None) is None
    for wrong in ("", "fast", "2GB,1GB", "1s,2min", "-1s", "10 minutes"):
        with pytest.raises(SettingError, match="budget="):
            Budget.parse(wrong)


def test_the_best_cut_trains_the_most_within_the_budget() -> None:
    rows = (row("early", 1000, 10, 5, 8), row("middle", 500, 12, 3, 9), row("late", 10, 14, 0.1, 7))
    plan = Plan(rows, 5, {})
    assert plan.best is None  # nobody asked

    def best(**budget: float) -> str | None:
        found = replace(plan, budget=Budget(**budget)).best  # type: ignore[arg-type]
        return None if found is None else found.cut

    assert best(nbytes=1000) == "early"
    assert best(nbytes=999) == "middle"
    assert best(nbytes=499) == "late"
    assert best(nbytes=9) is None
    assert best(seconds=30) == "middle"  # 12 + 5 * 3
    assert best(seconds=26, nbytes=1000) == "late"
    assert best(seconds=14) is None
    # one that pays off goes before an earlier one that does not
    slow = Plan((row("early", 1, 100, 5, 8), rows[1]), 5, {}, Budget(nbytes=1000))
    assert slow.best is not None and slow.best.cut == "middle"
    with pytest.raises(SettingError, match="early, middle, late"):
        plan["avgpool"]


def test_which_cuts_are_measured() -> None:
    nodes = [f"n{i}" for i in range(20)]
    trunk = {node: i * 100 for i, node in enumerate(nodes)}
    head = {node: max(0, 1700 - before) for node, before in trunk.items()}
    chosen = spread(nodes, trunk, head)
    assert len(chosen) == 6
    assert chosen == sorted(chosen, key=nodes.index)
    assert {"n0", "n17", "n19"} <= set(chosen)  # behind n17 is nothing more than behind n19
    assert spread(nodes[:5], trunk, head) == nodes[:5]


def test_a_plan_of_every_cut(data: hs.data.Dataset, backend: str, tmp_path: Path) -> None:
    model = hs.model(MODEL, classes=data.classes, size=32)
    train, val = data.split(0.75, seed=0)
    cuts = ["layer4.0", "avgpool"]
    # so many epochs that the cache pays off within them on however busy a machine
    common = {"backend": backend, "batch_size": 8, "cache": tmp_path}
    found = hs.plan(model, train, val, cuts=cuts, budget="1GB", epochs=100_000, **common)
    assert [one.cut for one in found.rows] == cuts
    macs = model.graph.macs(model.input_shape)
    for one in found.rows:
        assert one.nbytes == 40 * math.prod(one.shape) * 2
        assert one.trunk_multiply_adds + one.head_multiply_adds == sum(macs.values())
        figures = (one.extraction_seconds, one.cached_epoch_seconds, one.uncached_epoch_seconds)
        assert all(0 < figure < 60 for figure in figures)
        assert one.uncached_epoch_seconds > one.cached_epoch_seconds
        assert one.missing == 40 and one.where == "device" and one.measured
    assert found.best == found["layer4.0"]
    assert not list(tmp_path.iterdir())  # nothing is left of the measurement
    json.dumps([found.table(), dict(found.facts)])

    # what the store has already costs nothing
    hs.extract(model, data, "avgpool", **common)
    again = hs.plan(model, train, val, cuts="avgpool", memory=1, **common)
    assert again["avgpool"].missing == 0 and again["avgpool"].extraction_seconds == 0
    assert again["avgpool"].where == "disk"


def test_cuts_between_those_that_were_measured(
    data: hs.data.Dataset, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.training import plan as module

    seconds = {"relu": 1.0, "layer2.1": 3.0, "avgpool": 5.0}
    monkeypatch.setattr(module, "MEASURED", 3)
    monkeypatch.setattr(module, "spread", lambda *_: list(seconds))
    # work that takes as long as it has multiply-adds is predicted from three points, everywhere
    monkeypatch.setattr(
        module.Bench,
        "_point",
        lambda self, cut, images: (
            module.Point(self.trunk_macs[cut] * 1e-9, 0.5, 1e-3 + self.head_macs[cut] * 1e-9, 1e-4),
            lambda images: images,
        ),
    )
    model = hs.model(MODEL, classes=data.classes, size=32)
    found = hs.plan(model, data, backend=backend, batch_size=8, cache=tmp_path)
    assert len({(one.shape, one.trunk_multiply_adds) for one in found.rows}) == len(found.rows) > 8
    assert {one.cut for one in found.rows if one.measured} == set(seconds)
    for one in found.rows:
        steps = 40
        expected = steps * (1e-3 + one.head_multiply_adds * 1e-9)
        assert one.cached_epoch_seconds == pytest.approx(expected, rel=0.02), one.cut


def test_mistakes(data: hs.data.Dataset, backend: str, tmp_path: Path) -> None:
    model = hs.model(MODEL, classes=data.classes, size=32)
    with pytest.raises(CutError, match=r"layer4\.1\.conv1"):
        hs.plan(model, data, cuts="layer4.1.conv1", backend=backend, cache=tmp_path)
    with pytest.raises(SettingError, match="epochs"):
        hs.plan(model, data, epochs=0, backend=backend, cache=tmp_path)


def test_on_the_command_line(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "plan.json"
    command = ["plan", "--size", "32", "--cuts", "layer3,avgpool", "--batch-size", "32", "--json", str(file)]
    result = CliRunner().invoke(app, [*command, "--backend", backend, "--budget", "1MB"])
    assert result.exit_code == 0, result.output
    written = json.loads(file.read_text())
    assert written["best"] == "avgpool" and written["data"]["train"] == 1425
    assert "within 1MB, --cut avgpool trains the most" in result.output
    result = CliRunner().invoke(app, [*command, "--backend", backend, "--budget", "1kB"])
    assert "no cut fits: the smallest cache takes" in result.output
