"""Every option of training is said once, with all that a signature, a command and a record need of it."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from sensible_options import SENSIBLE

import headstart as hs
from headstart.common.errors import SettingError
from headstart.training import keywords
from headstart.training.compare import CompareArguments
from headstart.training.modes import MODES
from headstart.training.option import FUNCTIONS, Option
from headstart.training.options import GROUPS, OPTIONS, fields_for, flags_for
from headstart.training.options.texts import scale_of
from headstart.training.settings import Settings, options_by_mode
from headstart.training.write_keywords import FILE, keywords_text

pytestmark = pytest.mark.neutral

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
        # what help calls the default may be said as well: solver="steps"
        kept = {value: None if value == option.unset else value for value in option.allowed}
        assert all(option.checked(value) == kept[value] for value in option.allowed)
        assert option.unset not in kept or option.checked(option.unset) is option.default
    if option.text in (int, float, bool) and option.default is not None:
        assert type(option.default) is option.text


def test_the_solver_that_help_calls_the_default() -> None:
    assert "steps" in OPTIONS["solver"].unset and Settings(solver="steps", mode="full").solver is None
    with pytest.raises(SettingError, match="solver='step'; expected one of steps, ridge, logistic"):
        Settings(solver="step")


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
    assert {o.name for o in fields_for("fit")} - {o.name for o in flags_for("fit")} == {
        "cache",
        "engine",
        "on_epoch",
    }
    assert OPTIONS["lr_scale"].flag == "--lr-scale"
    assert (OPTIONS["epochs"].default_of("compare"), OPTIONS["epochs"].default_of("fit")) == (3, None)


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


# ---- what is made of them


def described(function: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_signature_shows_every_option_with_default_and_sentence(function: str) -> None:
    shown, text = described(getattr(hs, function)), " ".join(getattr(hs, function).__doc__.split())
    keywords = {name: of for name, of in shown.items() if of.kind is of.KEYWORD_ONLY}
    assert not any(of.kind is of.VAR_KEYWORD for of in shown.values())
    for option in fields_for(function):
        parameter = keywords[option.name]
        assert (parameter.default, parameter.annotation) == (option.default_of(function), option.annotation)
        assert f"`{option.name}={option.default_of(function)!r}`: {option.help}" in text
    assert {name for name in keywords if name in OPTIONS} == {option.name for option in fields_for(function)}


def test_the_file_of_keywords_is_current() -> None:
    """Else: python -m headstart.training.write_keywords"""
    assert FILE.read_text(encoding="utf-8") == keywords_text()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_type_checkers_read_the_same_keywords(function: str) -> None:
    typed = getattr(keywords, function.title().replace("_", "") + "Options")
    assert typed.__annotations__.keys() == {option.name for option in fields_for(function)}
    assert not typed.__required_keys__
    source = inspect.getsource(getattr(hs, function))
    assert f"**options: Unpack[{typed.__name__}]" in source


@pytest.mark.parametrize(
    ("function", "wrong", "near"),
    [
        ("fit", {"epoch": 3}, "did you mean 'epochs'"),
        ("sweep", {"grid": {"lr": [0.1]}, "label_smoothin": 0.1}, "did you mean 'label_smoothing'"),
        ("plan", {"lr": 0.1}, "unknown setting 'lr' of plan"),
        ("compare_modes", {"mode": "full"}, "unknown setting 'mode' of compare_modes"),
    ],
)
def test_an_unknown_keyword_is_named_before_anything_is_read(
    function: str, wrong: dict[str, Any], near: str
) -> None:
    for kind in (TypeError, SettingError):
        with pytest.raises(kind, match=near):
            getattr(hs, function)(None, object(), object(), **wrong)


def test_a_position_beyond_the_data_is_refused() -> None:
    with pytest.raises(TypeError, match="positional"):
        hs.fit(None, object(), object(), "cached")  # type: ignore[arg-type,call-arg]


# ---- the record


def test_the_record_has_the_keys_that_reports_and_saved_runs_have() -> None:
    expected = (
        "batch_size optimizer lr_scale schedule label_smoothing class_weights pos_weight threshold huber augment "
        "standardize batch_norm seed epochs max_epochs patience monitor min_delta device precision feature_dtype "
        "views"
    )
    assert list(Settings().record()) == expected.split()
    full = Settings(mode="scratch", cut="input", augment="flip", views=2, lr_scale={"fc": 0.5}).record()
    assert json.loads(json.dumps(full)) == {
        "epochs": None,
        "max_epochs": None,
        "patience": None,
        "monitor": "val_loss",
        "min_delta": 0.0,
        "batch_size": 64,
        "optimizer": None,
        "lr_scale": {"fc": 0.5},
        "schedule": {"kind": "cosine", "warmup": None},
        "label_smoothing": 0.0,
        "class_weights": None,
        "pos_weight": None,
        "threshold": None,
        "huber": None,
        "augment": {"flip": True, "crop": None},
        "standardize": True,
        "batch_norm": "train",
        "seed": 0,
        "device": "auto",
        "precision": "float32",
        "feature_dtype": "uint8",
        "views": 2,
    }


# ---- comparisons


def test_each_mode_of_a_comparison_gets_the_options_that_it_reads() -> None:
    asked = {
        "augment": "flip,crop",
        "views": 4,
        "memory": "1GB",
        "head_epochs": 2,
        "batch_norm": "train",
        "lr": 0.1,
    }
    everywhere = {"augment": "flip,crop", "batch_norm": "train", "lr": 0.1}
    cached = {"views": 4, "memory": "1GB"}
    assert options_by_mode(tuple(MODES), asked) == [
        {"mode": "scratch", **everywhere},
        {"mode": "full", **everywhere},
        {"mode": "frozen", **everywhere},
        {"mode": "cached", **everywhere, **cached},
        {"mode": "staged", **everywhere, **cached, "head_epochs": 2},
    ]
    assert options_by_mode(("full", "full"), {"epochs": 2}) == [{"mode": "full", "epochs": 2}] * 2
    stored = {"cut": "input", "memory": "1GB"}
    assert options_by_mode(("scratch",), stored) == [{"mode": "scratch", **stored}]


@pytest.mark.parametrize(
    ("modes", "options", "said"),
    [
        (("full", "frozen"), {"memory": "1GB"}, "memory= is about features in the cache, which mode 'full'"),
        (("full", "cached"), {"head_epochs": 2}, "head_epochs goes with mode 'staged', not with 'full'"),
        (("full", "cached"), {"augment": "flip"}, "augment= with mode 'cached'"),
        (("full", "cached"), {"views": 2}, "views=2 without augmentation"),
        (("full", "cashed"), {}, "did you mean 'cached'"),
    ],
)
def test_a_comparison_refuses_what_none_of_its_modes_reads(
    modes: tuple[str, ...], options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(SettingError, match=said):
        hs.compare("digits", backends=["torch"], model="lenet", modes=modes, **options)


@pytest.mark.parametrize("option", fields_for("compare"), ids=lambda option: str(option.name))
def test_a_comparison_hands_every_option_to_its_processes(option: Option, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the process reads them, which is JSON."""
    calls: list[CompareArguments] = []
    monkeypatch.setattr("headstart.training.compare.run_backends", lambda arguments, *_: calls.append(arguments))
    hs.compare("digits", **{option.name: SENSIBLE[option.name]})
    sent = json.loads(json.dumps(asdict(calls[0])))
    received = CompareArguments(**sent).options()[option.name]
    value = SENSIBLE[option.name]
    assert received == (str(value) if isinstance(value, Path) else value)


def test_the_default_of_compare_is_that_of_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[CompareArguments] = []
    monkeypatch.setattr("headstart.training.compare.run_backends", lambda arguments, *_: calls.append(arguments))
    hs.compare("digits")
    assert calls[0].options()["epochs"] == inspect.signature(hs.compare).parameters["epochs"].default == 3
    assert inspect.signature(hs.fit).parameters["epochs"].default is None
