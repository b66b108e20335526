"""Lists of names in messages: `first_few`."""

from __future__ import annotations

import pytest

from headstart.common.text import first_few


@pytest.mark.parametrize(
    ("texts", "between", "expected"),
    [
        ([], ", ", ""),
        (["a", "b"], ", ", "a, b"),
        (["a", "b", "c"], ", ", "a, b and 1 more"),
        (["a x", "b y", "c z"], "; ", "a x; b y; and 1 more"),
        ([str(i) for i in range(2002)], ", ", "0, 1 and 2,000 more"),
        ({"b": 1, "a": 2, "c": 3}, ", ", "b, a and 1 more"),
    ],
)
def test_the_first_few_and_how_many_more(texts, between, expected):
    assert first_few(texts, 2, between) == expected
