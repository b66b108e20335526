"""A pytest plugin that has a whole session see the CUDA device that is not there:

PYTHONPATH=tests HEADSTART_TEST_DEVICE=cuda HEADSTART_BACKEND=torch pytest -p pretended_card FILES
"""

from __future__ import annotations

from collections.abc import Iterator

import pretended
import pytest


@pytest.fixture(autouse=True, scope="session")
def card() -> Iterator[pretended.Card]:
    with pretended.cuda() as there:
        yield there
