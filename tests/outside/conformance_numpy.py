"""The distribution's own test: the conformance suite."""

from __future__ import annotations

from typing import Any

from headstart.testing import BackendConformance


class TestNumpy(BackendConformance):
    backend = "numpy"

    def disturb(self, trunk: Any) -> None:
        trunk.network.params["fc.weight"][0, 0] += 1
