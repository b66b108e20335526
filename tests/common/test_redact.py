"""Secrets stand in nothing that is written, raised or said."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

import pytest

import headstart as hs
from headstart.common.errors import DownloadError, HeadstartError
from headstart.common.outputs import write_json
from headstart.common.redact import redacted, redacted_command
from headstart.common.text import say
from headstart.training.comparison import new_comparison
from headstart.training.history import History, Record, Seconds

pytestmark = pytest.mark.neutral

SECRET = "s3cr3t-W0rd"
SAID = (
    f"cannot reach https://user:{SECRET}@hub.example:8080/models?x=1",
    f"cannot reach https://{SECRET}@hub.example",
    f"https://hub.example/file?token={SECRET}&x=1",
    f"https://hub.example/file?X-Amz-Signature={SECRET}",
    f"ran with --hf-token {SECRET} and --api-key={SECRET}",
    f"HF_TOKEN={SECRET} headstart fit",
    f"Authorization: Bearer {SECRET}",
)
HARMLESS = (
    "blocks.0.cls_token: shape (1, 1, 192)",
    "expected one of token, mean; received tokens=3",
    "a@b.example wrote to me about --tokenizer bert",
    "see https://hub.example/models?x=1#token",
    "photos/secret garden/1.jpg",
)


@pytest.mark.parametrize("text", SAID)
def test_secrets_go(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "***" in redacted(text) and SECRET not in redacted(text)
    assert SECRET not in str(DownloadError(text)) + repr(HeadstartError(text))
    write_json(tmp_path / "a.json", {"message": text, text: [text]})
    say(text)
    assert SECRET not in (tmp_path / "a.json").read_text() + capsys.readouterr().out


class OddError(Exception):
    """As HTTP libraries have them: the text is made of an attribute."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address

    def __str__(self) -> str:
        return f"no answer from {self.address}"


@pytest.mark.parametrize("text", SAID)
def test_what_an_error_came_from_is_in_the_traceback(text: str) -> None:
    def fail(*causes: BaseException) -> None:
        if not causes:
            raise DownloadError(text)
        try:
            fail(*causes[1:])
        except Exception as error:
            if len(causes) % 2:
                raise causes[0] from error
            raise causes[0]  # noqa: B904 - what is shown as the context

    noted = ValueError("it")
    noted.add_note(text)
    causes = (KeyError(text), OSError(2, "none", text), OddError(text), noted, RuntimeError("plain", 3))
    with pytest.raises(DownloadError) as caught:
        try:
            fail(*causes)
        except Exception as error:
            raise DownloadError("it cannot be had") from error
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown + repr(caught.value) and shown.count("direct cause") == 4
    assert all(type(cause).__name__ in shown for cause in causes) and causes[-1].args == ("plain", 3)


@pytest.mark.parametrize("text", HARMLESS)
def test_nothing_else_goes(text: str) -> None:
    assert redacted(text) is text


def test_the_token_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert redacted(f"401 for {SECRET}") == "401 for ***"
    assert "hf_" not in redacted("it is hf_" + "a" * 34)


def test_the_command_of_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["headstart", "fit", "--token", SECRET, "--data", f"https://u:{SECRET}@h/x", "--seed", "1"]
    )
    command = new_comparison({}, {}, {})["command"]
    assert SECRET not in json.dumps(command)
    assert command[-2:] == ["--seed", "1"]
    assert redacted_command(["--token", "--seed", "1"]) == ["--token", "--seed", "1"]


def test_names_of_classes_and_pictures_are_no_secrets(tmp_path: Path) -> None:
    """By them results are joined with other tables, and a saved run predicts."""
    kinds = [
        "flag bearer uniforms",
        "flag bearer children",
        "sk-learn-cheatsheet-number-1",
        "hf_20260101120000001",
    ]
    pictures = ["photos/sk-castle-in-the-evening-01.png", "hf_20260101120000001.jpg"]
    results = {
        "classes": kinds,
        "per_class": [{"class": kinds[0]}],
        "class_weights": {kinds[1]: 2.0},
        "rows": [
            {"image": name, "labels": [[kinds[2], 0.5]], "probabilities": {kinds[3]: 1.0}} for name in pictures
        ],
        "message": f"Authorization: Bearer {SECRET}",
    }
    written = json.loads(write_json(tmp_path / "a.json", results).read_text())
    assert written == {**results, "message": "Authorization: Bearer ***"}
    predictions = write_json(
        tmp_path / "b.json", [{"image": name, "classes": [[kinds[0], 1.0]]} for name in pictures]
    )
    assert [row["image"] for row in json.loads(predictions.read_text())] == pictures
    address = f"https://user:{SECRET}@hub.example/a.png"
    assert SECRET not in write_json(tmp_path / "c.json", [{"image": address}, {"classes": [address]}]).read_text()


@pytest.mark.parametrize("kinds", [("flag bearer uniforms", "flag bearer children")])
def test_a_saved_run_keeps_the_names_of_its_classes(kinds: tuple[str, ...], tmp_path: Path) -> None:
    record = Record(1, 0.5, 0.5, None, None, Seconds(), 0.1, (0.5,))
    run = hs.Run(
        hs.model("lenet", classes=kinds), "full", None, "torch", History([record]), data={"classes": [*kinds]}
    )
    again = hs.load(run.save(tmp_path / "run"))
    assert again.model.classes == kinds and again.data["classes"] == [*kinds]
