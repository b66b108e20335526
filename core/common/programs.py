"""Folders for what a program has compiled and may run as it is found: in the cache, beside the features, and only
where nobody else may write."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from headstart.common.errors import HeadstartError
from headstart.common.log import LOG
from headstart.common.machine import cache_root

FOLDER = "programs"
"""in the cache's folder"""


def folder_of(name: str, whose: str) -> Path | None:
    """The folder of that name, made where it is missing. None where it cannot be kept safely: the log says why, of
    `whose` it is, and nobody need do anything."""
    try:
        folder = cache_root() / FOLDER / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (reason := _unsafe(folder)):
            return folder
        reason = f"{folder} {reason}"
    except (HeadstartError, OSError) as error:
        reason = str(error)
    LOG.debug("%s: compiled programs are not kept: %s", whose, reason)
    return None


def _unsafe(folder: Path) -> str:
    """Why what lies in a folder must not be run; "" where nobody else may write there."""
    if not os.access(folder, os.W_OK):
        return "cannot be written to"
    status = folder.stat()
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        return "belongs to somebody else"
    return "may be written to by others" if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""
