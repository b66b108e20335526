"""The model a user holds: a graph, its weights as numpy arrays, the preprocessing that belongs to them, and
the class names. No framework: a backend makes native layers of it when it is run.

Invariant: a `Model` is never changed. Training returns new parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from headstart.common.errors import GraphError, SettingError
from headstart.common.text import printable
from headstart.data.annotations import SINGLE
from headstart.data.inputs import Arrays
from headstart.data.names import class_list
from headstart.data.preprocess import Preprocess
from headstart.graph import Graph
from headstart.graph.ops import INERT
from headstart.models.architecture import Architecture
from headstart.models.classifiers import Head, check_head
from headstart.models.initial import initial_params
from headstart.models.layouts import Layout, fitted, own_names
from headstart.models.weights import RANDOM, WeightFile, count_outputs, load_weights
from headstart.models.zoo import architecture

MOST_CLASSES = 1_000_000
"""that may be asked for by their number: more are a slip, and their names alone would fill the memory"""


@dataclass(frozen=True)
class Model:
    """An architecture with weights, preprocessing and classes."""

    name: str
    graph: Graph
    params: Mapping[str, np.ndarray]
    """float32 in torchvision's layout, by torchvision's names"""
    preprocess: Preprocess | Arrays
    """how images are prepared, or which other inputs a wrapped module takes"""
    classes: tuple[str, ...]
    """the names of its outputs: of classes, of labels, or of targets"""
    head: Head = "linear"
    weights: str | None = None
    """where the pretrained parameters came from; None: all of them are random"""
    fresh: frozenset[str] = field(default_factory=frozenset)
    """parameters that are random and not pretrained: `fit` draws them again from its own seed"""
    named_classes: bool = True
    """False where the class names are only numbers that nobody chose"""
    cut: str | None = None
    """where the trunk ends if nobody says; None: before the architecture's classifier"""
    module_cut: str | None = None
    """of a wrapped module, where its trunk ends by the module's own names: `hs.wrap(..., cut=)` takes it"""
    task: str = SINGLE
    """what its outputs mean, which training decides by the labels: "single", logits of which one class is the
    largest; "multi", a logit for each label; "regression", numbers in the user's own units"""
    threshold: float = 0.5
    """of "multi": the probability above which a label is predicted"""

    def __repr__(self) -> str:
        classes = f"{len(self.classes)} class{'' if len(self.classes) == 1 else 'es'}"
        weights = self.weights or "random"
        return f"Model({self.name!r}, weights {weights!r}, {classes}, {count_params(self.graph):,} parameters)"

    def line(self) -> str:
        """Name, weights and preprocessing, for people."""
        name, weights = printable(self.name), printable(self.weights or "random")
        return f"{name} ({weights}): {self.preprocess}"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample; () where a wrapped module takes several arrays."""
        return self.preprocess.shape

    @property
    def home(self) -> str | None:
        """The only backend that can run it, where it holds a wrapped module."""
        return self.graph.backend

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """The names that files with its parameters may use; they are saved in the first."""
        return (own_names(self.graph),) if self.home is not None else architecture(self.name).layouts

    @property
    def default_cut(self) -> str:
        """The features that the classifier takes: everything before it, and before its dropout, is the trunk."""
        if self.cut is not None:
            return self.cut
        module = architecture(self.name).replaced(self.head)
        node = next(n for n in self.graph.nodes if _is_part(f"{n.name}.", module))
        while (before := self.graph[node.inputs[0]]).op in INERT:
            node = before
        return node.inputs[0]

    def reseeded(self, seed: int, everything: bool = False) -> dict[str, np.ndarray]:
        """The parameters to start from: the fresh ones (or all) drawn from `seed`, the others as they are."""
        new = initial_params(self.graph, seed, None if everything else self.fresh)
        return {name: new.get(name, value) for name, value in self.params.items()}

    def without_auxiliary(self) -> Model:
        """The same model without auxiliary classifiers, which serve training from pixels only."""
        graph = self.graph.upto(self.graph.output)
        names = graph.param_shapes()
        params = {name: self.params[name] for name in names}
        return replace(self, graph=graph, params=params, fresh=self.fresh & names.keys())

    def with_params(self, params: Mapping[str, np.ndarray]) -> Model:
        """The same model after training: nothing in it is fresh any more."""
        return replace(self, params=dict(params), fresh=frozenset())

    def describe(self) -> dict[str, Any]:
        """JSON-able facts, as reports print them."""
        macs = self.graph.upto(self.graph.output).macs(self.input_shape)
        return {
            "name": self.name,
            "weights": self.weights,
            "head": self.head if isinstance(self.head, str) else list(self.head),
            "classes": len(self.classes),
            "parameters": count_params(self.graph),
            "multiply_adds": sum(macs.values()) if self.home is None else None,  # a module's own are not counted
            "preprocess": self.preprocess.as_dict(),
        }


def check_model(thing: Any) -> None:
    """SettingError unless `thing` is a model: what else people pass first, and what to write in its place."""
    if isinstance(thing, Model):
        return
    kind = type(thing).__name__
    if thing is None:
        what, mend = "None", "hs.model(name, ...)"
    elif isinstance(thing, str | Path):
        name = f"{str(thing)!r:.200}"
        of_file = f"hs.OnnxModel({name})" if str(thing).lower().endswith(".onnx") else ""
        what, mend = f"the name {name}", of_file or f"hs.model({name}, ...), or hs.load(path).model"
    elif isinstance(getattr(thing, "model", None), Model):
        what, mend = f"a {kind}", "its .model"
    elif kind == "Dataset":
        what, mend = "a data set", "the model comes first, then the data"
    elif isinstance(thing, type | FunctionType):
        what, mend = f"{kind} {thing.__name__}", "call it"
    else:
        what, mend = f"a {type(thing).__module__.split('.')[0]} {kind}", "hs.wrap makes a model of a module"
    raise SettingError(f"model is {what}; expected what hs.model, hs.wrap or hs.load(path).model gives: {mend}")


def count_params(graph: Graph) -> int:
    """Trained parameters (weights and biases, not statistics), as papers count them."""
    kept = graph.buffers()
    return sum(math.prod(shape) for name, shape in graph.param_shapes().items() if name not in kept)


def model(
    name: str,
    weights: str | Path | None = None,
    classes: int | Sequence[str] | None = None,
    head: Head = "linear",
    size: int | None = None,
    auxiliary: bool | None = None,
    seed: int = 0,
    decode: str | None = None,
) -> Model:
    """Make a model by name.

    `weights`: None or "none" (random, drawn from `seed`, equal in every backend), a published name such as
    "imagenet", which is downloaded if it is not here, a name that `headstart weights import` gave, or the path of
    a .safetensors file with torchvision's or timm's names. `classes`: the number or names
    of the classes (or labels, or targets) to learn, which brings a fresh classifier; None keeps the classifier of
    the weights.
    `head`: "linear", or a list of hidden widths and dropout rates such as [256] or [4096, 0.5, 4096, 0.5], which
    replaces all fully connected layers where an architecture ends in several. `size`: side in pixels of the
    square the images are brought to; None: what the weights were trained with. `auxiliary`: whether GoogLeNet
    and Inception have the auxiliary classifiers that serve their training; None: where the size allows it.
    `decode`: "scaled" decodes JPEGs much larger than that at a half, a quarter or an eighth of their size: faster,
    with slightly other features, under keys of their own. "gpu": an NVIDIA GPU decodes JPEGs (extra `gpu-jpegs`),
    likewise. "exact": as they are; None: as the weights say, exact.

    Raises UnknownNameError, WeightsError (names or shapes that do not fit), SettingError.
    """
    arch = architecture(name)
    head = check_head(head)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise SettingError(f"seed={seed!r}; expected an integer of at least 0")
    file = None if weights is None or weights == RANDOM else load_weights(arch, weights)
    if classes is None and head != "linear":
        raise SettingError(f"head={head!r} needs classes=, since a hidden layer makes a fresh classifier")
    names, named = class_names(classes) if classes is not None else _classes_of(arch, file)
    preprocess = file.preprocess if file is not None and file.preprocess is not None else arch.preprocess
    if size is not None:
        preprocess = preprocess.with_size(size)
    if decode is not None:
        preprocess = replace(preprocess, decode=decode)

    graph = _graph(arch, len(names), head, preprocess.size, auxiliary)
    shapes = graph.param_shapes()
    from_file: dict[str, np.ndarray] = {}
    if file is not None:
        extra = shapes.keys() - graph.upto(graph.output).param_shapes().keys()
        outputs = [arch.replaced(head), *(node for node, _ in graph.auxiliary)]
        fresh = [n for n in shapes if classes is not None and any(_is_part(n, module) for module in outputs)]
        spare = arch.graph(len(names), "linear", preprocess.size).param_shapes()
        replaced = (arch.classifier, arch.stack or arch.classifier) if fresh else ()
        from_file = fitted(file.source, file.params, graph, arch.layouts, fresh, extra, spare, replaced)
    # A size that does not fit is found here; after the names, which say more where another model's file came.
    graph.shapes((preprocess.size, preprocess.size, 3))
    drawn = frozenset(shapes.keys() - from_file.keys())
    params = initial_params(graph, seed, drawn) | from_file
    made = Model(
        name,
        graph,
        {n: params[n] for n in shapes},
        preprocess,
        names,
        head,
        str(weights) if file is not None else None,
        drawn,
        named,
    )
    # a classifier that is kept means what it meant
    return made if file is None or classes is not None else replace(made, **file.means)


def _graph(arch: Architecture, classes: int, head: Head, size: int, auxiliary: bool | None) -> Graph:
    """The architecture's graph, with its auxiliary classifiers if they are wanted or (None) fit the size."""
    graph = arch.graph(classes, head, size)
    if auxiliary and not graph.auxiliary:
        raise SettingError(f"auxiliary=True: {arch.name} has no auxiliary classifiers")
    if auxiliary is None and graph.auxiliary:
        try:
            graph.shapes((size, size, 3))
        except GraphError:
            auxiliary = False
    return graph.upto(graph.output) if auxiliary is False else graph


def _is_part(param: str, module: str) -> bool:
    return param.startswith(f"{module}.")


def class_names(classes: int | Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """The names of the classes, and whether somebody chose them."""
    if isinstance(classes, bool | str) or not isinstance(classes, int | np.integer | Iterable):
        raise SettingError(f"classes={classes!r:.200}; expected a number or a list of names")
    if isinstance(classes, int | np.integer):
        if not 1 <= classes <= MOST_CLASSES:
            raise SettingError(f"classes={classes}; expected 1 to {MOST_CLASSES:,}")
        names, named = tuple(map(str, range(int(classes)))), False
    else:
        names, named = class_list(classes, SettingError), True
        if not names:
            raise SettingError("classes=[]; expected the names of the classes, or of the numbers to learn")
    return names, named


def _classes_of(arch: Architecture, file: WeightFile | None) -> tuple[tuple[str, ...], bool]:
    """The classes of a weight file's own classifier; ImageNet's thousand, unnamed, where there is no file."""
    if file is None:
        return tuple(map(str, range(1000))), False
    if file.classes is not None:
        return file.classes, True
    if (count := count_outputs(arch, file.params)) is not None:
        return tuple(map(str, range(count))), False
    raise SettingError(
        f"{file.source} has no classifier; pass classes=, the number or the names of the classes to learn"
    )
