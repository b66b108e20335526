"""Numbers in texts: what is taken, and what might have been meant as another one."""

from __future__ import annotations

import pytest

from headstart.cli.options import head_of, tried
from headstart.common.durations import parse_seconds
from headstart.common.errors import SettingError
from headstart.common.numbers import number_of, numbers_in, whole_of
from headstart.common.sizes import parse_nbytes
from headstart.training.options.texts import class_weights_of
from headstart.training.planning.table import Budget

pytestmark = pytest.mark.neutral


@pytest.mark.parametrize(
    ("text", "numbers"),
    {
        "0.1": [0.1],
        " 0.1 , 1e-3": [0.1, 0.001],
        ".5,1.,+2,-0.5": [0.5, 1, 2, -0.5],
        "0,0.01,10": [0, 0.01, 10],
    }.items(),
)
def test_lists(text: str, numbers: list[float]) -> None:
    assert numbers_in(text) == numbers


@pytest.mark.parametrize(
    ("text", "said"),
    {
        "0,01": "01 is no number; .*0.01, not 0,01",
        "0,001,0.1": "001 is no number",
        "0.1,,0.2": "nothing stands beside a comma",
        "0.1,": "nothing stands beside a comma",
        "1_000": "'1_000' is no number",
        "０.１": "is no number",
        "½": "is no number",
        "0.1-0.5": "is no number",
        "1e-3;1e-4": "'1e-3;1e-4' is no number; expected numbers with commas between them",
    }.items(),
)
def test_lists_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        numbers_in(text)
    with pytest.raises(SettingError, match=f"--weight-decay {text!r}: .*{said}"):
        tried({"weight_decay": text})
    with pytest.raises(SettingError, match="unknown head"):
        head_of(text)


def test_single_ones() -> None:
    assert whole_of("007") == 7
    with pytest.raises(ValueError, match=r"received '0,01'; did you mean 0\.01\?"):
        number_of("0,01")
    for text in ("1_0", "1.5", "٣", ""):
        with pytest.raises(ValueError, match="expected a whole number"):
            whole_of(text)


def test_a_decimal_comma_is_no_second_value() -> None:
    """Beside a name's weight, and in a budget, where 1,5min would be a byte and five minutes."""
    with pytest.raises(SettingError, match="expected balanced, or names such as"):
        class_weights_of("daisy=2,5")
    for text in ("1,5min", "1,5GB"):
        with pytest.raises(SettingError, match="expected bytes such as 2GB, a time such as"):
            Budget.parse(text)
    assert Budget.parse("1000") == Budget(nbytes=1000)


def test_numbers_with_units() -> None:
    assert (parse_nbytes("1.5 GB"), parse_seconds("1.5h")) == (1_500_000_000, 5400)
    for parse, text in ((parse_nbytes, "1_0MB"), (parse_nbytes, "1,5GB"), (parse_seconds, "１h")):
        with pytest.raises(SettingError, match="expected a number with a unit"):
            parse(text)
