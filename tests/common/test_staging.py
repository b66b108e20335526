"""What is made beside its place and gets its name when it is whole: a file, or a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from headstart.common.errors import SettingError
from headstart.common.outputs import write_text
from headstart.common.staging import staged

pytestmark = pytest.mark.neutral
MARKER = "model.pb"


def make_folder(path: Path, text: str, replace: bool = False) -> None:
    with staged(path, replace, MARKER) as made:
        made.mkdir()
        (made / MARKER).write_text(text)
        (made / "variables").mkdir()
        (made / "variables" / "data").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_and_what_it_names(tmp_path: Path) -> None:
    with staged(tmp_path / "a" / "b" / "out") as made:
        made.write_text("main")
        made.with_name("out.data").write_text("beside")
        assert names(tmp_path / "a" / "b") == [made.parent.name]
    assert names(tmp_path / "a" / "b") == ["out", "out.data"]
    assert (tmp_path / "a" / "b" / "out").read_text() == "main"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "a" / "out") as made:
        made.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_folder(out, "one")
    (out / "variables" / "older").write_text("one")
    with pytest.raises(SettingError, match="is there already, and kept as it is"):
        make_folder(out, "two")
    assert (out / MARKER).read_text() == "one"
    make_folder(out, "two", replace=True)
    assert (out / MARKER).read_text() == "two" and names(out / "variables") == ["data"]
    assert names(tmp_path) == ["out"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    make_folder(tmp_path / "photos", "one")  # it was empty
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    (tmp_path / "file").write_text("years")
    for name, text in (("mine", "without model.pb, and is kept"), ("file", "it is a file")):
        with pytest.raises(SettingError, match=text):
            make_folder(tmp_path / name, "two", replace=True)
    with pytest.raises(SettingError, match="it is a folder"), staged(tmp_path / "mine", replace=True):
        pass
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"


def test_the_folder_of_before_is_back_where_the_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    make_folder(out, "one")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.parent.name.startswith(".partial-"):
            raise OSError(28, os.strerror(28))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(SettingError, match="No space left"):
        make_folder(out, "two", replace=True)
    assert (out / MARKER).read_text() == "one" and names(tmp_path) == ["out"]


def test_what_a_killed_writer_left_goes_and_what_a_living_one_makes_stays(tmp_path: Path) -> None:
    left = tmp_path / f".partial-{uuid4().hex}"
    (left / "variables").mkdir(parents=True)
    (tmp_path / ".partial-of-mine").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / f".partial-{uuid4().hex}").symlink_to(elsewhere)
    with staged(tmp_path / "out") as made:
        made.write_text("half")
        # another process: a lock of this one would be its own
        write = "import sys; from pathlib import Path; from headstart.common.outputs import write_text as w; "
        subprocess.run([sys.executable, "-c", write + "w(Path(sys.argv[1]), 'x')", tmp_path / "text"], check=True)
        assert made.read_text() == "half"
    write_text(tmp_path / "text", "more")
    assert names(tmp_path) == [".partial-of-mine", "elsewhere", "out", "text"]
