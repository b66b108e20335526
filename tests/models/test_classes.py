"""The names of ImageNet's classes, which lie beside the code."""

from __future__ import annotations

from typing import Any

import pytest

from headstart.models.classes import imagenet, published

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


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["rose", " tulip "], ("rose", "tulip")),
        (["crane", "tench", "crane"], ("crane (0)", "tench", "crane (2)")),  # as ImageNet's names often are
        (["7", "label_1", "rose"], ("7", "label_1", "rose")),
        (["LABEL_0", "LABEL_1"], None),
        (["0", "1"], None),
        (["rose", None], None),
        (["rose", 1], None),
        (["rose", " "], None),
        (["crane", "crane", "crane (0)"], None),
        ((), None),
    ],
)
def test_the_names_that_a_module_has(labels: list[Any], names: tuple[str, ...] | None) -> None:
    assert published(labels, len(labels)) == names
    assert published(labels, len(labels) + 1) is None
