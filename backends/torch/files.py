"""Models as files of torch's own, by `torch.export`, and as ONNX by torch's exporter of what that makes."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from headstart.backends.torch import pt2
from headstart.backends.torch.arrays import from_native
from headstart.backends.torch.emit import Network
from headstart.backends.torch.stopped import Stop
from headstart.common.errors import ExportError
from headstart.common.text import raised_text, shortened
from headstart.contract.programs import ONNX, PIXEL_VALUES, SIGMOID, SOFTMAX, Program

SAMPLES = 3
"""of the example that is traced: a batch of one is taken for one that is always one"""
MANY_SAMPLES = 1 << 31
"""no batch is as large"""
SAMPLES_TRIED = 1024
"""up to how many a condition on their number is looked at"""

MAKES: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "": lambda y: y,
    SOFTMAX: lambda y: torch.softmax(y, -1),
    SIGMOID: torch.sigmoid,
}


class Exportable(nn.Module):
    """A program as a module that takes its inputs by their names, and gives a dict of its outputs."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        network = Network(program.graph, program.params).eval().requires_grad_(False)
        # torch warns of weights of another layout as of parts of something larger
        self.network = network.to(memory_format=torch.contiguous_format)
        self.outputs = dict(program.outputs)
        self.names = tuple(entry.name for entry in program.inputs)
        self.by_name = program.by_name

        def forward(**arrays: torch.Tensor) -> dict[str, torch.Tensor]:
            return self.computed(arrays)

        # What checks the inputs of a program that is opened again is made of the names in the signature.
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind) for name in self.names]
        vars(forward)["__signature__"] = inspect.Signature(parameters)
        self.forward = forward

    def computed(self, arrays: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.by_name:
            y = self.network(dict(arrays))
        else:
            ((name, x),) = arrays.items()
            y = self.network(x.permute(0, 3, 1, 2) if x.ndim == 4 and name != PIXEL_VALUES else x)
        y = from_native(y.float())
        return {name: MAKES[how](y) for name, how in self.outputs.items()}


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
    arrays = {
        name: torch.zeros(SAMPLES, *shape, dtype=getattr(torch, dtype)) for name, shape, dtype in program.inputs
    }
    batch = {name: {0: torch.export.Dim.DYNAMIC} for name in arrays}
    try:
        with _stops_let_through():
            return torch.export.export(Exportable(program), (), arrays, dynamic_shapes=batch, strict=False)
    except Exception as error:  # torch's exporter raises of all kinds
        raise ExportError(
            f"torch.export cannot write this model ({raised_text(error)}); "
            "expected a module that computes any number of samples (x.shape[0], not len(x)) without Python's own "
            "branches on values, of arrays whose names Python allows for arguments; or another format"
        ) from error


def _pt2(exported: torch.export.ExportedProgram, program: Program, path: Path, texts: Mapping[str, str]) -> None:
    pt2.save(exported, str(path), texts)


def _check_samples(exported: torch.export.ExportedProgram, program: Program) -> None:
    """ExportError where the module computes otherwise for some numbers of samples: what is traced is one way, and
    unlike a file of torch's own an ONNX file does not say for which it holds."""
    taken = exported.graph_signature.user_inputs
    values = [node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder" and node.name in taken]
    counts = {value.shape[0].node.expr for value in values if isinstance(value.shape[0], torch.SymInt)}
    ranges = [exported.range_constraints[count] for count in counts if count in exported.range_constraints]
    conditions = [f"from {r.lower} to {r.upper} samples" for r in ranges if r.lower > 2 or r.upper < MANY_SAMPLES]
    conditions += _not_always(getattr(exported, "_guards_code", ()), program)
    if conditions:
        raise ExportError(
            f"the module branches on the number of samples ({shortened(conditions[0])}), and an ONNX file has no "
            "branches; expected a module that computes every number of samples alike, or another format"
        )


def _not_always(conditions: Iterable[str], program: Program) -> list[str]:
    """Which of the conditions that torch (2.9 and newer) took for granted of the arrays do not hold for every
    number of samples: "L['x'].size()[0] == L['y'].size()[0]" does, "L['x'].size()[0] != 17" does not."""
    if not (conditions := list(conditions)):
        return []
    batches = [
        {name: torch.empty(count, *shape, device="meta") for name, shape, _ in program.inputs}
        for count in range(1, SAMPLES_TRIED + 1)
    ]

    def always(condition: str) -> bool:
        try:
            code = compile(condition, "<condition>", "eval")
            return all(eval(code, {"L": arrays, "math": math, "torch": torch}) for arrays in batches)
        except Exception:  # whatever torch may write
            return False

    return [condition for condition in conditions if not always(condition)]


def _onnx(exported: torch.export.ExportedProgram, program: Program, path: Path, texts: Mapping[str, str]) -> None:
    _check_samples(exported, program)
    try:
        with _unlogged():
            made = _translated(exported, list(program.outputs))
    except OSError:
        raise
    except Exception as error:  # torch's exporter raises of all kinds
        raise ExportError(
            f"torch.onnx cannot write this model ({raised_text(_first_cause(error))}); expected a module of "
            "operations that ONNX has; or .pt2, or another format"
        ) from error
    made.model.metadata_props.update(texts)
    made.save(path)


def _translated(exported: torch.export.ExportedProgram, names: list[str]) -> Any:
    """As an `ONNXProgram`: operation by operation, or, where the exporter has no translation of one (attention of
    other than four axes in 2.15), of those that they are made of."""
    try:
        return torch.onnx.export(exported, dynamo=True, verbose=False, output_names=names)
    except OSError:
        raise
    except Exception as error:  # of all kinds
        table = torch.export.default_decompositions()
        table[torch.ops.aten.scaled_dot_product_attention.default] = _attention
        try:
            plain = exported.run_decompositions(table)
            return torch.onnx.export(plain, dynamo=True, verbose=False, output_names=names)
        except Exception:
            raise error from error.__cause__


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    by_products = torch.ops.aten._scaled_dot_product_attention_math.default
    settings = {"scale": scale, "enable_gqa": enable_gqa}
    result: torch.Tensor = by_products(query, key, value, attn_mask, dropout_p, is_causal, **settings)[0]
    return result


def _first_cause(error: BaseException) -> BaseException:
    """What the exporter wraps in advice on how to report it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Torch's exporter warns of every constant that it cannot fold, which core does, and where torchvision is not
    installed."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("onnxscript", "torch.onnx"))}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


WRITERS: Mapping[str, Callable[[torch.export.ExportedProgram, Program, Path, Mapping[str, str]], None]] = {
    ONNX: _onnx,
    "pt2": _pt2,
}
