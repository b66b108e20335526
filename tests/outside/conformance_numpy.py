"""The distribution's own test: the conformance suite."""

from __future__ import annotations

from typing import Any

import pytest

from headstart.testing import BackendConformance


class TestNumpy(BackendConformance):
    backend = "numpy"

    def test_gradients_go_through_every_op(self) -> None:
        pytest.skip("it trains residual networks only: what else there is has no gradients")

    def disturb(self, trunk: Any) -> None:
        trunk.network.params["fc.weight"][0, 0] += 1
