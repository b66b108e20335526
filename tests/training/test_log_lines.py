"""The lines that a training's log has."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.training import observers


def lines(caplog: Any, backend: str, **settings: Any) -> list[str]:
    rng = np.random.default_rng(0)
    data = hs.data.arrays(rng.integers(0, 256, (24, 32, 32, 3), np.uint8), np.arange(24) % 2)
    caplog.clear()
    with caplog.at_level(logging.INFO, "headstart"):
        run = hs.fit(hs.model("lenet", classes=2), *data.split(0.7), backend=backend, cut="relu4", **settings)
    told = [record.getMessage() for record in caplog.records if "epoch" in record.getMessage()]
    assert run.best_epoch
    return [*told, f"{run.best_epoch} of {len(run.history)}"]


def kept_words(best: str, length: str) -> str:
    return f"{length}; kept epoch {best.split(' of ')[0]}, the best by val_loss"


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_many_epochs_get_a_line_a_second(caplog: Any, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    *told, _ = lines(caplog, backend, epochs=3)
    assert [line.split(":")[0] for line in told] == ["epoch 1", "epoch 2", "epoch 3"]

    monkeypatch.setattr(observers, "SECONDS_BETWEEN", 1e6)
    first, last, kept, best = lines(caplog, backend, epochs=25)
    assert (first.split(":")[0], last.split(":")[0]) == ("epoch 1", "epoch 25")
    assert kept == kept_words(best, "25 epochs")

    first, last, kept, best = lines(caplog, backend, lr=0.05, patience=1, max_epochs=400)
    count = best.split(" of ")[1]
    assert last.split(":")[0] == f"epoch {count}"
    assert int(count) < 400
    assert kept == kept_words(best, f"stopped after {count} of at most 400 epochs")

    first, last, best = lines(caplog, backend, epochs=25, monitor=None)
    assert last.split(":")[0] == "epoch 25", "where nothing decides, nothing is said to be the best"
