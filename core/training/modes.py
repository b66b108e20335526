"""The five modes, and what each trains with where the user does not say.

The learning rates were chosen by validation accuracy after five epochs of AdamW, on 640 flowers and on the
digits with resnet18_half: of 0.001 to 0.03 for linear layers on features, of 0.0001 to 0.003 for everything with
convolutions. Where several did equally well, the middle one was taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headstart.common.errors import UnknownNameError
from headstart.contract.optimizers import AdamW, Optimizer
from headstart.graph import Graph, Node


@dataclass(frozen=True)
class Mode:
    """What is trained, and what it is fed."""

    name: str
    pretrained: bool
    """starts from the model's weights; else everything is drawn anew"""
    frozen: bool
    """only the head is trained (in `staged`: at first)"""
    cached: bool
    """the head reads features from the store; the trunk runs once"""
    then_all: bool = False
    """afterwards everything is trained, on images"""


MODES: Mapping[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("scratch", pretrained=False, frozen=False, cached=False),
        Mode("full", pretrained=True, frozen=False, cached=False),
        Mode("frozen", pretrained=True, frozen=True, cached=False),
        Mode("cached", pretrained=True, frozen=True, cached=True),
        # LP-FT: Kumar et al. 2022, arXiv:2202.10054
        Mode("staged", pretrained=True, frozen=True, cached=True, then_all=True),
    )
}


def mode_of(name: str) -> Mode:
    """The mode called `name`; UnknownNameError lists the five."""
    if name not in MODES:
        raise UnknownNameError("mode", name, MODES)
    return MODES[name]


def default_optimizer(trained: Graph, whole: bool) -> Optimizer:
    """What the graph `trained` is trained with where nothing else was asked for. `whole`: it is all of the
    model."""
    if all(_shallow(node) for node in trained.nodes):
        return AdamW(lr=0.01)  # linear layers on features
    return AdamW(lr=0.0003 if whole else 0.001)


def _shallow(node: Node) -> bool:
    if node.op == "native":
        return not node.attrs["part"].deep
    return node.op not in ("conv", "attention")
