"""Whether a functional keras.Model ends in a classifier, so that a fresh one comes in its place and not behind it.

Invariant: a classifier is a dense layer (or a convolution of 1x1 that is called so, or makes the one map that the
model gives) whose numbers the model gives as they are, or after what has no weights; a projection, as encoders end
in, is none. Of what a softmax shares out, whatever made it is one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import keras
from keras import layers

from headstart.backends.keras.between import (
    SHARES,
    activation,
    before,
    followed,
    is_own,
    passes,
    smooths,
    step,
)
from headstart.backends.keras.copying import calls, functional, is_functional
from headstart.models.endings import (
    Behind,
    Layer,
    classifiers_among,
    is_product,
    is_projection,
    is_ranking,
    reached,
)

PREDICTIONS = "conv_preds"  # of MobileNet
NUMBERED = re.compile(r"(?:einsum_)?dense(?:_\d+)?|time_distributed(?:_\d+)?\.dense(?:_\d+)?")  # by Keras itself
CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.Conv1DTranspose, layers.Conv2DTranspose)


class Found(NamedTuple):
    """What a model ends in."""

    calls: Sequence[Any] = ()
    """of the classifiers that all of what it gives comes from, in their order; () where it ends otherwise"""
    unseen: str = ""
    """the name of a layer behind a classifier, or with one in it, that cannot be looked into; then `calls` is
    empty"""
    unnamed: str = ""
    """the name that Keras gave a layer which would be a classifier if it were called so; then `calls` is empty"""
    doubted: str = ""
    """the name of a layer of another kind that multiplies by weights, and so may be a classifier; then `calls` is
    empty"""


def classifiers(model: keras.Model, ending: str = "") -> Found:
    """`ending`: what was taken off at the model's end."""
    walk = _Walk(model)
    if not walk.ends(Behind(ending)):
        return Found(unnamed=next(iter(walk.unnamed), ""), doubted=next(iter(walk.doubted), ""))
    return Found(unseen=walk.unseen[0]) if walk.unseen else Found(walk.classifiers())


def is_nested(model: keras.Model) -> bool:
    """Whether such a classifier stands with other trained layers in a model that is a layer of this one."""
    walk = _Walk(model)
    return walk.ends(Behind()) and not walk.unseen and bool(walk.classifiers()) and walk.nested


class _Walk:
    """From a model's end towards its classifiers."""

    def __init__(self, model: keras.Model, gives_map: bool | None = None) -> None:
        """`gives_map`: whether what this is the end of gives a map and nothing else; None: it is that itself."""
        self.model = model
        alone = len(model.outputs) == 1
        self.gives_map = alone and len(model.outputs[0].shape) == 4 if gives_map is None else gives_map
        self.made = {id(tensor): node for node in calls(model) for tensor in node.outputs}
        self.found: set[int] = set()
        self.nested = False
        """whether one of them is a model with other trained layers"""
        self.unseen: list[str] = []
        self.unnamed: list[str] = []
        self.doubted: list[str] = []
        self._seen: set[int] = set()
        self._followed: list[keras.Model] = []
        self._given: dict[int, Any] = {}
        """an input of these, by identity -> the call that makes what is given to it"""

    def ends(self, behind: Behind) -> bool:
        return all(self.is_rank(self.made[id(tensor)], behind) for tensor in self.model.outputs)

    def is_rank(self, node: Any, behind: Behind) -> bool:
        if id(node) in self._seen:  # of what is added to itself again and again there are very many ways to it
            return True
        self._seen.add(id(node))
        layer = node.operation
        if node.is_input:
            given = self._given.get(id(node))
            return given is not None and self.is_rank(given, behind)
        if self._is_last(layer, behind):
            self.found.add(id(node))
            return behind.stands
        if is_own(layer) and len(node.outputs) == 1 and (inner := followed(node)) is not None:
            return self.is_rank(self._enter(inner, node), behind)
        if (going := step(node, behind, self.made, self._is_learned)) is None:
            if not is_own(layer):
                self.doubted += [layer.name] if _may_rank(node) else []
                return self._is_closed(layer, behind)
            self.unseen.append(layer.name)
            going = node.input_tensors, replace(before(layer, behind), named=True)
        taken, after = going
        return all(self.is_rank(self.made[id(tensor)], after) for tensor in taken)

    def _enter(self, inner: keras.Model, node: Any) -> Any:
        """The last call of a model that a layer's code is, to be walked through in its place."""
        self._followed.append(inner)  # what is known by its identity must not be made again
        self.made |= {id(tensor): call for call in calls(inner) for tensor in call.outputs}
        for entry, tensor in zip(inner.inputs, node.input_tensors, strict=True):
            self._given[id(self.made[id(entry)])] = self.made[id(tensor)]
        return self.made[id(inner.outputs[0])]

    def _is_learned(self, tensor: Any) -> bool:
        """Whether it is made with weights."""

        def makers(node: Any) -> list[Any]:
            if node.is_input:
                return [self._given[id(node)]] if id(node) in self._given else []
            return [self.made[id(taken)] for taken in node.input_tensors]

        made_of = reached([self.made[id(tensor)]], makers)
        return any(getattr(node.operation, "weights", None) for node in made_of)

    def _is_closed(self, layer: Any, behind: Behind) -> bool:
        """Whether probabilities of classes are made of what a layer gives that has others in it."""
        closed = behind.ranked and isinstance(layer, layers.Layer) and not is_functional(layer)
        if not closed or not _has_matrix(layer):
            return False
        self.unseen.append(layer.name)
        return True

    def _is_last(self, layer: Any, behind: Behind) -> bool:
        if is_functional(layer):  # a head of its own
            return self._is_head(functional(layer), layer.name, behind)
        name = str(getattr(layer, "name", ""))
        if type(layer) is layers.TimeDistributed:
            layer, name = layer.layer, f"{name}.{layer.layer.name}"
        linear = isinstance(layer, layers.Dense) or (
            type(layer) is layers.EinsumDense and is_product(layer.equation)
        )
        if linear or (isinstance(layer, CONVOLUTIONS) and not smooths(layer)):
            active = activation(layer).replace("_", "")
            made = behind.then(SHARES.get(active, ""), active == "linear", False).bound(active)
            return passes(layer, made) and (made.ranked or self._is_called(layer, name, linear, made))
        return behind.ranked and isinstance(layer, layers.Layer) and _multiplies(layer)

    def _is_called(self, layer: Any, name: str, linear: bool, behind: Behind) -> bool:
        """Whether a dense layer, or a convolution, is a classifier as it is called, or as what it makes."""
        if linear:
            if not behind.takes(name) and NUMBERED.fullmatch(name):
                self.unnamed.append(name)
            return behind.takes(name, (layer.kernel.shape[0], layer.kernel.shape[-1]))
        alone = type(layer) is layers.Conv2D and tuple(layer.kernel_size) == (1, 1)
        makes_map = self.gives_map and behind.plain and not is_projection(name)
        return alone and (is_ranking(name) or name == PREDICTIONS or makes_map)

    def _is_head(self, model: keras.Model, name: str, behind: Behind) -> bool:
        inside = [node for node in calls(model) if getattr(node.operation, "weights", None)]
        walk = _Walk(model, self.gives_map)
        ends = walk.ends(replace(behind, named=behind.named and not is_ranking(name)))
        if not inside or not ends or walk.unseen or not walk.classifiers():
            return False
        self.nested = self.nested or walk.nested or len(inside) > 1
        return True

    def classifiers(self) -> list[Any]:
        """The calls that are, of those that were found."""
        last = [node for node in calls(self.model) if id(node) in self.found]

        def makers(node: Any) -> list[Any]:
            return [self.made[id(tensor)] for tensor in node.input_tensors]

        def learned(node: Any) -> bool:
            return _has_matrix(node.operation)

        found = [Layer(str(node.operation.name), makers(node), node, _widths(node)) for node in last]
        return [layer.made for layer in classifiers_among(found, makers, learned)]


def _widths(node: Any) -> tuple[int, int]:
    taken, given = (tensors[0].shape[-1] for tensors in (node.input_tensors, node.outputs))
    return taken or 0, given or 0


def _has_matrix(operation: Any) -> bool:
    return any(len(weight.shape) > 1 for weight in getattr(operation, "weights", None) or ())


def _may_rank(node: Any) -> bool:
    """Whether a layer that is no dense one gives rows of fewer numbers than it reads, made with a matrix of its
    own."""
    layer, (taken, given) = node.operation, _widths(node)
    kind = type(layer).__module__
    is_product = type(layer) is layers.EinsumDense or not kind.startswith("keras.")
    rows = len(node.input_tensors[0].shape) == 2 and 0 < given < taken
    return (
        isinstance(layer, layers.Layer)
        and is_product
        and rows
        and _multiplies(layer)
        and not is_projection(layer.name)
    )


def _multiplies(layer: Any) -> bool:
    """Whether it is a layer with a matrix of weights, and no other is in it."""
    alone = all(inner is layer for inner in layer._flatten_layers())
    kind = type(layer).__module__
    scales = kind.startswith(("keras.src.layers.activations.", "keras.src.layers.normalization."))
    return alone and _has_matrix(layer) and not scales and not smooths(layer)
