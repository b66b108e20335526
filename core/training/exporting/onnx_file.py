"""ONNX: written by `headstart.models.exporting`, from our own graph; here it gets its place on the disk, and is
run by onnxruntime to be verified."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.files import replace_whole
from headstart.common.machine import cpus
from headstart.data.annotations import MULTI
from headstart.data.preprocess import Preprocess
from headstart.models.exporting import onnx_model
from headstart.training.exporting.request import VERIFIED, Request


def write(request: Request, path: Path) -> None:
    proto = onnx_model.onnx_model(
        request.model,
        part=request.part,
        cut=request.cut,
        pixels=request.pixels,
        dtype="float16" if request.half else "float32",
    )
    # Named by what it holds: where a large model replaces another, the one of before is whole to the last.
    about = onnx_model.metadata(proto)
    data_name = f"{path.stem}-{about['weights_digest'][:16]}-{about['part']}-{about['dtype']}{path.suffix}.data"
    onnx_model.write_onnx(proto, path, data_name)


def note(request: Request, path: Path, said: str) -> None:
    """Write what verification has said into the file."""
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    onnx_model.set_metadata(proto, {VERIFIED: said})
    replace_whole(path, [onnx_model.onnx_bytes(proto)])


class OnnxFile:
    """An ONNX file of ours, in onnxruntime on the CPU."""

    def __init__(self, path: Path, request: Request) -> None:
        """Raises what the two libraries raise where the file is not valid, ValueError where it does not say of
        itself what our files say."""
        import onnx
        import onnxruntime

        onnx.checker.check_model(str(path), full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpus()
        options.log_severity_level = 3  # errors, which are raised as well
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # of waiting threads
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (self._input,) = (entry.name for entry in self._session.get_inputs())
        self.outputs = tuple(entry.name for entry in self._session.get_outputs())
        about = self._session.get_modelmeta().custom_metadata_map
        needed = {"classes", "preprocess", "task", *(["threshold"] if about.get("task") == MULTI else [])}
        if missing := needed - about.keys():
            raise ValueError(f"its metadata lack {', '.join(sorted(missing))}")
        self.classes = tuple(json.loads(about["classes"]))
        self.task = about["task"]
        self.threshold = json.loads(about["threshold"]) if self.task == MULTI else request.model.threshold
        takes_features = self._input == onnx_model.FEATURES
        self.preprocess = None if takes_features else Preprocess.from_dict(json.loads(about["preprocess"]))

    def run(self, rows: Any) -> Mapping[str, np.ndarray]:
        if self.preprocess is not None and self._input != onnx_model.IMAGES:
            rows = np.ascontiguousarray(np.moveaxis(self.preprocess.normalise(rows), -1, 1))  # (n, 3, h, w)
        return dict(zip(self.outputs, self._session.run(None, {self._input: rows}), strict=True))
