"""The templates of this folder. Jinja makes Python of them, which takes a tenth of a second, so what it made is
kept from one process to the next."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.bccache import Bucket

from headstart.common.files import replace_whole
from headstart.common.programs import folder_of
from headstart.report import figures

FOLDER = Path(__file__).parent
OPTIONS: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
FILTERS = {"capital": figures.capital}


@cache
def template(name: str) -> jinja2.Template:
    """A template of this folder, which escapes all that it is given."""
    return _environment().get_template(name)


@cache
def _environment() -> jinja2.Environment:
    kept = folder_of(f"jinja-{jinja2.__version__}-{_digest(repr(OPTIONS).encode())[:16]}", "report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        bytecode_cache=Compiled(kept) if kept else None,
        **OPTIONS,
    )
    environment.filters |= FILTERS
    return environment


class Compiled(jinja2.BytecodeCache):
    """A file for each template, behind its digest: Jinja's own such cache fails, or the interpreter does, where a
    file is damaged. Jinja looks whether it was made by this Python from this source."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load_bytecode(self, bucket: Bucket) -> None:
        with suppress(OSError):
            digest, _, code = self._file(bucket).read_bytes().partition(b"\n")
            if digest == _digest(code).encode():
                bucket.bytecode_from_string(code)

    def dump_bytecode(self, bucket: Bucket) -> None:
        code = bucket.bytecode_to_string()
        with suppress(OSError):  # of a full disk: the next process compiles again
            replace_whole(self._file(bucket), [_digest(code).encode(), b"\n", code])

    def _file(self, bucket: Bucket) -> Path:
        return self.folder / bucket.key


def _digest(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()
