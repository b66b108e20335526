"""Opens `.stablehlo` files, which `jax.export` writes, with jax alone.

What jax serialises has no room for texts, so they lie behind it, in the same file, as a zip archive of one entry.
A flatbuffer begins where its file begins, and what is behind it is not looked at; a zip archive is read from its
end, whatever is in front of it. So `jax.export.deserialize` takes the file as it is, and so does `zipfile`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import jax
import numpy as np
from jax import export

TEXTS = "headstart.json"
"""the archive's entry that holds what a file says of itself"""
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def load(path: str) -> tuple[dict[str, str], Run]:
    program = export.deserialize(bytearray(Path(path).read_bytes()))
    call = jax.jit(program.call)

    def run(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with jax.default_device(_cpu()):
            outputs = call(**arrays)
        return {name: np.asarray(array) for name, array in outputs.items()}

    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(TEXTS)), run


def note(path: str, texts: Mapping[str, str]) -> None:
    with Path(path).open("r+b") as file:
        with zipfile.ZipFile(file) as archive:
            entry = archive.getinfo(TEXTS)
            before = json.loads(archive.read(entry))
        file.seek(entry.header_offset)
        file.truncate()
        _append(file, before | dict(texts))


def save(program: export.Exported, path: str, texts: Mapping[str, str]) -> None:
    with Path(path).open("wb") as file:
        file.write(program.serialize())
        _append(file, texts)


def _append(file: IO[bytes], texts: Mapping[str, str]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(TEXTS), json.dumps(dict(texts)))


def _cpu() -> jax.Device | None:
    """None, which is JAX's default device, where it may use no CPU (JAX_PLATFORMS)."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return None
