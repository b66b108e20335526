"""The experiments with whole networks, in their small form and smaller still: bundled data, no network access."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any

import pytest

from headstart.models import architecture

pytestmark = pytest.mark.of("torch")  # they are the same in every backend: one is enough

MAX_NBYTES = 3_000_000


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Run the experiment of that name as `python -m examples.NAME --small` does; what it wrote is in tmp_path."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])

    def run(name: str, *options: str) -> Any:
        main = import_module(f"examples.{name}.__main__").main
        return main(["--small", "--backend", "torch", "--device", "cpu", "--out", str(tmp_path), *options])

    return run


def check_report(folder: Path, labels: list[str]) -> None:
    """The report is there, is small, and names every run."""
    html = (folder / "report.html").read_text("utf-8")
    assert len(html.encode()) < MAX_NBYTES
    assert all(label in html for label in labels)


def rows_of(comparison: Any) -> dict[str, Any]:
    return {row["label"]: row for row in comparison.rows}


@pytest.mark.slow  # of an example; each mode's training has tests of its own
def test_the_cached_block_is_trained_as_the_uncached_one_is(
    experiment: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(experiment("cached_block", "--samples", "20", "--epochs", "3"))
    assert list(rows) == ["uncached", "cached"]
    for one, other in zip(rows["uncached"]["history"], rows["cached"]["history"], strict=True):
        assert other["step_losses"] == pytest.approx(one["step_losses"], rel=1e-2)
    assert rows["cached"]["val_accuracy"] > 0.3  # of ten classes
    assert rows["cached"]["extracted"] == 200 and rows["cached"]["extraction_seconds"] > 0
    assert rows["cached"]["total_seconds"] > rows["cached"]["extraction_seconds"]
    assert rows["uncached"]["parameters"] == rows["cached"]["parameters"]
    assert {row["cut"] for row in rows.values()} == {"layer4.0"}
    printed = capsys.readouterr().out
    assert "scaled down" in printed and "times as fast" in printed
    check_report(tmp_path, list(rows))


@pytest.mark.slow  # the first of these runs in CI
def test_kernels_change_where_they_are_trained_and_nowhere_else(
    experiment: Callable[..., Any], tmp_path: Path
) -> None:
    result = experiment("three_networks", "--samples", "20", "--epochs", "1")
    rows = rows_of(result["comparison"])
    assert list(rows) == ["from scratch", "all weights", "last layer only"]
    for label, changes in result["changes"].items():
        assert list(changes) == ["conv1", "layer1.0.conv1"]
        for change in changes.values():
            assert change == 0 if label == "last layer only" else change > 0
        assert rows[label]["kernels"]["max_difference"] == changes["conv1"]
    assert rows["all weights"]["val_accuracy"] > 0.2 < rows["last layer only"]["val_accuracy"]
    ((auxiliary,),) = result["auxiliary"]  # one epoch, one auxiliary classifier
    assert isfinite(auxiliary) and auxiliary > 0
    page = (tmp_path / "kernels.html").read_text("utf-8")
    assert len(re.findall('<img src="data:image/png;base64,', page)) == 3 * 2 * 3
    check_report(tmp_path, list(rows))


@pytest.mark.slow  # the first of these runs in CI
def test_every_trunk_runs_once_and_its_features_can_be_learnt_from(
    experiment: Callable[..., Any], tmp_path: Path
) -> None:
    rows = rows_of(experiment("three_trunks", "--samples", "40", "--epochs", "10"))
    *trunks, random, lenet = rows
    assert len(trunks) == 3
    assert all(row["val_accuracy"] > 0.4 for row in rows.values())  # of ten classes, easy even for random features
    kernels = [rows[label]["kernels"]["before"] for label in (*trunks, random)]
    assert len({*kernels[:3]}) == 1 and kernels[3] != kernels[0]  # one trunk at three sizes, and a random one
    assert all(rows[label]["extracted"] == 400 for label in (*trunks, random))
    assert rows[lenet]["mode"] == "scratch" and rows[lenet]["extracted"] == 0
    assert rows[lenet]["history"][-1]["loss"] < rows[lenet]["history"][0]["loss"]
    check_report(tmp_path, list(rows))


@pytest.mark.skipif("HEADSTART_PAGES" not in os.environ, reason="run by tox -e pages")
def test_alexnet_is_used_as_it_is_frozen_and_fine_tuned(experiment: Callable[..., Any], tmp_path: Path) -> None:
    # an epoch is a step: after five, what is fine-tuned still says one class of nearly all
    result = experiment("three_ways", "--samples", "80", "--epochs", "12")
    rows = rows_of(result["comparison"])
    frozen, tuned, scratch = rows.values()
    assert result["as_it_is"]["samples"] == 80 and result["as_it_is"]["top1"] > 0.8  # of five classes
    assert frozen["val_accuracy"] > 0.3 < tuned["val_accuracy"]
    assert frozen["cut"] == "flatten" and tuned["cut"] == "features.5"
    assert frozen["parameters"]["trained"] < tuned["parameters"]["trained"] < scratch["parameters"]["trained"]
    assert [row["kernels"]["max_difference"] > 0 for row in (frozen, tuned, scratch)] == [False, False, True]
    check_report(tmp_path, list(rows))


def test_folders_are_matched_with_imagenets_classes_by_name_or_as_plurals(
    experiment: Callable[..., Any],
) -> None:
    called = import_module("examples.three_ways.__main__").called
    assert [called(name, ("ant", "bee", "daisy", "bus")) for name in ("ants", "daisy", "bus", "roses")] == [
        "ant",
        "daisy",
        "bus",
        None,
    ]


def test_small_forms_cut_where_their_networks_can_be_cut(experiment: Callable[..., Any]) -> None:
    cuts = {name: form["earlier"] for name, form in import_module("examples.how_much.__main__").SMALL.items()}
    forms = [(name, [cut]) for name, cut in cuts.items()]
    ways = import_module("examples.three_ways.__main__").SMALL
    forms += [(name, [form.extractor, form.tuned]) for name, form in ways.items()]
    style = import_module("examples.style.__main__").SMALL
    forms += [(name, [content, *styles]) for name, _, _, content, styles in style.values()]
    for name, wanted in forms:
        nodes = architecture(name).graph(2).cuts()
        for cut in wanted:
            assert any(node == cut or node.startswith(f"{cut}.") for node in nodes), (name, cut)
