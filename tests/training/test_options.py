"""Every option of training is said once, with all that a signature, a command and a record need of it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import headstart as hs
from headstart.common.errors import SettingError
from headstart.training.option import FUNCTIONS
from headstart.training.options import GROUPS, OPTIONS, fields_for, flags_for, scale_of
from headstart.training.settings import Settings

pytestmark = pytest.mark.neutral

SENSIBLE: dict[str, Any] = {
    "mode": "full",
    "cut": "layer3",
    "epochs": 2,
    "batch_size": 8,
    "optimizer": hs.SGD(lr=0.5),
    "lr": 0.1,
    "lr_scale": {"layer3": 0.1},
    "schedule": hs.Schedule("cosine", 0.25),
    "warmup": 0.25,
    "label_smoothing": 0.1,
    "augment": hs.Augment(crop=None),
    "batch_norm": "train",
    "head_epochs": 3,
    "seed": 7,
    "backend": "jax",
    "device": "cpu",
    "precision": "bfloat16",
    "workers": 2,
    "dtype": "float32",
    "cache": Path("features"),
    "views": 4,
    "memory": "512MB",
    "on_epoch": print,
    "tensorboard": Path("curves"),
    "debug_nans": True,
    "profile": Path("trace"),
}
"""a value for each option that is not its default"""
WRONG = [3.5, "", object(), True]
"""one of which each rule that is checked alone must refuse"""


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_says_all_of_itself(name: str) -> None:
    option = OPTIONS[name]
    assert option.help.endswith(".") and (not option.more or option.more.endswith("."))
    assert option.takers and set(option.takers) <= set(FUNCTIONS)
    assert "{" not in option.expects and option.expects
    assert option.default is not None or "None" in option.annotation
    assert option.checked(option.default) == option.default
    if option.allowed is not None:
        assert option.default is None or option.default in option.allowed
        assert all(option.checked(value) == value for value in option.allowed)
    if option.text in (int, float, bool) and option.default is not None:
        assert type(option.default) is option.text


def test_every_field_is_an_option_of_the_settings() -> None:
    names = [of.name for group in GROUPS for of in fields(group)]
    assert names == list(OPTIONS) == [of.name for of in fields(Settings)] == list(SENSIBLE)
    assert [option.name for option in fields_for("fit")] == names
    assert {name: getattr(Settings(), name) for name in names} == {n: o.default for n, o in OPTIONS.items()}


@pytest.mark.parametrize("name", OPTIONS)
def test_settings_keep_a_value_and_refuse_a_wrong_one(name: str) -> None:
    mode = {"head_epochs": "staged"}.get(name, "cached")
    beside = {"views": {"augment": "flip"}, "augment": {"views": 2}}.get(name, {})
    settings = Settings(**{"mode": mode, **beside, name: SENSIBLE[name]})
    assert getattr(settings, name) == (512_000_000 if name == "memory" else SENSIBLE[name])
    refused = 0
    for value in WRONG:
        try:
            Settings(**{"mode": mode, **beside, name: value})
        except SettingError as error:
            refused += 1
            assert name in str(error) or "unknown" in str(error) or "no size" in str(error)
    assert refused or name == "backend"  # which is looked up where one is chosen


def test_what_only_python_can_hand_over_has_no_flag() -> None:
    assert {o.name for o in fields_for("fit")} - {o.name for o in flags_for("fit")} == {"cache", "on_epoch"}
    assert OPTIONS["lr_scale"].flag == "--lr-scale"
    assert (OPTIONS["epochs"].command_default("compare"), OPTIONS["epochs"].command_default("fit")) == (3, 5)


def test_the_text_of_rates_by_module() -> None:
    assert OPTIONS["lr_scale"].parse is scale_of
    assert scale_of("0.1") == 0.1
    assert scale_of("layer3=0.1, pretrained=0.01") == {"layer3": 0.1, "pretrained": 0.01}
    for text in ("layer3=", "much"):
        with pytest.raises(SettingError, match=r"--lr-scale .*; expected a number such as 0.1"):
            scale_of(text)


def test_the_options_are_read_without_numpy() -> None:
    code = "import sys; import headstart.training.options; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
