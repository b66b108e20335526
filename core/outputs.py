"""Files that are written for people and other programs: whole or not at all; a wrong path is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headstart.errors import SettingError


def write_text(path: Path, text: str) -> Path:
    """Write a file whole or not at all, and its folder if need be; SettingError where it cannot be written."""
    from headstart.features.files import replace_whole

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(path, [text.encode()])
    except OSError as error:
        raise SettingError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def write_json(path: Path, content: Any) -> Path:
    """Write `content` as indented JSON; see `write_text`."""
    return write_text(path, json.dumps(content, indent=1) + "\n")
