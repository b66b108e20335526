"""What is asked of a format, and what it has to give back: the two sides of the table in `formats`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from headstart.data.inputs import Arrays
from headstart.data.preprocess import Preprocess
from headstart.graph import Graph
from headstart.models import Model
from headstart.models.exporting.parts import part_of

VERIFIED = "verified"
"""the entry of a file's metadata that says what verification has found"""


@dataclass(frozen=True)
class Request:
    """What is to be exported, and how."""

    model: Model
    part: str
    """"whole"; "trunk", from the input to the features at `cut`; "head", from there to the outputs"""
    cut: str
    """the node at which a trunk ends and a head begins"""
    pixels: bool = True
    """whether it takes uint8 pixels, to be normalised inside; else float32 ones that are normalised already"""
    half: bool = False
    """whether its weights and arithmetic are float16"""
    backend: str | None = None
    """the one that runs the model as it is; None: as `registry.choose` has it"""

    @cached_property
    def graph(self) -> Graph:
        """Of what is exported."""
        return part_of(self.model, self.part, self.cut).graph

    @property
    def rounding(self) -> float:
        """The step of the coarsest numbers that a wrapped module computes with in what is exported, of a number
        around 1: of bfloat16 say. 0.0 where none is wrapped."""
        return max((node.attrs["part"].rounding for node in self.graph.nodes if node.op == "native"), default=0.0)


class Opened(Protocol):
    """An exported model, opened by what will run it. What it says of itself stands in the file."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """What `run` gives, by the names in `headstart.models.exporting.parts`: those of the task, of a trunk
        "features" """

    @property
    def preprocess(self) -> Preprocess | Arrays | None:
        """How pictures are brought to what it takes; None of a head, which takes features."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def task(self) -> str: ...

    @property
    def threshold(self) -> float: ...

    @property
    def texts(self) -> Mapping[str, str]:
        """All that the file says of itself, as `headstart.models.exporting.parts.texts_of` has written it; of a
        format that holds weights alone nothing."""

    def run(self, rows: Any) -> Mapping[str, np.ndarray]:
        """Its outputs, each `(n, ...)`, of `n` samples as `headstart.data.loader` has them for `preprocess`, uint8
        `(n, size, size, 3)` or a wrapped module's arrays; of a head of float32 features, channels last."""
