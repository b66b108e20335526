"""The command is asked as before: the keys and types of what --json writes, options with their defaults, mistakes.

The snapshots beside this file were made by the version before the restructuring (`record.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from before.recorded import (
    COMMANDS,
    HERE,
    MISTAKES,
    MISTAKES_OF_PARSING,
    MISTAKES_OF_TRAINING,
    NEUTRAL_JSON,
    TORCH_JSON,
    answer,
    printed_options,
    refused,
    run_json,
    types_of,
    unpack,
)


def recorded(name: str) -> Any:
    return json.loads((HERE / name).read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded files; each test copies the store."""
    return unpack(tmp_path_factory.mktemp("made"))


GAINED = ("augment", "batch_norm", "head_epochs", "memory", "views")
"""Options of `fit` that `compare` has had since: its figures list them beside those it had."""

ENDING = ("--help", "--version")
"""Options that end the command before it has done anything."""


# --- what --json writes


@pytest.mark.neutral
def test_every_command_with_json_is_in_the_snapshot() -> None:
    options, asked = recorded("options.json"), {name.partition(",")[0] for name in recorded("json_keys.json")}
    for command in COMMANDS:
        if "--json" in options[command]:
            assert any(name == command or name.startswith(f"{command} ") for name in asked), command


@pytest.mark.neutral
@pytest.mark.parametrize("name", NEUTRAL_JSON)
def test_json_without_a_framework(made: Path, tmp_path: Path, monkeypatch: Any, name: str) -> None:
    assert_types(name, made, tmp_path, monkeypatch)


@pytest.mark.of("torch")
@pytest.mark.parametrize("name", TORCH_JSON)
def test_json_of_training(made: Path, tmp_path: Path, monkeypatch: Any, name: str) -> None:
    assert_types(name, made, tmp_path, monkeypatch)


def assert_types(name: str, made: Path, work: Path, monkeypatch: Any) -> None:
    result, figures = run_json(name, made, work, monkeypatch.setenv)
    expected = recorded("json_keys.json")[name]
    assert result.code == expected["exit code"], result.err
    if name.startswith("compare"):
        for option in GAINED:
            assert option in figures["settings"]["fit"]
            del figures["settings"]["fit"][option]
    assert types_of(figures) == filled(expected["json"], types_of(figures))


def filled(expected: Any, types: Any) -> Any:
    """`expected`, where one of the two is empty as it is now: whether a training makes a mistake to be listed,
    with its picture, is no matter of types."""
    if type(expected) is not type(types) or not isinstance(expected, dict | list):
        return expected
    if not expected or not types:
        return types
    if isinstance(expected, dict):
        return {key: filled(value, types.get(key)) for key, value in expected.items()}
    return [filled(*pair) for pair in zip(expected, types, strict=False)]


# --- options


def compare_options(recorded: Mapping[str, Any], printed: Mapping[str, str | None]) -> list[str]:
    """What today's options of a command, name -> default as text or None, lack of the recorded ones."""
    faults = []
    for option, about in recorded.items():
        if not option.startswith("--"):
            continue
        if option not in printed:
            faults.append(f"{option} is gone")
        elif (text := printed[option]) not in default_texts(option, about):
            faults.append(f"{option} has the default {text}, and had {about['default']} ({about.get('says')})")
    return faults


def default_texts(option: str, about: Mapping[str, Any]) -> tuple[str | None, ...]:
    """How help may say a default: a flag's value by its name or not at all, None by the words in the help."""
    default = about["default"]
    if about["type"] == "flag":
        name = option.removeprefix("--").removeprefix("no-")
        return (str(default), name if default else f"no-{name}", *([] if default else [None]))
    if default is None:
        return (about.get("says"),)
    return (str(default),)


@pytest.mark.neutral
@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_and_no_default_is_lost(command: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Each is there with its default, and takes a value, several, or none, as it did."""
    monkeypatch.chdir(tmp_path)
    options = {name: about for name, about in recorded("options.json")[command].items() if name.startswith("--")}
    words: list[str] = []
    for option, about in options.items():
        if option not in ENDING:
            words += [option] if about["type"] == "flag" else [option, "3" if option != "--log-level" else "info"]
            words += [option, "4"] if about["type"].startswith("list") else []
    assert compare_options(options, printed_options(command, monkeypatch.setenv, *words)) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.neutral
def test_a_lost_option_would_be_told() -> None:
    facts = {"--lr": {"type": "float", "default": 0.1}, "--yes": {"type": "flag", "default": False}}
    assert compare_options(facts, {"--lr": "0.1", "--yes": None}) == []
    assert compare_options(facts, {"--lr": "0.2"}) == [
        "--lr has the default 0.2, and had 0.1 (None)",
        "--yes is gone",
    ]


NUMBERS = [
    (command, option, about["type"])
    for command, options in recorded("options.json").items()
    for option, about in options.items()
    if option.startswith("--") and about["type"].startswith(("int", "float"))
]


@pytest.mark.neutral
@pytest.mark.parametrize("command", sorted({command for command, _, _ in NUMBERS}))
def test_numbers_are_numbers(command: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Whole ones where they were, and within their range."""
    monkeypatch.chdir(tmp_path)
    for _, option, kind in (number for number in NUMBERS if number[0] == command):
        assert refused(command, option, "many" if kind == "float" else "1.5"), (option, kind)
        if ">= 1" in kind:
            assert refused(command, option, "0"), option


@pytest.mark.neutral
def test_an_option_that_may_be_given_often(made: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Both data sets' features stay."""
    _, figures = run_json("cache gc --data, twice", made, tmp_path, monkeypatch.setenv)
    wrapped = [key for name, (key, *_) in recorded("expected.json")["keys"].items() if "wrapped" in name]
    assert sorted(orphans["key"] for orphans in figures["orphans"]) == sorted(wrapped)


@pytest.mark.neutral
def test_the_variable_of_an_option(monkeypatch: Any) -> None:
    monkeypatch.setenv("HEADSTART_LOG_LEVEL", "loud")
    assert answer("models") == answer("--log-level loud models") == recorded("mistakes.json")["a level"][1:]


# --- mistakes


@pytest.mark.neutral
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_as_before(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    assert_answer(name, tmp_path, monkeypatch)


@pytest.mark.of("torch")
@pytest.mark.parametrize("name", MISTAKES_OF_TRAINING)
def test_a_mistake_in_training_is_answered_as_before(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HEADSTART_BACKEND", "torch")
    assert_answer(name, tmp_path, monkeypatch)


def assert_answer(name: str, folder: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(folder)
    line, code, said = recorded("mistakes.json")[name]
    assert line == (MISTAKES | MISTAKES_OF_TRAINING)[name]
    assert len(said.splitlines()) == 1
    assert answer(line) == [code, said]
    assert not list(folder.iterdir()), "nothing is written before a mistake is told"


@pytest.mark.neutral
@pytest.mark.parametrize("name", MISTAKES_OF_PARSING)
def test_a_mistake_of_the_command_line(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """In words of the library that parses it, which name what was wrong."""
    monkeypatch.chdir(tmp_path)
    line, text = MISTAKES_OF_PARSING[name]
    code, said = answer(line)
    assert code == 2
    assert re.search(text, said), said
    assert "Traceback" not in said
