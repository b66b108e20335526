"""Settings that cross into the processes of a comparison, and what it says of runs of different classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.saving import run_of

import headstart as hs
from headstart.common.errors import SettingError, UnknownNameError
from headstart.report.build import build
from headstart.training.compare import CompareArguments, prepare
from headstart.training.crossing import packed, unpacked
from headstart.training.validation import Validation

pytestmark = pytest.mark.neutral

SETTINGS: dict[str, Any] = {
    "optimizer": hs.SGD(lr=0.5, momentum=0.0, nesterov=False),
    "schedule": hs.Schedule("cosine", 0.25),
    "augment": hs.Augment(flip=False, crop=(0.5, 0.75)),
    "lr_scale": {"layer3": 0.1},
    "epochs": 3,
    "memory": "1GB",
}


def test_objects_come_out_as_they_went_in() -> None:
    for settings in (SETTINGS, {"optimizer": hs.AdamW(lr=0.01), "schedule": "cosine", "augment": "flip"}):
        assert unpacked(json.loads(json.dumps(packed(settings)))) == settings


def test_paths_and_numpys_numbers_cross() -> None:
    crossed = json.loads(json.dumps(packed({"cache": Path("a/b"), "lr": np.float32(0.5), "epochs": np.int64(2)})))
    assert crossed == {"cache": "a/b", "lr": 0.5, "epochs": 2}


def test_a_comparison_takes_them(tmp_path: Path) -> None:
    """As a child reads them."""
    fit = json.loads(json.dumps(packed({**SETTINGS, "cache": tmp_path, "debug_nans": False})))
    prepare(CompareArguments(model="lenet", modes=("full",), fit={**fit, "memory": None}))


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"epoch": 3}, UnknownNameError, "did you mean 'epochs'"),
        ({"mode": "full"}, UnknownNameError, "unknown setting 'mode'"),
        ({"on_epoch": print}, SettingError, "listener="),
        ({"optimizer": object()}, SettingError, "hs.SGD"),
        ({"lr": float("nan")}, SettingError, "lr=nan"),
    ],
)
def test_others_are_refused_before_anything_starts(
    settings: dict[str, Any], error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(error, match=said):
        hs.compare("digits", backends=["torch"], **settings)


def test_each_run_has_the_names_of_its_own_classes() -> None:
    def run(seed: int, classes: list[str]) -> hs.Run:
        data = {"name": "photos", "train": 4, "val": 4, "classes": classes}
        return replace(run_of(seed), data=data, validation=Validation(4, ((0, 1, 4),), ()))

    comparison = hs.comparison({"one": run(1, ["cat", "dog"]), "two": run(2, ["pear", "plum", "fig"])})
    one, two = comparison.rows
    assert "classes" not in one
    assert two["classes"] == ["pear", "plum", "fig"]
    page = build(comparison)
    second = page[page.index("pear") - 2000 :]
    assert "plum" in second and "fig" in second
    assert page.count("cat") > 0 and "cat" not in second.partition("pear")[2].partition("</table>")[0]
