"""The five modes. `defaults` says what they train with where the user does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from headstart.common.errors import UnknownNameError
from headstart.common.heap import keep_in_one_heap
from headstart.contract import registry


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


def trains_all(names: Iterable[str]) -> bool:
    """Whether a network is trained whole in any of these modes, those that there are."""
    return any(not (mode := MODES[name]).frozen or mode.then_all for name in names if name in MODES)


def keep_memory_for(backend: str, names: Iterable[str]) -> None:
    """For a process of ours, before `backend` is imported in it and trains in these modes: have what a step leaves
    kept for the next one, where the backend gains by it (`Description.in_one_heap`)."""
    if registry.describe(backend).in_one_heap and trains_all(names):
        keep_in_one_heap()
