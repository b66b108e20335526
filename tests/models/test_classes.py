"""The names of ImageNet's classes, which lie beside the code."""

from __future__ import annotations

import pytest

from headstart.models.classes import imagenet

pytestmark = pytest.mark.neutral


def test_a_thousand_distinct_names() -> None:
    names = imagenet()
    assert len(names) == len(set(names)) == 1000
    assert all(name and name == name.strip() for name in names)


@pytest.mark.parametrize(
    ("index", "name"),
    [
        (0, "tench"),
        (134, "crane bird"),
        (207, "golden retriever"),
        (281, "tabby"),
        (517, "crane"),
        (638, "maillot"),
        (639, "maillot tank suit"),
        (817, "sports car"),
        (999, "toilet tissue"),
    ],
)
def test_the_place_of_a_name_is_the_classifiers_output(index: int, name: str) -> None:
    assert imagenet()[index] == name
