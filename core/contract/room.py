"""What a user is told where a device has no room left, whichever framework says so in its own words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headstart.common.errors import DeviceMemoryError
from headstart.contract.devices import reason_of


@dataclass(frozen=True)
class Room:
    """Of one device, for one backend."""

    device: str
    is_out_of_memory: Callable[[BaseException], bool]
    """the backend's"""

    def check(self, error: BaseException, what: str, mend: str) -> None:
        """DeviceMemoryError for an error that says that there was no room for `what`; `mend`: what a user can do
        beside taking another device."""
        if self.is_out_of_memory(error):
            raise DeviceMemoryError(
                f"device {self.device!r} has no room for {what} ({reason_of(error)}); {mend}, or device='cpu'"
            ) from error
