"""The model a user holds: a graph, its weights as numpy arrays, the preprocessing that belongs to them, and
the class names. No framework: a backend makes native layers of it when it is run.

Invariant: a `Model` is never changed. Training returns new parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.preprocess import Preprocess
from headstart.errors import SettingError
from headstart.graph import Graph
from headstart.models.heads import Head, check_head
from headstart.models.initial import initial_params
from headstart.models.weights import check_fit, find_weights, read_weights
from headstart.models.zoo import Architecture, architecture


@dataclass(frozen=True)
class Model:
    """An architecture with weights, preprocessing and classes."""

    name: str
    graph: Graph
    params: Mapping[str, np.ndarray]
    """float32 in torchvision's layout, by torchvision's names"""
    preprocess: Preprocess
    classes: tuple[str, ...]
    head: Head = "linear"
    weights: str | None = None
    """where the pretrained parameters came from; None: all of them are random"""
    fresh: frozenset[str] = field(default_factory=frozenset)
    """parameters that are random and not pretrained: `fit` draws them again from its own seed"""
    named_classes: bool = True
    """False where the class names are only numbers that nobody chose"""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.preprocess.size, self.preprocess.size, 3)

    @property
    def default_cut(self) -> str:
        """The features that the classifier takes: everything before it is the trunk."""
        classifier = architecture(self.name).classifier
        first = next(n for n in self.graph.nodes if n.name == classifier or n.name.startswith(f"{classifier}."))
        return first.inputs[0]

    def reseeded(self, seed: int, everything: bool = False) -> dict[str, np.ndarray]:
        """The parameters to start from: the fresh ones (or all) drawn from `seed`, the others as they are."""
        shapes = self.graph.param_shapes()
        new = initial_params(shapes, seed, None if everything else self.fresh)
        return {name: new[name] if name in new else self.params[name] for name in shapes}

    def with_params(self, params: Mapping[str, np.ndarray]) -> Model:
        """The same model after training: nothing in it is fresh any more."""
        return replace(self, params=dict(params), fresh=frozenset())

    def describe(self) -> dict[str, Any]:
        """JSON-able facts, as reports print them."""
        macs = self.graph.macs(self.input_shape)
        return {
            "name": self.name,
            "weights": self.weights,
            "head": self.head if isinstance(self.head, str) else list(self.head),
            "classes": len(self.classes),
            "parameters": count_params(self.graph),
            "multiply_adds": sum(macs.values()),
            "preprocess": self.preprocess.as_dict(),
        }


def count_params(graph: Graph) -> int:
    """Trained parameters (weights and biases, not statistics), as papers count them."""
    from headstart.graph.ops import is_buffer

    return sum(int(np.prod(shape)) for name, shape in graph.param_shapes().items() if not is_buffer(name))


def model(
    name: str,
    weights: str | Path | None = None,
    classes: int | Sequence[str] | None = None,
    head: Head = "linear",
    size: int | None = None,
    seed: int = 0,
) -> Model:
    """Make a model by name.

    `weights`: None (random, drawn from `seed`, equal in every backend), a published name such as
    "tinyimagenet", or a path to a .safetensors file with torchvision's names. `classes`: the number or names
    of the classes to learn, which brings a fresh classifier; None keeps the classifier of the weights.
    `head`: "linear", or hidden widths such as [256]. `size`: side in pixels of the square the images are
    brought to; None: what the weights were trained with.

    Raises UnknownNameError, WeightsError (names or shapes that do not fit), SettingError.
    """
    arch = architecture(name)
    head = check_head(head)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise SettingError(f"seed={seed!r}; expected an integer of at least 0")
    file = read_weights(find_weights(arch, weights)) if weights is not None else None
    if classes is None and head != "linear":
        raise SettingError(f"head={head!r} needs classes=, since a hidden layer makes a fresh classifier")
    fresh_classifier = classes is not None or file is None
    if classes is not None:
        names, named = _class_names(classes)
    else:
        names, named = _classes_of(arch, file)
    preprocess = file.preprocess if file is not None and file.preprocess is not None else arch.preprocess
    if size is not None:
        preprocess = preprocess.with_size(size)

    graph = arch.graph(len(names), head)
    shapes = graph.param_shapes()
    given: dict[str, np.ndarray] = {}
    if file is None:
        fresh = frozenset(shapes)
    else:
        fresh = frozenset(n for n in shapes if _is_part(n, arch.classifier)) if fresh_classifier else frozenset()
        given = {n: v for n, v in file.params.items() if not (fresh and _is_part(n, arch.classifier))}
        check_fit(file.source, given, {n: s for n, s in shapes.items() if n not in fresh})
    # A size that does not fit is found here; after the names, which say more where another model's file came.
    graph.shapes((preprocess.size, preprocess.size, 3))
    params = initial_params(shapes, seed, fresh) | given
    return Model(
        name,
        graph,
        {n: params[n] for n in shapes},
        preprocess,
        names,
        head,
        str(weights) if file is not None else None,
        fresh,
        named,
    )


def _is_part(param: str, module: str) -> bool:
    return param.startswith(f"{module}.")


def _class_names(classes: int | Sequence[str]) -> tuple[tuple[str, ...], bool]:
    if isinstance(classes, bool | str):
        raise SettingError(f"classes={classes!r}; expected a number or a list of names")
    if isinstance(classes, int | np.integer):
        count, named = int(classes), False
        names = tuple(map(str, range(count)))
    elif not isinstance(classes, Iterable):
        raise SettingError(f"classes={classes!r}; expected a number or a list of names")
    else:
        names, named = tuple(map(str, classes)), True
        count = len(names)
    if count < 2:
        raise SettingError(f"classes={classes!r}; a classifier needs at least two classes")
    if len(set(names)) != count:
        raise SettingError(f"class names stand twice in {list(names)}")
    return names, named


def _classes_of(arch: Architecture, file: Any) -> tuple[tuple[str, ...], bool]:
    """The classes of a weight file's own classifier; ImageNet's thousand, unnamed, where there is no file."""
    if file is None:
        return tuple(map(str, range(1000))), False
    if file.classes is not None:
        return file.classes, True
    weight = file.params.get(f"{arch.classifier}.weight")
    return tuple(map(str, range(len(weight) if weight is not None else 1000))), False
