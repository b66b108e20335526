"""What crosses the contract when a model leaves as a file of a framework's own: what the file is to compute, and
what is known of such files before the framework is imported.

A backend writes files (`Backend.write`); a module of its own opens them again, in a process of its own, by the
framework alone (`Loader`). So what is verified is what somebody will run who has no headstart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from headstart.graph import Graph

PART, NORMALISED, HALF, WRAPPED = "part=", "pixels=False", "half=True", "wrapped modules"
"""what a format may take beside whole models of headstart's own that take pixels"""
ONNX = "onnx"
"""the format that core writes of its own graphs, and a backend of what holds a part of a user's module"""
IMAGES, PIXEL_VALUES, FEATURES, INPUTS = "images", "pixel_values", "features", "inputs"
"""what inputs are called: uint8 `(n, h, w, 3)`, RGB; float32 that are preprocessed; features of the cut, float32
with the channels last, as the store has them; and the one array that a wrapped module takes. `FEATURES` is the
output of a trunk, too"""
SOFTMAX, SIGMOID = "softmax", "sigmoid"
"""what makes probabilities of logits"""


class Input(NamedTuple):
    """One array that a program takes."""

    name: str
    """one of those above; of a wrapped module that takes several, what it calls them"""
    shape: tuple[int, ...]
    """of one sample, as the file takes it"""
    dtype: str


@dataclass(frozen=True)
class Program:
    """What a file is to compute, for any number of samples at once: a graph in inference, folded."""

    graph: Graph
    """from `inputs` to what the first of `outputs` is. It begins with a node that normalises where it takes
    `IMAGES`. `PIXEL_VALUES` come as the framework has pictures, everything else with the channels last"""
    params: Mapping[str, np.ndarray]
    inputs: tuple[Input, ...]
    by_name: bool
    """whether the graph takes a dict of its inputs by their names, also of a single one; else it takes the one"""
    outputs: Mapping[str, str]
    """name -> what makes it of the graph's output: `SOFTMAX`, `SIGMOID`, or "" for the output itself, float32 with
    the channels last. In this order"""


@dataclass(frozen=True)
class FileFormat:
    """A kind of file that a backend writes, in a few lines."""

    name: str
    suffixes: tuple[str, ...]
    """of the files, or folders, that are called so; the first is its own"""
    use: str
    """who takes it"""
    loader: str
    """the module that is a `Loader` of such files"""
    takes: frozenset[str] = frozenset()
    """some of `PART`, `NORMALISED`, `WRAPPED`"""
    marker: str = ""
    """of a format that is a folder: a file that every such folder has. "": it is a file"""
    channels_first: bool = False
    """whether `PIXEL_VALUES` are `(n, 3, h, w)`, and not `(n, h, w, 3)`"""
    modules: tuple[str, ...] = ()
    """what must be importable for it beside the backend's own modules"""
    install: str = ""
    """the command that installs these; "": the backend's own"""
    environment: Mapping[str, str] = field(default_factory=dict)
    """variables, and what they are set to where such a file is opened, so that only the CPU is looked for"""


Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""arrays by the names of a program's inputs -> by those of its outputs"""


class Loader(Protocol):
    """A module that opens files of a format by the framework alone. It imports nothing of headstart, and its
    functions raise whatever the framework raises."""

    def load(self, path: str) -> tuple[Mapping[str, str], Run]:
        """The texts that the file holds, as `Backend.write` got them or `note` has changed them, and what runs it
        on the CPU."""

    def note(self, path: str, texts: Mapping[str, str]) -> None:
        """Change texts that the file holds, and nothing else. Raises OSError."""


def loader(module: str) -> Any:
    """The `Loader` of this name."""
    from importlib import import_module

    return import_module(module)
