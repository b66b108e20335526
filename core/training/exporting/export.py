"""`hs.export`, `Run.export`: a model as a file for other programs, which is there when it has been shown to
compute what the model computes, and not before."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

from headstart.common.errors import ExportMismatchError, SettingError, UnknownNameError
from headstart.common.places import expanded
from headstart.common.staging import staged, writing
from headstart.common.text import nbytes_text
from headstart.contract import registry
from headstart.models import check_model
from headstart.models.exporting.parts import HEAD, PARTS, WHOLE
from headstart.training.exporting.format import Format
from headstart.training.exporting.formats import format_for, formats, of_module
from headstart.training.exporting.request import Request
from headstart.training.exporting.samples import probes
from headstart.training.exporting.verify import Verification, held_to_the_model, said_by
from headstart.training.run_record import RunRecord


@dataclass(frozen=True)
class Exported:
    """What `export` has written."""

    path: Path
    format: str
    part: str
    cut: str | None
    """None of a whole model"""
    nbytes: int
    verification: Verification | None
    """None where nothing was verified"""

    def line(self) -> str:
        """For people."""
        part = "" if self.part == WHOLE else f" of the {self.part} at {self.cut}"
        proof = "not verified" if self.verification is None else self.verification.line()
        return f"{self.path}: {self.format}{part}, {nbytes_text(self.nbytes)}; {proof}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        proof = None if self.verification is None else self.verification.as_dict()
        return {**vars(self), "path": str(self.path), "verification": proof}


def export(
    model: Any,
    path: str | Path,
    data: Any = None,
    *,
    format: str | None = None,
    part: str = WHOLE,
    cut: str | None = None,
    pixels: bool = True,
    half: bool = False,
    verify: bool = True,
    replace: bool = False,
    backend: str | None = None,
    device: str = "auto",
) -> Exported:
    """Write a model as a file for other programs: `model` is a run, or a model as `hs.model`, `hs.wrap` give it.

    `format`: "onnx" or "safetensors"; of the frameworks' own, which need the framework, "pt2" (PyTorch),
    "stablehlo" (JAX), "keras", "savedmodel" and "tflite" (Keras on TensorFlow); None: as the path's suffix says.
    A file takes `images`, uint8 `(n, size, size, 3)` in RGB for any n, normalises them itself, and gives `logits`
    and `probabilities` (of several labels `logits` and `scores`, of numbers `values` in their units), float32
    `(n, classes)`; classes, preprocessing and task stand in its metadata. A wrapped module's takes the arrays that
    the module takes.
    `pixels=False`: it takes `pixel_values`, already preprocessed, float32 `(n, 3, size, size)`, and
    `(n, size, size, 3)` in JAX's and Keras's formats. `half`: its weights and arithmetic are float16.
    `part`: "trunk", from pictures to `features` at `cut`, channels last, as the store has them; "head", from
    `features` there to the outputs; "whole". `cut`: a legal cut; None: the run's own.

    What was written is opened by what will run it, and held to the model itself at batches of 1, 2 and 7: outputs
    within 1e-3, relative, with `half` 2e-2, and the same answers. On `data`: a folder, files, a data set, whatever
    `hs.predict` takes; None: the run's validation data, where it has them (it has after `fit`, not after `load`);
    else on random pictures, which is said. `verify=False` leaves that out, and the file says so. `backend`,
    `device`: with which the model itself is run for it; None: the run's own.

    `replace`: whether something may be replaced that is there already. Until all is well nothing is written under
    the path, and it keeps what it holds. Raises ExportMismatchError (an ExportError) where the file differs from
    the model; ExportError for a model that the format cannot hold, and for a missing package; UnknownNameError,
    CutError; SettingError for what else is not allowed, and where the path cannot be written.
    """
    val = None
    if isinstance(model, RunRecord):
        run, model = model, model.model
        backend, val = (run.backend if backend is None else backend), run.val
        cut = (run.cut if part != WHOLE else None) if cut is None else cut
    check_model(model)
    for name, value in (("verify", verify), ("replace", replace)):
        if not isinstance(value, bool):
            raise SettingError(f"{name}={value!r}; expected True or False")
    if data is not None and not verify:
        raise SettingError(
            "data= (--data) is what an export is verified on, and verify=False (--no-verify) leaves that out; "
            "expected one of them"
        )
    target = expanded(path)
    _check_name(target)
    row = format_for(target, format)
    request = _request(model, part, cut, pixels, half, backend or row.backend)
    row = of_module(row, request)
    row.check(request, verify, {name: of_module(other, request) for name, other in formats().items()})
    registry.check_place(device, "float32")
    if verify:  # before anything is written
        request = replaced(request, backend=registry.choose(request.backend, model.home))
    with staged(target, replace, row.marker) as made:
        with writing(target):
            row.write(request, made)
        proof = None
        if verify:
            proof = _proof(row, request, made, target, probes(request, data, val), device)
            with writing(target):
                row.note(request, made, json.dumps(proof.for_file(), sort_keys=True))
        nbytes = sum(file.stat().st_size for file in made.parent.rglob("*") if file.is_file())
        names = {entry.name for entry in made.parent.iterdir()}
    for file in row.beside(Path(os.path.realpath(target))):
        if file.name not in names:
            with contextlib.suppress(OSError):  # somebody may be reading it; the export itself is done
                file.unlink()
    return Exported(target, row.name, part, None if part == WHOLE else request.cut, nbytes, proof)


def _check_name(target: Path) -> None:
    """SettingError for a path that other programs cannot be given: torch ends the whole process over one."""
    try:
        os.path.realpath(target).encode()
    except UnicodeEncodeError:
        raise SettingError(
            f"{target}: cannot be written (the path is not UTF-8, and most programs that such files are for open "
            "no other); expected another file or folder name"
        ) from None
    except (OSError, ValueError):
        return  # a NUL, which is told of as the file is made


def _request(model: Any, part: str, cut: str | None, pixels: bool, half: bool, backend: str | None) -> Request:
    if part not in PARTS:
        raise UnknownNameError("part", part, PARTS)
    if cut is not None and part == WHOLE:
        raise SettingError(f"cut={cut!r} divides the model; expected part='trunk' or part='head' with it (--part)")
    if part == HEAD and not pixels:
        raise SettingError(
            "pixels=False is about pictures, and a head takes features; expected it with part='whole' or 'trunk'"
        )
    for name, value in (("pixels", pixels), ("half", half)):
        if not isinstance(value, bool):
            raise SettingError(f"{name}={value!r}; expected True or False")
    return Request(
        model, part, model.graph.main.check_cut(model.default_cut if cut is None else cut), pixels, half, backend
    )


def _proof(row: Format, request: Request, made: Path, target: Path, samples: Any, device: str) -> Verification:
    try:
        opened = row.open(made, request)
    except Exception as error:  # of somebody else's program, or of ours that reads the file as a stranger's
        text = said_by(error).replace(f"{made}: ", "")
        raise ExportMismatchError(f"{target}: was not kept: what was written cannot be opened ({text})") from error
    return held_to_the_model(opened, str(target), request, samples, device, row.plain)
