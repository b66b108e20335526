"""Models as files of torch's own, by `torch.export`, and as ONNX by torch's exporter of what that makes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx

from headstart.backends.doors import torch_onnx
from headstart.backends.torch import pt2
from headstart.backends.torch.arrays import from_native
from headstart.backends.torch.emit import Network
from headstart.backends.torch.stopped import Stop
from headstart.contract.programs import ONNX, PIXEL_VALUES, SIGMOID, SOFTMAX, Program

ANY_SAMPLES = (
    "a module that computes any number of samples (x.shape[0], not len(x)) without Python's own branches on "
    "values, of arrays whose names Python allows for arguments"
)
OF_ONNX = "a module of operations that ONNX has; or .pt2"
"""what errors say of what can be written"""

MAKES: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "": lambda y: y,
    SOFTMAX: lambda y: torch.softmax(y, -1),
    SIGMOID: torch.sigmoid,
}


def _called(program: Program) -> torch_onnx.Called:
    """A program as a module that takes its inputs by their names, and gives a dict of its outputs."""
    network = Network(program.graph, program.params).eval()
    # torch warns of weights of another layout as of parts of something larger
    network = network.to(memory_format=torch.contiguous_format)

    def computed(arrays: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if program.by_name:
            y = network(dict(arrays))
        else:
            ((name, x),) = arrays.items()
            y = network(x.permute(0, 3, 1, 2) if x.ndim == 4 and name != PIXEL_VALUES else x)
        y = from_native(y.float())
        return {name: MAKES[how](y) for name, how in program.outputs.items()}

    return torch_onnx.Called(network, computed, (entry.name for entry in program.inputs))


@contextlib.contextmanager
def _stops_let_through() -> Iterator[None]:
    """A module that is stopped at its cut leaves its submodules by way of an exception, and torch's tracer then
    takes them for still running."""
    plain = fx.Tracer.call_module

    def call_module(tracer: fx.Tracer, *call: Any) -> Any:
        running = len(tracer.module_stack)
        try:
            return plain(tracer, *call)
        except Stop:
            while len(tracer.module_stack) > running:
                tracer.module_stack.popitem()
            raise

    fx.Tracer.call_module = call_module
    try:
        yield
    finally:
        fx.Tracer.call_module = plain


def write(program: Program, format: str, path: Path, texts: Mapping[str, str]) -> None:
    WRITERS[format](_exported(program), program, path, texts)


def _exported(program: Program) -> torch.export.ExportedProgram:
    with _stops_let_through():
        return torch_onnx.exported(lambda: _called(program), program.inputs, ANY_SAMPLES)


def _pt2(exported: torch.export.ExportedProgram, program: Program, path: Path, texts: Mapping[str, str]) -> None:
    pt2.save(exported, str(path), texts)


def _onnx(exported: torch.export.ExportedProgram, program: Program, path: Path, texts: Mapping[str, str]) -> None:
    torch_onnx.write(exported, program.inputs, list(program.outputs), path, texts, OF_ONNX)


WRITERS: Mapping[str, Callable[[torch.export.ExportedProgram, Program, Path, Mapping[str, str]], None]] = {
    ONNX: _onnx,
    "pt2": _pt2,
}
