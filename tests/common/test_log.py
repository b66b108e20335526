"""What is said while it works: through one logger, at the level that was asked for, and nowhere else."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import headstart as hs
from headstart.cli import main as cli
from headstart.common import log
from headstart.common.errors import UnknownNameError

FIT = ["fit", "--data", "digits", "--model", "lenet", "--epochs", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _as_a_new_process_has_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Other tests may have set the level."""
    monkeypatch.delenv(log.VARIABLE, raising=False)
    before = log.LOG.level
    log.LOG.setLevel(logging.NOTSET)
    yield
    log.LOG.setLevel(before)


def fit(backend: str) -> None:
    train, val = hs.data.digits().subset(range(120)).split(0.5)
    model = hs.model("lenet", classes=10)
    hs.fit(model, train, val, mode="staged", epochs=1, backend=backend, device="cpu")


def test_a_library_is_silent_until_it_is_asked(
    backend: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    fit(backend)
    assert capfd.readouterr().err == ""
    with caplog.at_level(logging.INFO, "headstart"):
        fit(backend)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert [line.partition(":")[0] for line in lines] == ["digits", "head epoch 1", "epoch 1"]
    assert "10 classes" in lines[0] and "val_accuracy" in lines[1]


def test_handing_on_ends_where_it_should() -> None:
    found: list[tuple[int, str]] = []
    before = (log.LOG.level, list(log.LOG.handlers))
    with log.handed_to(lambda level, line: found.append((level, line))):
        log.LOG.info("said")
        log.LOG.debug("not said")
        log.set_level("error")
        assert os.environ[log.VARIABLE] == "error", "child processes are told"
        log.LOG.warning("not said")
        log.LOG.error("%s", "said too")
    log.LOG.error("not said")
    assert found == [(logging.INFO, "said"), (logging.ERROR, "said too")]
    assert (log.LOG.level, log.LOG.handlers) == before
    assert log.VARIABLE not in os.environ
    with pytest.raises(UnknownNameError, match=r"unknown log level 'loud'.*debug, info, warning, error"):
        log.set_level("loud")


@pytest.mark.of("torch")  # core decides it for every backend in the same way
@pytest.mark.parametrize(("level", "said"), [("debug", True), ("info", True), ("warning", False), (None, True)])
def test_the_commands_option(
    level: str | None,
    said: bool,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    options = [] if level is None else ["--log-level", level]
    monkeypatch.setattr(sys, "argv", ["headstart", *options, *FIT, "--backend", backend, "--split", "0.1"])
    cli.main()
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith("epoch 1: loss ") for line in lines) == said
    assert any(line.startswith("debug: ") for line in lines) == (level == "debug")
    assert (lines == []) == (not said)


def test_a_wrong_level_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["headstart", "--log-level", "loud", "models"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = capfd.readouterr().err
    assert error.startswith("error: unknown log level 'loud'")
    assert error.count("\n") == 1


def test_what_steers_a_terminal_is_escaped(capfd: pytest.CaptureFixture[str]) -> None:
    log.to_stderr(logging.WARNING, "one\x1b[31m\ntwo")
    assert capfd.readouterr().err == "warning: one\\x1b[31m\ntwo\n"
