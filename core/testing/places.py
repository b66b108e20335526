"""Where a backend computes, and what it says of the machine."""

from __future__ import annotations

import pytest

from headstart.common.errors import BackendError, UnknownNameError
from headstart.contract import registry
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.testing.suite import Suite


class Places(Suite):
    """Devices, threads, memory."""

    def test_a_place_is_what_was_asked_for(self, framework: Backend) -> None:
        for precision in ("float32", "bfloat16"):
            assert framework.place("cpu", precision) == Place("cpu", precision)
            decided = framework.place("auto", precision)
            assert decided.device != "auto", "nothing was decided"
            assert decided == framework.place(decided.device, precision)

    def test_a_missing_device_is_named(self, framework: Backend) -> None:
        """And one that the backend does not know is refused."""
        devices = registry.describe(self.backend).devices
        assert "cpu" in devices
        for device in devices:
            try:
                assert framework.place(device, "float32").device == device
            except BackendError as error:
                assert device != "cpu"
                assert f"device {device!r} was asked for" in str(error)
                assert "use device='cpu'" in str(error)
        with pytest.raises(UnknownNameError, match="'abacus'"):
            framework.place("abacus", "float32")

    def test_threads_are_a_count(self, framework: Backend) -> None:
        threads = framework.threads()
        assert type(threads) is int
        assert 1 <= threads <= 4096

    def test_memory_is_the_devices_own(self, framework: Backend) -> None:
        assert framework.memory(framework.place("cpu", "float32")) is None, "a CPU has no memory of its own"
        place = framework.place("auto", "float32")
        if (left := framework.memory(place)) is not None:
            assert type(left) is int
            assert 1 << 20 < left < 1 << 44
