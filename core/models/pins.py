"""Which bytes of the Hugging Face hub a name means.

A pin is a commit of a repository and the sha256 of a file in it. The architecture states it, or the table in this
package (`pins.json`, which `headstart weights pin` writes). Else it is made at the first use: what the hub's
`main` holds then is written down beside the user's data, and every later download and every later use are held to
it. So a `main` that has moved changes nothing until `headstart weights update`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from headstart.common.errors import DownloadError, SettingError, WeightsError
from headstart.common.outputs import json_text, written_whole
from headstart.common.places import data_root
from headstart.common.reading import DictOf, Optional, read_json
from headstart.models.architecture import Hub

LARGEST_TABLE = 16 << 20  # bytes
PIN = {"revision": Optional(str), "sha256": Optional(str)}


@dataclass(frozen=True)
class Pin:
    """Which file of a repository is meant; None: not known yet."""

    revision: str | None = None
    """commit, 40 hex digits"""
    sha256: str | None = None
    """of the file's bytes"""

    def __post_init__(self) -> None:
        for name, digits in (("revision", 40), ("sha256", 64)):
            value = getattr(self, name)
            if value is not None and not (
                isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", value)
            ):
                raise SettingError(f"{name} is {value!r}; expected {digits} hex digits")

    @property
    def complete(self) -> bool:
        return self.revision is not None and self.sha256 is not None

    def filled(self, other: Pin) -> Pin:
        """What this one leaves open as `other` has it, unless the two contradict each other."""
        mine, theirs = asdict(self), asdict(other)
        if any(mine[key] and theirs[key] and mine[key] != theirs[key] for key in mine):
            return self
        return Pin(**{key: mine[key] or theirs[key] for key in mine})


def pinned(published: Hub) -> Pin:
    """What is known of the file that `published` means: stated, or seen at its first use."""
    return stated(published).filled(read_pins(own_pins()).get(key(published), Pin()))


def key(published: Hub) -> str:
    """The name of the file `published` in tables of pins."""
    return f"{published.repo}/{published.file}"


def shipped_pins() -> Path:
    """The table in this package."""
    return Path(str(resources.files("headstart.models") / "pins.json"))


def own_pins() -> Path:
    """The table of what this user's first uses found."""
    return data_root() / "weights" / "pins.json"


def read_pins(path: Path) -> dict[str, Pin]:
    """The table in a file: none is an empty one. Raises WeightsError where it cannot be read."""
    try:
        table = read_json(path, LARGEST_TABLE, "a table of pinned weights", DictOf(PIN), WeightsError)
        return {name: Pin(**fields) for name, fields in table.items()}
    except FileNotFoundError:
        return {}
    except (SettingError, WeightsError, TypeError) as error:
        raise WeightsError(f"{path}: not a table of pinned weights ({error}); repair or remove it") from error


def write_pins(path: Path, pins: Mapping[str, Pin]) -> None:
    """Write a table of pins, whole or not at all. Raises OSError."""
    table = {name: asdict(pins[name]) for name in sorted(pins)}
    written_whole(path, [(json_text(table, indent=1) + "\n").encode()])


def stated(published: Hub) -> Pin:
    """What this release says: the architecture, and the table in the package."""
    return Pin(published.revision, published.sha256).filled(read_pins(shipped_pins()).get(key(published), Pin()))


def record(published: Hub, pin: Pin) -> None:
    """Write the pin down beside the user's data. Raises DownloadError where nothing can be written there."""
    from huggingface_hub.utils import WeakFileLock

    path = own_pins()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path.with_suffix(".lock")):  # another process may be adding its own
            write_pins(path, read_pins(path) | {key(published): pin})
    except OSError as error:
        raise DownloadError(
            f"{path}: which file {published.repo} means cannot be written down ({error.strerror or error}); set "
            "HEADSTART_DATA to a folder that can be written"
        ) from error
