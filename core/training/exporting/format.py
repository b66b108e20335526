"""A row of the table of formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from headstart.common.errors import ExportError, SettingError
from headstart.common.text import not_installed
from headstart.contract.programs import HALF, NORMALISED, PART, WRAPPED
from headstart.models.exporting.parts import HEAD, WHOLE
from headstart.training.exporting.request import Opened, Request


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

    def check(self, request: Request, verify: bool, rows: Mapping[str, Format]) -> None:
        """Raises unless it can hold what is asked for, and what that needs is installed. `rows`: of all formats,
        to name one that can."""
        asked = {
            PART: request.part != WHOLE,
            NORMALISED: not request.pixels,
            HALF: request.half,
        }
        for what, is_asked in asked.items():
            if is_asked and what not in self.takes:
                others = [row.name for row in rows.values() if what in row.takes]
                which = f", which goes with {', '.join(others)}" if others else "; leave it out"
                wrapped = " of a wrapped module" if request.graph.backend is not None else ""
                raise SettingError(f"format {self.name!r}{wrapped} has no {what}{which}")
        if (home := request.model.home) is not None and WRAPPED not in self.takes and request.part != HEAD:
            others = [name for name, row in rows.items() if WRAPPED in row.takes and row.backend in (None, home)]
            raise ExportError(
                f"{request.model.name} is a wrapped module, of which headstart knows no graph, and format "
                f"{self.name!r} is written from one; expected one of {', '.join(others)}, or part='head' "
                "(--part head) where its head is a fresh one"
            )
        if self.backend is not None and home not in (None, self.backend) and request.part != HEAD:
            others = [name for name, row in rows.items() if WRAPPED in row.takes and row.backend in (None, home)]
            raise ExportError(
                f"{request.model.name} is a wrapped module of {home}, and format {self.name!r} is written by "
                f"{self.backend}; expected one of {', '.join(others)}, or the same network built in "
                f"{self.backend}, or an ONNX file, which converters take"
            )
        self.require(verify)

    def require(self, verify: bool) -> None:
        """ExportError unless what it is written with, and what verifies it, is installed."""
        needed = (*self.written_with, *(self.run_with if verify else ()))
        if missing := [module for module in needed if find_spec(module) is None]:
            raise ExportError(
                f"format {self.name!r} needs {not_installed(missing)}: {self.install}"
                f"{' (or export to .onnx)' if self.backend is not None else ''}"
            )
