"""The formats a model can be exported to: one row each, with what it takes, what writes it and what opens it
again.

A further format is a further row, and nothing else has to know of it. Core's own are here; what a backend's
framework writes is the backend's, and its rows join these in `formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from headstart.common.errors import ExportError, SettingError, UnknownNameError
from headstart.models.exporting.onnx_model import HEAD, WHOLE
from headstart.training.exporting import onnx_file, safetensors_file
from headstart.training.exporting.request import Opened, Request

PART, NORMALISED, HALF, WRAPPED = "part=", "pixels=False", "half=True", "wrapped modules"
"""what a format may take beside whole models of headstart's own that take pixels"""


@dataclass(frozen=True)
class Format:
    """A row of the table."""

    name: str
    suffixes: tuple[str, ...]
    """of the files, or folders, that are called so; the first is its own"""
    use: str
    """who takes it"""
    write: Callable[[Request, Path], None]
    """makes the file, or folder, at a path where nothing is yet. Raises OSError, and ExportError where it cannot
    hold such a model"""
    open: Callable[[Path, Request], Opened]
    """opens it by what will run it; whatever that raises means that the file is no good"""
    note: Callable[[Request, Path, str], None]
    """writes into its metadata what verification has said; raises OSError"""
    takes: frozenset[str] = frozenset()
    beside: Callable[[Path], Sequence[Path]] = lambda path: ()
    """what its exports to a path have put beside that, to be removed where another export replaces them"""
    marker: str = ""
    """of a format that is a folder: a file that every such folder has. "": it is a file"""
    plain: bool = False
    """whether it gives logits alone, without probabilities"""
    backend: str | None = None
    """the only one that can write it; None: it is core's"""
    written_with: tuple[str, ...] = ()
    run_with: tuple[str, ...] = ()
    """modules that must be importable to write it, and to verify it"""
    install: str = ""
    """the command that installs them"""

    def check(self, request: Request, verify: bool) -> None:
        """Raises unless it can hold what is asked for, and what that needs is installed."""
        asked = {
            PART: request.part != WHOLE,
            NORMALISED: not request.pixels,
            HALF: request.half,
        }
        for what, is_asked in asked.items():
            if is_asked and what not in self.takes:
                others = [row.name for row in formats().values() if what in row.takes]
                raise SettingError(f"format {self.name!r} has no {what}, which goes with {', '.join(others)}")
        if (home := request.model.home) is not None and WRAPPED not in self.takes and request.part != HEAD:
            others = [
                name for name, row in formats().items() if WRAPPED in row.takes and row.backend in (None, home)
            ]
            raise ExportError(
                f"{request.model.name} is a wrapped module, of which headstart knows no graph, and format "
                f"{self.name!r} is written from one; expected one of {', '.join(others)}, or part='head' "
                "(--part head) where its head is a fresh one"
            )
        if self.backend is not None and request.backend != self.backend:
            raise ExportError(
                f"format {self.name!r} is written by the backend {self.backend!r}, and this run is of "
                f"{request.backend!r}: hs.load(path, backend={self.backend!r}), or --backend {self.backend}"
            )
        needed = (*self.written_with, *(self.run_with if verify else ()))
        if missing := [module for module in needed if find_spec(module) is None]:
            raise ExportError(
                f"format {self.name!r} needs {' and '.join(missing)}, which is not installed: {self.install}"
            )


OWN = (
    Format(
        "onnx",
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


def formats() -> Mapping[str, Format]:
    """Name -> row, of all there are."""
    return {row.name: row for row in OWN}


def format_for(path: Path, name: str | None) -> Format:
    """The format of this name, or, without one, that of the path's suffix. UnknownNameError for one that is none,
    SettingError where the two say different things."""
    rows = formats()
    by_suffix = {suffix: row for row in rows.values() for suffix in row.suffixes}
    of_path = by_suffix.get(path.suffix.lower())
    if name is None:
        if of_path is None:
            raise UnknownNameError("suffix", path.suffix, by_suffix, f" of {path}, which says no format")
        return of_path
    if name not in rows:
        raise UnknownNameError("format", name, rows)
    if of_path is not None and of_path.name != name:
        raise SettingError(
            f"{path}: by its suffix of format {of_path.name!r}, and format={name!r} is asked for; expected "
            f"{rows[name].suffixes[0]}, or another format"
        )
    return rows[name]
