"""What Python has not on Windows, and in part not on macOS: nothing asks for it there that could do without."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.cli.asked import Asked
from headstart.common.machine import cache_root
from headstart.common.outputs import write_text
from headstart.training.exporting import framework_file

pytestmark = pytest.mark.neutral


def test_pictures_have_ids_where_users_have_no_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, shade in (("dog", 40), ("cat", 200)):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(tmp_path / "photos" / kind / "0.png")
    ids = list(hs.data.folder(tmp_path / "photos").ids)
    cache_root().mkdir(parents=True, exist_ok=True)
    monkeypatch.delattr(os, "geteuid")
    assert list(hs.data.folder(tmp_path / "photos").ids) == ids


def test_a_question_ends_where_processes_have_no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "killpg")
    with Asked("hub", "") as asked:
        pass
    assert asked._process.returncode not in (None, 0)


def test_a_device_is_written_where_blocking_cannot_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "set_blocking")
    assert write_text(Path(os.devnull), "nothing") == Path(os.devnull)


def test_a_disk_that_cannot_be_asked_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert framework_file._refusal(tmp_path, 1 << 62) is not None
    monkeypatch.delattr(os, "posix_fallocate")
    assert framework_file._refusal(tmp_path, 1 << 62) is None
