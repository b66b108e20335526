"""Plans: bytes that are exact, choices within a budget, and nothing left behind. Whether the seconds come true is
measured in `benchmarks/`."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart

import headstart as hs
from headstart.common.errors import CutError, SettingError
from headstart.contract.checked import CheckedBackend, CheckedTrainer
from headstart.contract.losses import Loss, Sigmoid, Softmax, SquaredError
from headstart.training.planning import measuring
from headstart.training.planning.predicting import (
    Load,
    Point,
    Rates,
    Work,
    between,
    cuts_to_measure,
    distinct_cuts,
    padded,
    predicted,
    work_at_cuts,
)
from headstart.training.planning.table import Budget, CutPlan, Plan

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
        epochs=epochs,
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
    plan = Plan(rows, {})
    assert plan.best is None  # nobody asked

    def best(**budget: float) -> str | None:
        row = replace(plan, budget=Budget(**budget)).best  # type: ignore[arg-type]
        return None if row is None else row.cut

    assert best(nbytes=1000) == "early"
    assert best(nbytes=999) == "middle"
    assert best(nbytes=499) == "late"
    assert best(nbytes=9) is None
    assert best(seconds=30) == "middle"  # 12 + 5 * 3
    assert best(seconds=26, nbytes=1000) == "late"
    assert best(seconds=14) is None
    # one that pays off goes before an earlier one that does not
    slow = Plan((row("early", 1, 100, 5, 8), rows[1]), {}, Budget(nbytes=1000))
    assert slow.best is not None and slow.best.cut == "middle"
    with pytest.raises(SettingError, match="early, middle, late"):
        plan["avgpool"]


@pytest.mark.neutral
def test_which_cuts_are_measured() -> None:
    cuts = [f"n{i}" for i in range(20)]
    work = {cut: Work((1,), 2, i * 100, max(0, 1700 - i * 100)) for i, cut in enumerate(cuts)}
    measured = cuts_to_measure(cuts, work)
    assert len(measured) == 6
    assert measured == sorted(measured, key=cuts.index)
    assert {"n0", "n17", "n19"} <= set(measured)  # behind n17 is nothing more than behind n19
    assert cuts_to_measure(cuts[:5], work) == cuts[:5]


@pytest.fixture(scope="module")
def work() -> dict[str, Work]:
    return work_at_cuts(hs.model(MODEL, classes=4, size=32), itemsize=2)


@pytest.mark.neutral
def test_cuts_that_cost_the_same_are_planned_once(work: dict[str, Work]) -> None:
    default = list(work)[-1]
    planned = distinct_cuts(work, default)
    assert len({(work[cut].shape, work[cut].trunk_macs) for cut in planned}) == len(planned) > 8
    assert "relu" in planned and "bn1" not in planned  # of those that differ in an activation, the last
    assert default == planned[-1]
    with_dropout = work_at_cuts(hs.model("efficientnet_lite0", classes=4, size=32), itemsize=2)
    assert distinct_cuts(with_dropout, "global_pool")[-1] == "global_pool", "where `fit` cuts, and not behind it"


@pytest.mark.neutral
def test_cuts_between_those_that_were_measured(work: dict[str, Work]) -> None:
    """Work that takes as long as it has multiply-adds is predicted from three points, everywhere."""

    def measured(cut: str) -> Point:
        return Point(work[cut].trunk_macs * 1e-9, 0.5, 1e-3 + work[cut].head_macs * 1e-9, 1e-4)

    points = between(list(work), work, {cut: measured(cut) for cut in ("relu", "layer2.1", "avgpool")})
    assert list(points) == list(work)
    for cut, point in points.items():
        truth = measured(cut)
        if work["relu"].trunk_macs <= work[cut].trunk_macs:
            assert point.trunk_seconds == pytest.approx(truth.trunk_seconds, rel=1e-6), cut
        assert point.build_seconds == pytest.approx(0.5)
        assert point.step_seconds == pytest.approx(truth.step_seconds, rel=0.02), cut
        assert point.evaluation_seconds == pytest.approx(1e-4, rel=0.02), cut


@pytest.mark.neutral
def test_a_measured_cut_is_predicted_from_its_own_measurements(work: dict[str, Work]) -> None:
    points = {cut: Point(i + 1.0, 2.0 * i, 1.0 / (i + 1), 3.0) for i, cut in enumerate(work)}
    assert between(list(work), work, points) == points


@pytest.mark.neutral
def test_a_cut_with_the_work_of_a_measured_one_takes_as_long(work: dict[str, Work]) -> None:
    """However far the measurements are from a line."""
    assert (work["bn1"].shape, work["bn1"].head_macs) == (work["relu"].shape, work["relu"].head_macs)
    steps = {"relu": 9e-3, "layer2.1": 1e-3, "layer3.0": 5e-3, "avgpool": 2e-3}
    points = {cut: Point(1.0, 1.0, step, 1.0) for cut, step in steps.items()}
    assert between(["bn1"], work, points)["bn1"].step_seconds == pytest.approx(9e-3)


LOAD = Load(train=100, val=20, distinct=110, batch=32)
AT_CUT = Work(shape=(10,), row_nbytes=20, trunk_macs=7, head_macs=3)


def at_cut(point: Point, rates: Rates, missing: int = 110, where: str = "device", load: Load = LOAD) -> CutPlan:
    known = {"missing": missing, "where": where, "measured": True}
    return predicted("cut", AT_CUT, point, rates, load, epochs=5, **known)  # type: ignore[arg-type]


@pytest.mark.neutral
def test_seconds_add_up() -> None:
    point = Point(trunk_seconds=0.01, build_seconds=2.0, step_seconds=0.001, evaluation_seconds=0.0005)
    rates = Rates(decode=0.002, overlap=0.8, write=1e-4, read=1e-2)
    plan = at_cut(point, rates)
    # the trunk runs full batches: 4 of the training samples, and 20 rows at once of the others
    images = 128 + 20
    assert plan.extraction_seconds == pytest.approx(2 + images * 0.01 + 110 * 20 * 1e-4)
    head = 100 * 0.001 + 20 * 0.0005  # four steps of 25
    assert plan.cached_epoch_seconds == pytest.approx(head)
    assert plan.uncached_epoch_seconds == pytest.approx(head + (100 + 20) * 0.01)
    assert plan.total_seconds == pytest.approx(plan.extraction_seconds + 5 * head)
    assert plan.uncached_total_seconds == pytest.approx(5 * plan.uncached_epoch_seconds)
    assert (plan.nbytes, plan.where, plan.missing) == (110 * 20, "device", 110)
    # one core for both: what overlaps little is nearly the sum
    shared = at_cut(point, replace(rates, decode=0.01, overlap=0.9))
    assert shared.uncached_epoch_seconds == pytest.approx(head + 0.9 * (100 + 20) * (0.01 + 0.01))
    # from the disk an epoch takes as long as reading the features, if that is longer
    streamed = at_cut(point, rates, where="disk")
    assert streamed.cached_epoch_seconds == pytest.approx(110 * 20 * 1e-2)
    assert streamed.where == "disk"
    # from memory, through a device that has too little of its own, nothing is read from the disk
    held = at_cut(point, rates, where="memory")
    assert (held.where, held.cached_epoch_seconds) == ("memory", plan.cached_epoch_seconds)
    # what is there is not extracted, nor is a trunk built for it
    assert at_cut(point, rates, missing=0).extraction_seconds == 0
    half = at_cut(point, rates, missing=55).extraction_seconds
    assert half == pytest.approx(2 + (64 + 10) * 0.01 + 55 * 20 * 1e-4)


@pytest.mark.neutral
def test_rows_that_fill_a_batch_up() -> None:
    assert [padded(count, 32) for count in (0, 0.2, 1, 31.5, 32, 33, 100)] == [0, 1, 1, 32, 32, 64, 128]


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_plan_of_every_cut(data: hs.data.Dataset, backend: str, tmp_path: Path) -> None:
    model = hs.model(MODEL, classes=data.classes, size=32)
    train, val = data.split(0.75, seed=0)
    cuts = ["layer4.0", "avgpool"]
    # so many epochs that the cache pays off within them on however busy a machine
    common = {"backend": backend, "batch_size": 8, "cache": tmp_path}
    plan = hs.plan(model, train, val, cuts=cuts, budget="1GB", epochs=100_000, **common)
    assert [row.cut for row in plan.rows] == cuts
    macs = model.graph.macs(model.input_shape)
    for row in plan.rows:
        assert row.nbytes == 40 * math.prod(row.shape) * 2
        assert row.trunk_multiply_adds + row.head_multiply_adds == sum(macs.values())
        figures = (row.extraction_seconds, row.cached_epoch_seconds, row.uncached_epoch_seconds)
        assert all(0 < figure < 60 for figure in figures)
        assert row.uncached_epoch_seconds > row.cached_epoch_seconds
        assert row.missing == 40 and row.where == "device" and row.measured
    assert plan.best == plan["layer4.0"]
    assert not list(tmp_path.iterdir())  # nothing is left of the measurement
    json.dumps([plan.table(), dict(plan.facts)])

    # what the store has already costs nothing
    hs.extract(model, data, "avgpool", **common)
    again = hs.plan(model, train, val, cuts="avgpool", memory=1, **common)
    assert again["avgpool"].missing == 0 and again["avgpool"].extraction_seconds == 0
    assert again["avgpool"].where == "disk"


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_plan_knows_the_places_that_fit_knows(
    data: hs.data.Dataset, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device whose memory is less than the features, too: they are held in the machine's memory then."""
    model = hs.model("lenet", classes=data.classes)
    common: dict[str, Any] = {"backend": backend, "batch_size": 4, "cache": tmp_path}
    nbytes = hs.plan(model, data, cuts="fc2", **common)["fc2"].nbytes
    for free, memory, where in (
        (None, None, "device"),
        (10 * nbytes, None, "device"),
        (nbytes, None, "memory"),
        (nbytes, nbytes - 1, "disk"),
    ):
        monkeypatch.setattr(CheckedBackend, "memory", lambda backend, place, free=free: free)
        plan = hs.plan(model, data, cuts="fc2", memory=memory, **common)
        assert plan["fc2"].where == where, (free, memory)
        if where != "disk":
            run = hs.fit(model, data, None, cut="fc2", epochs=1, memory=memory, **common)
            assert run.settings["features"]["where"] == where


@pytest.mark.of("torch")
def test_a_disk_that_is_nearly_full_is_measured_with_less(
    data: hs.data.Dataset, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features may have room there all the same."""
    written: list[int] = []
    monkeypatch.setattr(measuring, "free_space", lambda path: 400_000)
    monkeypatch.setattr(measuring, "_forget", lambda path: written.append(path.stat().st_size))
    plan = hs.plan(hs.model("lenet", classes=data.classes), data, cuts="fc2", backend=backend, cache=tmp_path)
    assert plan["fc2"].measured and 50_000 < sum(written) < 150_000


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_plan_of_no_cut_in_particular(data: hs.data.Dataset, backend: str, tmp_path: Path) -> None:
    model = hs.model("lenet", classes=data.classes)
    plan = hs.plan(model, data, backend=backend, batch_size=8, cache=tmp_path)
    assert [row.cut for row in plan.rows] == distinct_cuts(work_at_cuts(model, itemsize=2), model.default_cut)
    assert [row.cut for row in plan.rows if row.measured] == plan.facts["measured"]
    assert 2 < len(plan.facts["measured"]) <= 6


def test_mistakes(data: hs.data.Dataset, backend: str, tmp_path: Path) -> None:
    model = hs.model(MODEL, classes=data.classes, size=32)
    with pytest.raises(CutError, match=r"layer4\.1\.conv1"):
        hs.plan(model, data, cuts="layer4.1.conv1", backend=backend, cache=tmp_path)
    with pytest.raises(SettingError, match="epochs"):
        hs.plan(model, data, epochs=0, backend=backend, cache=tmp_path)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_on_the_command_line(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "plan.json"
    command = ["plan", "--size", "32", "--batch-size", "8", "--backend", backend, "--json", str(file)]
    result = headstart(*command, "--cuts", "layer3,avgpool", "--budget", "1MB")
    assert result.code == 0, result.err
    written = json.loads(file.read_text())
    assert written["best"] == "avgpool" and written["data"]["train"] == 1425
    assert "within 1MB, --cut avgpool trains the most" in result.out
    result = headstart(*command, "--cuts", "avgpool", "--budget", "1kB")
    assert "no cut fits: the smallest cache takes" in result.out


@pytest.mark.parametrize(
    ("task", "loss"),
    [
        ("single", Softmax()),
        pytest.param("multi", Sigmoid(), marks=pytest.mark.slow("keras", "jax")),
        pytest.param("regression", SquaredError(), marks=pytest.mark.slow("keras", "jax")),
    ],
)
def test_an_epoch_is_measured_with_the_loss_and_targets_of_the_task(
    task: str, loss: Loss, backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    labels = {"single": np.arange(12) % 3, "multi": rng.random((12, 3)) < 0.5, "regression": rng.random((12, 3))}
    images = rng.integers(0, 256, (12, 32, 32, 3), np.uint8)
    data = hs.data.arrays(images, labels[task], ["a", "b", "c"], task=task)
    trainer, epoch, seen = CheckedBackend.trainer, CheckedTrainer.epoch, []

    def watched_trainer(backend: Any, graph: Any, params: Any, recipe: Any, place: Any) -> Any:
        seen.append(recipe.loss)
        return trainer(backend, graph, params, recipe, place)

    def watched_epoch(self: Any, inputs: Any, targets: np.ndarray, *rest: Any) -> Any:
        seen.append(targets)
        return epoch(self, inputs, targets, *rest)

    monkeypatch.setattr(CheckedBackend, "trainer", watched_trainer)
    monkeypatch.setattr(CheckedTrainer, "epoch", watched_epoch)
    settings: dict[str, Any] = {"backend": backend, "batch_size": 12, "cache": tmp_path}
    plan = hs.plan(hs.model("lenet", classes=data.classes), data, cuts="relu4", **settings)
    assert seen[0] == loss
    expected = labels[task]
    if task == "regression":
        expected = (expected - expected.mean(0)) / expected.std(0)
    for targets in seen[1:]:
        np.testing.assert_allclose(targets, expected, atol=1e-5)
    assert len(seen) > 1 and plan.as_dict()["data"]["task"] == task
