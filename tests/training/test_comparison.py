"""Runs side by side: what a comparison holds is enough for its report, and is what the runs say."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import headstart as hs
from headstart.cli import main as cli
from headstart.common.errors import SettingError
from headstart.data import Dataset
from headstart.training.comparison import read_comparison
from headstart.training.run import Run

pytestmark = pytest.mark.of("torch")  # what is made of runs is core's


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    return hs.data.digits().subset(np.arange(200)).split(0.6)


@pytest.fixture(scope="module")
def runs(data: tuple[Dataset, Dataset], backend: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The three kinds of kernels: frozen, trained, drawn anew."""
    drawn = hs.model("lenet", classes=10, seed=5)
    model = drawn.with_params(drawn.params)  # taken for pretrained: nothing of it is fresh
    cache = tmp_path_factory.mktemp("cache")
    settings = {"epochs": 1, "backend": backend, "device": "cpu", "cache": cache}
    return {mode: hs.fit(model, *data, mode=mode, **settings) for mode in ("cached", "full", "scratch")}


def test_rows_say_what_the_runs_say(runs: dict[str, Run], backend: str) -> None:
    found = hs.comparison(runs, title="Three ways")
    assert found["title"] == "Three ways"
    assert [row["label"] for row in found.rows] == ["cached", "full", "scratch"]
    for row, run in zip(found.rows, runs.values(), strict=True):
        assert row["val_accuracy"] == run.history[-1].val_accuracy
        assert row["parameters"] == {"trained": run.trained, "all": run.model.describe()["parameters"]}
        assert run.validation is not None
        assert row["validation"]["worst"][0]["id"] == run.validation.worst[0].id
    worst = {miss["id"] for row in found.rows for miss in row["validation"]["worst"]}
    assert set(found["pictures"]) == worst, "a picture of each of the worst mistakes"
    assert found["versions"] == {backend: runs["full"].settings["versions"]}


def test_first_kernels_before_and_after(runs: dict[str, Run]) -> None:
    kernels = {mode: run.kernels for mode, run in runs.items()}
    found = {mode: one["max_difference"] for mode, one in kernels.items() if one is not None}
    assert found["cached"] == 0.0
    assert found["full"] > 0
    assert found["scratch"] > 0
    pretrained = hs.model("lenet", classes=10, seed=5).params["conv1.weight"]
    assert np.array_equal(runs["full"].before["conv1.weight"], pretrained)
    assert not np.array_equal(runs["scratch"].before["conv1.weight"], pretrained), "drawn anew"
    assert list(runs["full"].before) == ["conv1.weight", "conv2.weight"]


def test_labels_are_told_apart(runs: dict[str, Run], backend: str) -> None:
    found = hs.comparison([runs["full"], runs["full"], runs["cached"], runs["full"]])
    labels = [f"{backend} full", f"{backend} full 2", f"{backend} cached", f"{backend} full 3"]
    assert [row["label"] for row in found.rows] == labels
    with pytest.raises(SettingError, match="no runs"):
        hs.comparison({})


def test_data_that_are_not_those_of_the_first_run(runs: dict[str, Run]) -> None:
    """What is to be distrusted in a run is told of its own data."""
    full, best = runs["full"], runs["cached"]
    other = replace(best, data={**best.data, "name": "other", "val_in_train": 3})
    compared = hs.comparison([full, other, full])
    about = {"name": "other", "train": 116, "val": 84, "val_in_train": 3, "skipped": []}
    assert [row.get("data") for row in compared.rows] == [None, about, None]
    doubt = "3 of 84 validation samples were trained on"
    assert doubt in compared.conclusion().text
    assert doubt not in hs.comparison([replace(full, data=other.data), best]).conclusion().text, "another run's"


def test_the_report_is_made_of_the_file_alone(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = hs.comparison(runs)
    file = tmp_path / "compare.json"
    file.write_text(json.dumps(found))
    assert read_comparison(file) == found
    assert read_comparison(file).html() == found.html()
    monkeypatch.setattr(sys, "argv", ["headstart", "report", str(file)])
    cli.main()
    assert "report.html" in capsys.readouterr().out
    assert (tmp_path / "report.html").read_text("utf-8") == found.html()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("[1]", "everything missing"),
        ("{", "cannot be read"),
        ('{"rows": []}', "missing"),
    ],
)
def test_a_file_that_is_no_comparison(content: str | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "compare.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingError, match=said):
        read_comparison(file)


def test_a_run_shows_itself(runs: dict[str, Run], tmp_path: Path) -> None:
    run = runs["full"]
    page = run.report(tmp_path / "deep" / "report.html").read_text("utf-8")
    assert page.lower().startswith("<!doctype html>")
    shown = run._repr_html_()
    assert shown.count("<iframe") == 1
    assert "srcdoc" in shown
    loaded = hs.load(run.save(tmp_path / "run"), backend=run.backend)
    assert loaded.kernels is None
    assert loaded.report(tmp_path / "loaded.html").stat().st_size > 100_000, "without the pictures, but whole"
