"""Paths as people write them: what is none is said, and no folder is called after an address."""

from __future__ import annotations

from pathlib import Path

import pytest

import headstart as hs
from headstart.common.errors import SettingError
from headstart.common.outputs import check_outputs, write_text
from headstart.common.places import expanded
from headstart.training.settings import checked_folder

pytestmark = pytest.mark.neutral

ADDRESSES = ["s3://bucket/run", "gs://bucket", "az://c/x.json", "file:///tmp/run", "https://example.org/run"]


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_no_path(address: str, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = kind(address)
    for door in (
        expanded,
        hs.load,
        hs.load_features,
        lambda path: write_text(Path(path), "x"),
        lambda path: check_outputs(file=Path(path)),
        lambda path: check_outputs(folder=Path(path)),
        lambda path: checked_folder("profile", path),
    ):
        with pytest.raises(SettingError, match=r"^\w+://[\w/.]+ is an address; expected the path"):
            door(place)
    assert list(tmp_path.iterdir()) == []


def test_secrets_in_an_address_are_not_said() -> None:
    with pytest.raises(SettingError, match="is an address") as said:
        expanded("https://name:verysecret@example.org/run?X-Amz-Signature=alsosecret")
    assert "secret" not in str(said.value)


def test_what_looks_like_an_address_and_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "run").mkdir(parents=True)
    assert expanded("s3:/run") == Path("s3:/run")
    assert expanded("a:/b") == Path("a:/b") and expanded("C:\\runs") == Path("C:\\runs")
