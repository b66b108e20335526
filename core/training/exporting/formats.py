"""The formats a model can be exported to: one row each, with what it takes, what writes it and what opens it
again.

A further format is a further row, and nothing else has to know of it. Core's own are here; what a backend's
framework writes is the backend's, and its rows join these in `formats`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from headstart.common.errors import SettingError, UnknownNameError
from headstart.contract import registry
from headstart.contract.programs import HALF, NORMALISED, ONNX, PART, WRAPPED
from headstart.training.exporting import framework_file, onnx_file, safetensors_file
from headstart.training.exporting.format import Format
from headstart.training.exporting.request import Request

OWN = (
    Format(
        ONNX,
        (".onnx",),
        "onnxruntime, OpenVINO, TensorRT, converters for phones",
        onnx_file.write,
        onnx_file.opened,
        onnx_file.note,
        frozenset({PART, NORMALISED, HALF}),
        onnx_file.beside,
        written_with=("onnx",),
        run_with=("onnxruntime",),
        install="pip install 'headstart[onnx]'",
    ),
    Format(
        "safetensors",
        (".safetensors",),
        "torchvision, timm: whoever has the architecture and loads weights by name",
        safetensors_file.write,
        safetensors_file.WeightsOf,
        safetensors_file.note,
        frozenset({WRAPPED}),
        plain=True,
    ),
)

WEIGHTS_ALONE = (".pth", ".pt", ".ckpt", ".bin")
"""suffixes of files of weights that others write, and that are not written here"""


def formats() -> Mapping[str, Format]:
    """Name -> row, of all there are: of backends that are not installed as well."""
    theirs = (framework_file.row(backend, known) for backend, known in registry.formats().values())
    own = {row.name: row for row in OWN}
    return own | {row.name: row for row in theirs if row.name not in own}


def of_module(row: Format, request: Request) -> Format:
    """The row that writes this: ONNX of what holds a part of a wrapped module is written by its backend, where
    that can."""
    backend = request.graph.backend
    if row.name != ONNX or backend is None or (needed := registry.describe(backend).onnx) is None:
        return row
    install = registry.describe(backend).onnx_install or row.install
    return replace(
        row,
        write=partial(onnx_file.write_module, backend),
        takes=row.takes | {WRAPPED},
        written_with=(*row.written_with, *needed),
        install=install,
    )


def format_for(path: Path, name: str | None) -> Format:
    """The format of this name, or, without one, that of the path's suffix. UnknownNameError for one that is none,
    SettingError where the two say different things."""
    rows = formats()
    by_suffix = {suffix: row for row in rows.values() for suffix in row.suffixes}
    of_path = by_suffix.get(path.suffix.lower())
    if name is None:
        if of_path is None:
            meant = ".safetensors" if path.suffix.lower() in WEIGHTS_ALONE else None
            raise UnknownNameError("suffix", path.suffix, by_suffix, f" of {path}, which says no format", meant)
        return of_path
    if name not in rows:
        raise UnknownNameError("format", name, rows)
    if of_path is not None and of_path.name != name:
        raise SettingError(
            f"{path}: by its suffix of format {of_path.name!r}, and format={name!r} is asked for; expected "
            f"{rows[name].suffixes[0]}, or another format"
        )
    return rows[name]
