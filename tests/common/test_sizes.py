"""Numbers of bytes, as people write and read them."""

from __future__ import annotations

import pytest

from headstart.common.errors import SettingError
from headstart.common.sizes import parse_nbytes
from headstart.common.text import nbytes_text

pytestmark = pytest.mark.neutral


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0), ("17", 17), ("17B", 17), ("500MB", 500_000_000), ("500 mb", 500_000_000),
        ("1.5GiB", 1_610_612_736), ("2k", 2000), ("2KiB", 2048), ("1TB", 10**12), (" 3G ", 3 * 10**9),
        ("1e3", 1000), (".5kB", 500),
    ],
)  # fmt: skip
def test_sizes(text: str, nbytes: int) -> None:
    assert parse_nbytes(text) == nbytes


@pytest.mark.parametrize(
    "text", ["", "huge", "MB", "-1", "-1GB", "5 apples", "1.2.3GB", "nan", "inf", "5PB", "5BB", "5bi"]
)
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(SettingError, match="is no size; expected a number with a unit"):
        parse_nbytes(text)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_500_000, "1.5 MB"),
        (2 * 10**9, "2.0 GB"),
        (10**13, "10000.0 GB"),
    ],
)
def test_sizes_for_people(nbytes: int, text: str) -> None:
    assert nbytes_text(nbytes) == text
