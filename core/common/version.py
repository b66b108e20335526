"""The version of headstart, as records and reports have it: that of the installed distribution, which is made from
git's tags when it is built. So it stands in no file that somebody could forget to change."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from headstart.common.text import shortened

try:
    __version__ = version("headstart")
except PackageNotFoundError:  # the folder alone, on a path
    __version__ = "0+unknown"


def written_by(record: Mapping[str, Any]) -> str:
    """For an error about a record that this version does not read, which version wrote it: ", written by headstart
    2.0"; "" where the record does not say."""
    return f", written by headstart {shortened(str(record['headstart']))}" if "headstart" in record else ""
