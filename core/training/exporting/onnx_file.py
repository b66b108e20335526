"""ONNX: written by `headstart.models.exporting`, from our own graph, or of a wrapped module by the exporter of its
framework; here it gets its place on the disk, and is opened to be verified as those who get it open it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from headstart.common.files import replace_whole
from headstart.contract.programs import ONNX
from headstart.data.annotations import REGRESSION
from headstart.models.exporting import onnx_model, onnx_modules
from headstart.models.exporting.onnx_checksum import CHECKSUM, of_proto
from headstart.models.exporting.parts import PARTS, TRUNK
from headstart.training.exporting import framework_file
from headstart.training.exporting.exported import OnnxModel
from headstart.training.exporting.request import VERIFIED, Request


def write(request: Request, path: Path) -> None:
    proto = onnx_model.onnx_model(
        request.model,
        part=request.part,
        cut=request.cut,
        pixels=request.pixels,
        dtype="float16" if request.half else "float32",
    )
    _written(proto, path)


def write_module(backend: str, request: Request, path: Path) -> None:
    """Of a wrapped module: what its backend writes, made like our own files."""
    import onnx

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        theirs = Path(folder, path.name)
        framework_file.write(backend, ONNX, True, request, theirs)
        proto = onnx.load(str(theirs))
    texts = onnx_model.metadata(proto)
    if request.half:
        proto = onnx_modules.halved(proto, request.model.task == REGRESSION and request.part != TRUNK)
        texts["dtype"] = "float16"
    onnx_modules.made_like_ours(proto)
    onnx_model.set_metadata(proto, texts)
    _written(proto, path)


def _written(proto: Any, path: Path) -> None:
    # Named by what it holds: where a large model replaces another, the one of before is whole to the last.
    onnx_model.set_metadata(proto, {CHECKSUM: of_proto(proto)})
    about = onnx_model.metadata(proto)
    data_name = f"{path.stem}-{about['weights_digest'][:16]}-{about['part']}-{about['dtype']}{path.suffix}.data"
    onnx_model.write_onnx(proto, path, data_name)


def beside(path: Path) -> list[Path]:
    """The files of weights that `write` has put beside a file of this name."""
    name = re.compile(
        rf"{re.escape(path.stem)}-[0-9a-f]{{16}}-({'|'.join(PARTS)})-float(32|16){re.escape(path.suffix)}\.data"
    )
    return [file for file in path.parent.iterdir() if name.fullmatch(file.name)]


def note(request: Request, path: Path, said: str) -> None:
    """Write what verification has said into the file."""
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    onnx_model.set_metadata(proto, {VERIFIED: said})
    replace_whole(path, [onnx_model.onnx_bytes(proto)])


def opened(path: Path, request: Request) -> OnnxModel:
    """In onnxruntime, on the CPU. Raises what ONNX's own checker raises, and ModelFileError."""
    import onnx

    onnx.checker.check_model(str(path), full_check=True)
    return OnnxModel(path)
