"""A set of ids that is kept beside a run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from headstart.data.dataset import sample_id
from headstart.data.id_set import NBYTES, IdSet

pytestmark = pytest.mark.neutral


def ids_of(numbers: range) -> list[str]:
    return [sample_id(str(number).encode()) for number in numbers]


def test_it_holds_what_it_was_given_and_nothing_else() -> None:
    ids = ids_of(range(20_000))
    held = IdSet.of(ids[:10_000])
    assert len(held) == 10_000
    assert held.count(ids[:10_000]) == 10_000 and held.count(ids[10_000:]) == 0
    assert held.count([ids[3], ids[3], ids[-1]]) == 2, "each that is asked for counts"
    assert held.count([]) == 0 and IdSet.of([]).count(ids) == 0
    assert len(IdSet.of([ids[0]] * 5)) == 1


def test_it_goes_there_and_back() -> None:
    for count in (0, 1, 1000):
        ids = [*ids_of(range(count)), "0" * 32, "f" * 32]
        held = IdSet.of(ids)
        saved = json.loads(json.dumps(held.as_dict()))
        again = IdSet.from_dict(saved)
        assert len(again) == len(held) == count + 2 and again.count(ids) == count + 2
        assert len(saved["ids"]) <= np.ceil(NBYTES * (count + 2) / 3) * 4, "eight characters a sample"
        assert again.as_dict() == saved


def test_what_is_no_set_is_refused() -> None:
    sound = IdSet.of(ids_of(range(3))).as_dict()
    for wrong in ({"nbytes": 5}, {"ids": "*no*"}, {"ids": sound["ids"][:-4]}):
        with pytest.raises(ValueError):
            IdSet.from_dict({**sound, **wrong})
