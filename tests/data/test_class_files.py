"""Files with names of classes, as every editor and system writes them; and names in two spellings everywhere."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import headstart as hs
from headstart.cli import main as cli
from headstart.common.errors import DataError, SettingError, UnknownNameError
from headstart.data.class_files import MAX_NBYTES, class_names_of
from headstart.training.checks import trained_classes

pytestmark = pytest.mark.neutral

NAMES = ["caf\xe9", "dog", "barn owl"]
LINES = "caf\xe9\r\ndog\r\nbarn owl\r\n"
COMPOSED, DECOMPOSED = "caf\xe9", "cafe\u0301"


@pytest.mark.parametrize(
    "content",
    [
        LINES.encode(),
        LINES.encode("utf-8-sig"),
        LINES.encode("utf-16"),
        b"\xfe\xff" + LINES.encode("utf-16-be"),
        LINES.encode("utf-32"),
        LINES.replace("\r\n", "\r").encode(),
        LINES.replace("\xe9", "e\u0301").encode(),
        LINES.encode() + b"\r\n\x1a",
        b"\xef\xbb\xbfcaf\xc3\xa9\n\xef\xbb\xbfdog\nbarn owl",
        json.dumps(NAMES).encode("utf-8-sig"),
        json.dumps(NAMES, ensure_ascii=False).encode("utf-16"),
        json.dumps({"0": NAMES[0], "2": NAMES[2], "1": NAMES[1]}).encode(),
        json.dumps({"dog": 1, "caf\xe9": 0, "barn owl": 2}).encode(),
    ],
)
def test_a_file_of_any_encoding_that_it_names(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "names").write_bytes(content)
    assert class_names_of(str(tmp_path / "names")) == NAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINES.encode("latin-1"), r"line 1 is not UTF-8 \(Latin-1.*save it as UTF-8"),
        (LINES.encode("utf-16")[:-1], "its mark says utf-16-le.*save it as UTF-8"),
        (LINES.encode("utf-16-le").replace(b"\xe9\0", b"e\0"), "holds zero bytes.*save it as UTF-8"),
        (b"", "no names"),
        (b"dog\ncat\ndog\n", "'dog' stands twice"),
        (b"[1, 2", "not a JSON list"),
        (b"[" * 100_000, "not a JSON list"),
        (b'[["cat"]]', "not a JSON list of names"),
        (b'{"0": "cat", "1": "dog", "0": "cow"}', "the key '0' stands twice, with two values"),
        (b'{"0": "cat", "2": "dog"}', "map from the numbers 0 to n - 1"),
        (b'{"a": "cat", "b": "dog"}', "map from the numbers 0 to n - 1"),
        (b'{"0": "cat", "%s": "dog"}' % (b"1" * 5000), "map from the numbers 0 to n - 1"),
        (b"x" * (MAX_NBYTES + 1), "larger than 16 MiB"),
    ],
)
def test_what_is_no_list_of_names_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(SettingError, match=message) as caught:
        class_names_of(str(tmp_path / "names.txt"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_names_with_commas_and_files_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert class_names_of("roses, tulips,v1.2") == ["roses", "tulips", "v1.2"]
    assert class_names_of("roses") == ["roses"]
    for missing in (
        "missing.txt",
        "names.json",
        "./names",
        "~/names",
        "C:\\names.csv",
        "~nobody-is-called-so/names",
    ):
        with pytest.raises(SettingError, match="there is no such file"):
            class_names_of(missing)
    Path("folder.txt").mkdir()
    os.mkfifo("pipe.txt")
    for other in ("folder.txt", "pipe.txt"):
        with pytest.raises(SettingError, match="no regular file"):
            class_names_of(other)


def test_the_command_answers_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.txt").write_bytes(LINES.encode("latin-1"))
    for names in ("old.txt", "missing.txt"):
        options = ["weights", "import", "x.safetensors", "--model", "lenet", "--classes", names]
        monkeypatch.setattr(sys, "argv", ["headstart", *options])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: --classes {names}: ") and error.count("\n") == 1


def test_a_folder_is_the_same_class_where_the_encoding_is_ascii(tmp_path: Path) -> None:
    """In such a process Python has of a name in UTF-8 its bytes, as surrogates."""
    seen = COMPOSED.encode().decode("ascii", "surrogateescape")
    values = np.zeros((2, 1, 1), np.uint8)
    assert hs.data.arrays(values, [0, 1], [seen, "dog"]).classes == (COMPOSED, "dog")
    latin = "caf\udce9"  # no UTF-8: kept as it is
    assert hs.data.arrays(values, [0, 1], [latin, "dog"]).classes == (latin, "dog")


def test_one_spelling_everywhere(tmp_path: Path) -> None:
    """A folder from macOS, a model from Linux: one class."""
    values = np.zeros((2, 1, 1), np.uint8)
    data = hs.data.arrays(values, [0, 1], [DECOMPOSED, "dog"])
    assert data.classes == (COMPOSED, "dog")
    assert data.only([DECOMPOSED]).classes == (COMPOSED,)
    assert hs.model("lenet", classes=[DECOMPOSED, "dog"]).classes == data.classes
    with pytest.raises(SettingError, match="two spellings"):
        hs.model("lenet", classes=[DECOMPOSED, COMPOSED])
    with pytest.raises(DataError, match=r"'cafe\\u0301', 'caf\\xe9' are one name in two spellings"):
        hs.data.arrays(values, [0, 1], [DECOMPOSED, COMPOSED])
    unnamed = hs.model("lenet", classes=2)
    assert trained_classes(unnamed, {"classes": [DECOMPOSED, "dog"]}).names == data.classes, "of an earlier run"
    with pytest.raises(UnknownNameError):
        data.only(["cafe"])
