"""Weights that a user brings under a name of their own: `headstart weights import mine.pth --model resnet50
--name mine`, and from then on `weights="mine"`.

Each is one safetensors file beside the downloads, with the architecture's own names, its preprocessing and its
classes in it, and where it came from. Invariant: it fits its architecture, since it was fitted before it was kept.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from headstart.common.errors import UnknownNameError, WeightsError
from headstart.common.places import data_root
from headstart.common.removal import BehindLinkError, delete

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
SUFFIX = ".safetensors"


def names(model: str) -> list[str]:
    """What this user imported for the architecture `model`."""
    return sorted(path.name.removesuffix(SUFFIX) for path in folder(model).glob(f"[!.]*{SUFFIX}"))


def find(model: str, name: str) -> Path | None:
    """The file of imported weights, None where there are none of that name."""
    path = folder(model) / f"{name}{SUFFIX}"
    return path if NAME.fullmatch(name) and path.is_file() else None


def remove(model: str, name: str) -> Path:
    """Remove imported weights; returns the path of the file that was. UnknownNameError where there are none,
    WeightsError where they cannot be removed, or lie behind a link."""
    path = find(model, name)
    if path is None:
        raise UnknownNameError("imported weights", name, names(model), f" for {model}")
    with replacing(path, "removed"):
        delete(path, data_root())
    return path


@contextlib.contextmanager
def replacing(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except BehindLinkError as error:
        raise WeightsError(
            f"{path}: cannot be {what}: {error.filename} is a link, and nothing behind links is replaced or "
            "removed. Name the place that it leads to (HEADSTART_DATA), or replace the link by a folder"
        ) from error
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be {what} ({error.strerror or error}); set HEADSTART_DATA to a folder that can be "
            "written"
        ) from error


def folder(model: str) -> Path:
    return data_root() / "weights" / "imported" / model
