"""Where a backend computes, and what it says of the machine."""

from __future__ import annotations

import json

import pytest

from headstart.common.errors import BackendError, UnknownNameError
from headstart.contract import registry
from headstart.contract.description import FACTS
from headstart.contract.protocol import Backend
from headstart.contract.recipe import PRECISIONS, Place
from headstart.testing.suite import Suite


class Places(Suite):
    """Devices, threads, memory."""

    def test_a_place_is_what_was_asked_for(self, framework: Backend) -> None:
        for precision in PRECISIONS:
            assert framework.place("cpu", precision) == Place("cpu", precision)
            assert framework.place(self.on(), precision).kind == self.on().partition(":")[0]
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
            if device != "cpu":
                with pytest.raises(BackendError, match=rf"device '{device}:999' was asked for.*use device='cpu'"):
                    framework.place(f"{device}:999", "float32")
        for unknown in ("abacus", "cpu:1", f"{devices[-1]}:x"):
            with pytest.raises(UnknownNameError, match=repr(unknown)):
                framework.place(unknown, "float32")

    def test_the_first_of_a_kind_has_its_name(self, framework: Backend, place: Place) -> None:
        if place.kind != "cpu":
            assert framework.place(f"{place.kind}:0", "float32").device == place.kind
        assert framework.place(place.device, "float32") == place

    def test_facts_of_a_device_can_be_kept(self, framework: Backend, place: Place) -> None:
        """As JSON; a CPU has none here."""
        assert framework.device_facts(framework.place("cpu", "float32")) == {}
        facts = framework.device_facts(place)
        assert json.loads(json.dumps(facts)) == facts
        if place.kind != "cpu" and FACTS in registry.describe(self.backend).abilities:
            assert facts.get("name") != "", "a name that says nothing"
            assert isinstance(facts["tf32"], bool)

    def test_threads_are_a_count(self, framework: Backend) -> None:
        threads = framework.threads()
        assert type(threads) is int
        assert 1 <= threads <= 4096

    def test_memory_is_the_devices_own(self, framework: Backend) -> None:
        assert framework.memory(framework.place("cpu", "float32")) is None, "a CPU has no memory of its own"
        place = framework.place(self.on(), "float32")
        if (left := framework.memory(place)) is not None:
            assert type(left) is int
            assert 1 << 20 < left < 1 << 44

    def test_other_errors_say_nothing_of_memory(self, framework: Backend) -> None:
        """What is run again in halves would else be run in vain, and its own error come late."""
        for error in (ValueError("memory"), RuntimeError("shapes do not fit"), BackendError("a bug")):
            assert framework.is_out_of_memory(error) is False
