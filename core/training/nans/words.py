"""The words of a NonFiniteError: what happened, where and when, and what may help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headstart.common.errors import NonFiniteError
from headstart.common.text import first_few
from headstart.training.nans.search import Finding

NAMED = 3  # samples in a message; the error has all of them


@dataclass(frozen=True)
class Circumstances:
    """When a value that is not finite was seen."""

    stage: str
    """"head" or "all", or "extraction" where features are made"""
    when: str
    """as the message begins: "stage 'head', epoch 2, batch 1 of 2" """
    precision: str
    epoch: int | None = None
    """from 1"""
    batch: int | None = None
    """of the epoch, from 1; None in validation and in an extraction"""
    rate: float | None = None
    """the step's learning rate, in a step of training"""
    loss: Any = None
    """of the node's output, in a step of training"""
    in_frozen_trunk: bool = False


def error_of(finding: Finding, seen: Circumstances, names: Sequence[str], total: int) -> NonFiniteError:
    """The error. `names`: of the samples that the finding is about; `total`: how many were looked at."""
    return NonFiniteError(
        f"{seen.when}: {_what_happened(finding, seen, names, total)}. "
        f"What may help: {', '.join(_what_helps(finding, seen, few=0 < len(names) < total))}",
        what=finding.what,
        stage=seen.stage,
        node=finding.node.name,
        epoch=seen.epoch,
        batch=seen.batch,
        samples=names,
    )


def _what_happened(finding: Finding, seen: Circumstances, names: Sequence[str], total: int) -> str:
    node = finding.node
    called = f"{node.name!r} ({node.op}{', in the frozen trunk' if seen.in_frozen_trunk else ''})"
    listed = first_few(names, NAMED)
    if finding.what == "input":
        return f"the inputs of {listed} hold NaN or infinity"
    if finding.what == "output":
        return f"the output of node {called} holds NaN or infinity for {len(names)} of {total} samples: {listed}"
    if finding.what == "loss":
        finite = "though the outputs of all nodes are finite, as inference has them"
        return f"the loss of {called} is {seen.loss}, {finite}"
    return (
        f"the update made parameters of node {called} NaN or infinity, though the loss and the outputs of all "
        "nodes before it are finite: its gradient or the step was too large"
    )


def _what_helps(finding: Finding, seen: Circumstances, few: bool) -> list[str]:
    """`few`: some samples are concerned, and others are not."""
    if finding.what == "input":
        return ["look at these samples"]
    advice = []
    if seen.rate is not None:
        advice.append(f"a learning rate below {seen.rate:.3g}")
    if seen.precision != "float32":
        advice.append(f"precision='float32' instead of {seen.precision!r}")
    if few:
        advice.append("a look at these samples")
    elif seen.rate is None:
        advice.append("other weights" if seen.in_frozen_trunk else "a lower learning rate")
    return advice
