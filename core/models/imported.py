"""Weights that a user brings under a name of their own: `headstart weights import mine.pth --model resnet50
--name mine`, and from then on `weights="mine"`.

Each is one safetensors file beside the downloads, with the architecture's own names, its preprocessing and its
classes in it, and where it came from. Invariant: it fits its architecture, since it was fitted before it was kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_safetensors

from headstart.common.download import digest
from headstart.common.errors import SettingError, UnknownNameError, WeightsError
from headstart.common.outputs import writing_into
from headstart.common.places import data_root, expanded
from headstart.common.reading import check_regular
from headstart.common.redact import redacted
from headstart.common.removal import BehindLinkError, delete, require_no_link
from headstart.data.names import class_list
from headstart.data.preprocess import Preprocess

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
SUFFIX = ".safetensors"


def import_weights(
    path: str | Path,
    model: str,
    name: str | None = None,
    *,
    allow_pickle: bool = False,
    classes: Sequence[str] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> Path:
    """Keep the weights in `path` for the architecture `model`, as `weights=name`; returns the file that is kept.

    `path`: safetensors, or with `allow_pickle` what torch.save wrote, of which only tensors are read, in a process
    of its own. Names may be of any of the architecture's layouts, with prefixes such as `module.`. `name`: default
    the file's, without its suffix. `classes`: names of the classifier's outputs. `preprocess`: settings that
    differ from the file's own, or else the architecture's: size, resize, interpolation, mean, std. `replace`:
    whether weights of that name give way.

    Raises WeightsError (not readable, does not fit), SettingError, UnknownNameError, BackendError (no torch).
    """
    from headstart.common.files import replace_whole
    from headstart.models.weights import count_outputs, fit_to, read_weights
    from headstart.models.zoo import architecture

    arch, path = architecture(model), expanded(path)
    name = name if name is not None else path.stem
    if not NAME.fullmatch(name):
        raise SettingError(f"name {name!r}: expected letters, digits and . _ + -, of which the first is no sign")
    if name in arch.weights or name == "none":
        raise SettingError(f"name {name!r} is taken by {arch.name}'s published weights; choose another")
    target = _folder(arch.name) / f"{name}{SUFFIX}"
    if target.exists() and not replace:
        raise SettingError(
            f"{arch.name} has weights called {name!r} already; choose another name, or let them be replaced "
            "(--replace)"
        )
    if not path.is_file():
        raise WeightsError(f"{path}: no such weight file")
    check_regular(path, WeightsError)
    source_sha256 = digest(path)
    if is_pickle(path):
        if not allow_pickle:
            raise WeightsError(
                f"{path}: a pickle, which can run any code when it is read. Convert it to .safetensors where it "
                "comes from; or pass --allow-pickle, with which only tensors are read from it, by a torch that "
                "sees to that, in a process of its own"
            )
        file = _unpickled(path)
    else:
        file = read_weights(path)
    settings = _preprocess(file.preprocess or arch.preprocess, preprocess or {})
    graph, params = fit_to(arch, str(path), file.params, settings.size)
    graph.main.shapes((settings.size, settings.size, 3))
    names = file.classes if classes is None else class_list(classes, SettingError)
    count = count_outputs(arch, file.params)
    if names is not None and len(names) != count:
        raise SettingError(
            f"{len(names)} classes are named, and the classifier in {path} has {count or 'no'} outputs"
        )
    metadata = {
        "format": "pt",
        "architecture": arch.name,
        "preprocess": json.dumps(settings.as_dict()),
        "source": redacted(str(path.absolute())),
        "source_sha256": source_sha256,
        **({"classes": json.dumps(list(names))} if names is not None else {}),
    }
    tensors = {
        theirs: np.ascontiguousarray(params[ours]).reshape(shape)
        for ours, (theirs, shape) in arch.layouts[0].names(graph).items()
        if ours in params
    }
    with _replacing(target, "written"):
        if os.path.lexists(target):
            require_no_link(data_root(), target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        with writing_into(target.parent):
            replace_whole(target, [save_safetensors(tensors, metadata)])  # a link of that name, not its target
    return target


def names(model: str) -> list[str]:
    """What this user imported for the architecture `model`."""
    return sorted(path.name.removesuffix(SUFFIX) for path in _folder(model).glob(f"[!.]*{SUFFIX}"))


def find(model: str, name: str) -> Path | None:
    """The file of imported weights, None where there are none of that name."""
    path = _folder(model) / f"{name}{SUFFIX}"
    return path if NAME.fullmatch(name) and path.is_file() else None


def remove(model: str, name: str) -> Path:
    """Remove imported weights; returns the path of the file that was. UnknownNameError where there are none,
    WeightsError where they cannot be removed, or lie behind a link."""
    path = find(model, name)
    if path is None:
        raise UnknownNameError("imported weights", name, names(model), f" for {model}")
    with _replacing(path, "removed"):
        delete(path, data_root())
    return path


@contextlib.contextmanager
def _replacing(path: Path, what: str) -> Iterator[None]:
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


def is_pickle(path: Path) -> bool:
    """Whether a file is one by its name, or by its first bytes: those of a zip, as torch writes, or a pickle's."""
    from headstart.models.pickles import SUFFIXES

    if path.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as stream:
        start = stream.read(9)
    return start[8:9] != b"{" and start.startswith((b"PK\x03\x04", b"\x80"))  # safetensors has its header there


def _unpickled(path: Path) -> Any:
    from headstart.models.pickles import convert
    from headstart.models.weights import read_weights

    folder = data_root() / "weights"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".import-", dir=folder) as scratch:
            converted = Path(scratch, f"weights{SUFFIX}")
            convert(path, converted, {})
            return read_weights(converted)
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be converted in {folder} ({error.strerror or error}); set HEADSTART_DATA to a folder "
            "that can be written"
        ) from error


def _preprocess(usual: Preprocess, settings: Mapping[str, Any]) -> Preprocess:
    """`usual` with the given settings; a size alone scales the resizing with it."""
    given = {key: value for key, value in settings.items() if value is not None}
    if "size" in given and "resize" not in given:
        usual = usual.with_size(given["size"])
    return Preprocess.from_dict(usual.as_dict() | given)


def _folder(model: str) -> Path:
    return data_root() / "weights" / "imported" / model
