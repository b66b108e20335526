"""A user's own weight file, read, fitted to an architecture and kept (`headstart weights import`). Where it is
kept, and how it is found again, is in `headstart.models.imported`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.download import digest
from headstart.common.errors import SettingError, WeightsError
from headstart.common.files import replace_whole
from headstart.common.outputs import writing_into
from headstart.common.places import data_root, expanded
from headstart.common.reading import check_regular
from headstart.common.redact import redacted
from headstart.common.removal import require_no_link
from headstart.data.names import class_list
from headstart.data.preprocess import Preprocess
from headstart.models.architecture import Architecture
from headstart.models.imported import NAME, SUFFIX, folder, replacing
from headstart.models.pickles import SUFFIXES, convert
from headstart.models.tensors import tensor_chunks
from headstart.models.weights import RANDOM, count_outputs, fit_to, meaning, read_weights
from headstart.models.zoo import architecture


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
    differ from the file's own, or else the architecture's, by the names of `Preprocess`. `replace`:
    whether weights of that name give way.

    Raises WeightsError (not readable, does not fit), SettingError, UnknownNameError, BackendError (no torch).
    """
    arch, path = architecture(model), expanded(path)
    target = _target(arch, name if name is not None else path.stem, replace)
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
        **meaning(**file.means),
    }
    tensors = {
        theirs: np.ascontiguousarray(params[ours]).reshape(shape)
        for ours, (theirs, shape) in arch.layouts[0].names(graph).items()
        if ours in params
    }
    with replacing(target, "written"):
        if os.path.lexists(target):
            require_no_link(data_root(), target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        with writing_into(target.parent):
            replace_whole(target, tensor_chunks(tensors, metadata))  # a link of that name, not its target
    return target


def _target(arch: Architecture, name: str, replace: bool) -> Path:
    """The file that keeps weights of this name. SettingError for a name that cannot be had."""
    if not NAME.fullmatch(name):
        raise SettingError(f"name {name!r}: expected letters, digits and . _ + -, of which the first is no sign")
    if name in arch.weights or name == RANDOM:
        raise SettingError(f"name {name!r} is taken by {arch.name}'s published weights; choose another")
    target = folder(arch.name) / f"{name}{SUFFIX}"
    if target.exists() and not replace:
        raise SettingError(
            f"{arch.name} has weights called {name!r} already; choose another name, or let them be replaced "
            "(--replace)"
        )
    return target


def is_pickle(path: Path) -> bool:
    """Whether a file is one by its name, or by its first bytes: those of a zip, as torch writes, or a pickle's."""
    if path.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as stream:
        start = stream.read(9)
    return start[8:9] != b"{" and start.startswith((b"PK\x03\x04", b"\x80"))  # safetensors has its header there


def _unpickled(path: Path) -> Any:
    scratch_folder = data_root() / "weights"
    try:
        scratch_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".import-", dir=scratch_folder) as scratch:
            converted = Path(scratch, f"weights{SUFFIX}")
            convert(path, converted, {})
            return read_weights(converted)
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be converted in {scratch_folder} ({error.strerror or error}); set HEADSTART_DATA to "
            "a folder that can be written"
        ) from error


def _preprocess(usual: Preprocess, settings: Mapping[str, Any]) -> Preprocess:
    """`usual` with the given settings; a size alone scales the resizing with it."""
    given = {key: value for key, value in settings.items() if value is not None}
    if "size" in given and "resize" not in given:
        usual = usual.with_size(given["size"])
    return Preprocess.from_dict(usual.as_dict() | given)
