"""Modules of torch as ONNX files, by torch's own exporter of what `torch.export` makes of them."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headstart.common.errors import ExportError
from headstart.common.text import raised_text, shortened
from headstart.contract.programs import Input
from headstart.models.exporting.onnx_modules import check_names

SAMPLES = 3
"""of the example that is traced: a batch of one is taken for one that is always one"""
MANY_SAMPLES = 1 << 31
"""no batch is as large"""
SAMPLES_TRIED = 1024
"""up to how many a condition on their number is looked at"""


class Called(nn.Module):
    """What computes a dict of tensors of one, with a network's weights, as a module whose arguments have these
    names. The network is given up: its weights learn nothing any more."""

    def __init__(
        self,
        network: nn.Module,
        computed: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]],
        names: Iterable[str],
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)

        def forward(**arrays: torch.Tensor) -> dict[str, torch.Tensor]:
            return computed(arrays)

        # What checks the inputs of a program that is opened again is made of the names in the signature.
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind) for name in names]
        vars(forward)["__signature__"] = inspect.Signature(parameters)
        self.forward = forward


def exported(
    make: Callable[[], nn.Module], inputs: Sequence[Input], expected: str
) -> torch.export.ExportedProgram:
    """What `make` makes, a module whose arguments are called as the inputs are, traced for any number of samples.
    ExportError where it cannot be. `expected`: what errors say of what could."""
    arrays = {name: torch.zeros(SAMPLES, *shape, dtype=getattr(torch, dtype)) for name, shape, dtype in inputs}
    batch = {name: {0: torch.export.Dim.DYNAMIC} for name in arrays}
    try:
        return torch.export.export(make(), (), arrays, dynamic_shapes=batch, strict=False)
    except Exception as error:  # torch's exporter raises of all kinds
        raise ExportError(
            f"torch.export cannot write this model ({raised_text(error)}); expected {expected}; or another format"
        ) from error


def write(
    program: torch.export.ExportedProgram,
    inputs: Sequence[Input],
    outputs: Sequence[str],
    path: Path,
    texts: Mapping[str, str],
    expected: str,
    names: Sequence[str] | None = None,
) -> None:
    """Write what `exported` has made of a module that gives a dict. `outputs`: the names of these. `expected`: as
    of `exported`. `names`: of the inputs in the file; None: as they are called, and else weights are called by
    their place."""
    _check_samples(program, inputs)
    if names is None:
        check_names((name for name, _, _ in inputs), outputs)  # before an exporter calls one of them otherwise
    try:
        with _unlogged(), warnings.catch_warnings():
            # Torch 2.11 warns of names of its own that it takes itself, which is an error where warnings are.
            for category in (FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", category)
            made = _translated(program, list(outputs))
    except OSError:
        raise
    except Exception as error:  # torch's exporter raises of all kinds
        raise ExportError(
            f"torch.onnx cannot write this model ({raised_text(_first_cause(error))}); expected {expected}, or "
            "another format"
        ) from error
    if names is not None:
        _rename(made.model.graph, names)
    made.model.metadata_props.update(texts)
    made.save(path)


def _rename(graph: Any, names: Sequence[str]) -> None:
    """Inputs are called so, weights by their place, and nothing else as one of the inputs."""
    for value, name in zip(graph.inputs, names, strict=True):
        value.name = name
    for place, value in enumerate(list(graph.initializers.values())):
        value.name = f"weight.{place}"
    ends = [*graph.inputs, *graph.outputs]
    taken, others = {value.name for value in ends}, set(map(id, ends))
    for value in [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]:
        while id(value) not in others and value.name in taken:
            value.name += "_"
        taken.add(value.name)


def _check_samples(program: torch.export.ExportedProgram, inputs: Sequence[Input]) -> None:
    """ExportError where the module computes otherwise for some numbers of samples: what is traced is one way, and
    unlike a file of torch's own an ONNX file does not say for which it holds."""
    taken = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in taken]
    counts = {value.shape[0].node.expr for value in values if isinstance(value.shape[0], torch.SymInt)}
    ranges = [program.range_constraints[count] for count in counts if count in program.range_constraints]
    conditions = [f"from {r.lower} to {r.upper} samples" for r in ranges if r.lower > 2 or r.upper < MANY_SAMPLES]
    conditions += _not_always(getattr(program, "_guards_code", ()), inputs)
    if conditions:
        raise ExportError(
            f"the module branches on the number of samples ({shortened(conditions[0])}), and an ONNX file has no "
            "branches; expected a module that computes every number of samples alike, or another format"
        )


def _not_always(conditions: Iterable[str], inputs: Sequence[Input]) -> list[str]:
    """Which of the conditions that torch (2.9 and newer) took for granted of the arrays do not hold for every
    number of samples: "L['x'].size()[0] == L['y'].size()[0]" does, "L['x'].size()[0] != 17" does not."""
    if not (conditions := list(conditions)):
        return []
    batches = [
        {name: torch.empty(count, *shape, device="meta") for name, shape, _ in inputs}
        for count in range(1, SAMPLES_TRIED + 1)
    ]

    def always(condition: str) -> bool:
        try:
            code = compile(condition, "<condition>", "eval")
            return all(eval(code, {"L": arrays, "math": math, "torch": torch}) for arrays in batches)
        except Exception:  # whatever torch may write
            return False

    return [condition for condition in conditions if not always(condition)]


def _translated(program: torch.export.ExportedProgram, names: list[str]) -> Any:
    """As an `ONNXProgram`: operation by operation, or, where the exporter has no translation of one (attention of
    other than four axes in 2.15), of those that they are made of."""
    try:
        return torch.onnx.export(program, dynamo=True, verbose=False, output_names=names)
    except OSError:
        raise
    except Exception as error:  # of all kinds
        table = torch.export.default_decompositions()
        table[torch.ops.aten.scaled_dot_product_attention.default] = _attention
        try:
            plain = program.run_decompositions(table)
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
