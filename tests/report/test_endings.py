"""How a training ended, in words: once for log, terminal and report."""

from __future__ import annotations

import math
from typing import Any

import pytest
from report_pages import Parsed, content, row

from headstart import report
from headstart.report.endings import Ending, endings, overview, sentence

pytestmark = pytest.mark.neutral


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (
            Ending(37, 22, 100, "val_loss"),
            "stopped after 37 of at most 100 epochs; kept epoch 22, the best by val_loss",
        ),
        (Ending(100, 100, 100, "mae"), "100 epochs; kept epoch 100, the best by mae"),
        (Ending(50, 50, 50), "50 epochs; kept the last"),
        (Ending(3, 3, 9, stage="head"), "head: stopped after 3 of at most 9 epochs; kept the last"),
        (Ending(3, 2), "3 epochs; kept epoch 2"),
        (Ending(1, 1, 1), "1 epoch"),
    ],
)
def test_words(ending: Ending, words: str) -> None:
    assert ending.words == words


def entry(epochs: int = 3, kept: Any = 2, **settings: Any) -> dict[str, Any]:
    history = [{"val_loss": 1.0, "val_accuracy": 0.5} for _ in range(epochs)]
    return {"history": history, "best_epoch": kept, "settings": settings}


def test_what_an_entry_tells() -> None:
    stages = {"head": {"max_epochs": 9}}
    assert endings(entry(monitor="val_loss", stages=stages)) == [Ending(3, 2, 9, "val_loss")]
    assert endings(entry(monitor="accuracy")) == [Ending(3, 2, None, "accuracy")]
    assert endings(entry(kept=3, monitor=None, stages={"all": {"max_epochs": 3}})) == [Ending(3, 3, 3)]
    staged = {**entry(1, 1, stages=stages), "head_history": entry()["history"], "head_best_epoch": 3}
    assert endings(staged) == [Ending(3, 3, 9, stage="head"), Ending(1, 1, stage="all")]
    labels = entry(monitor="val_accuracy")
    labels["history"][1]["val_score"] = None  # no sample has a label, so there is no F1
    assert endings(labels) == [Ending(3, 2, None, "val_accuracy")]
    diverged = entry(kept=3, monitor="val_loss")
    diverged["history"][2]["val_loss"] = math.nan
    assert endings(diverged) == [Ending(3, 3)], "what is not finite decides nothing"


@pytest.mark.parametrize(
    "untold",
    [
        entry(kept=None),
        entry(kept=4),
        entry(kept="2"),
        entry(0, 0),
        entry(1, 1, solver="ridge"),
        {"settings": None, "history": None},
    ],
)
def test_what_is_not_told_is_not_said(untold: dict[str, Any]) -> None:
    assert (endings(untold), sentence(untold), overview([untold], ["full"])) == ([], "", "")


def test_stages_of_another_form_are_no_error() -> None:
    for stages in ("head", ["head"], {"head": 3}, {"head": {"max_epochs": "many"}}):
        assert endings(entry(stages=stages)) == [Ending(3, 2)]


def test_an_overview() -> None:
    stopped = entry(monitor="val_loss", stages={"head": {"max_epochs": 9}})
    several = [entry(monitor="val_loss"), entry(kept=None), stopped]
    assert overview(several, ["full", "frozen", "cached"]) == (
        "kept epoch, by val_loss: full 2 of 3, cached 2 of 3 (stopped early)"
    )
    assert overview([*several, entry(monitor="mae")], ["a", "b", "c", "d"]).startswith("kept epoch: a 2 of 3, ")


def test_the_report_says_it() -> None:
    """Of one run in the sentence at the top, of several in a list; and in the table."""
    cached = row("torch", "cached", settings={"monitor": "val_loss", "stages": {"head": {"max_epochs": 100}}})
    words = "topped after 3 of at most 100 epochs; kept epoch 2, the best by val_loss"
    alone = report.page(content([cached]))
    assert f"of memory. S{words}." in alone
    assert "How long they were trained" not in alone
    texts = Parsed(report.page(content([row("torch", "full"), cached]))).texts
    assert "torch cached: s" + words in texts
    assert "torch full: 3 epochs; kept epoch 2, the best by val_loss" in texts
    assert texts.count("2/3") == 2
    assert "In a ring: the epoch whose weights were kept" in alone
    assert "In a ring" not in report.page(content([row("torch", "full", best_epoch=None)]))
