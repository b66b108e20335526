"""Frozen networks of users' own modules with the parameters that the modules' copies hold, as they have while no
training has changed them: they run on these copies themselves, and are made and compiled once for all who ask.

Invariant: nobody writes to such a copy but its own layers as they run. What is trained, has other parameters or
computes in other numbers is made of layers of its own (`headstart.backends.keras.wrap.build`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import keras
import numpy as np

from headstart.backends.keras.arrays import DEVICES, to_numpy
from headstart.backends.keras.copying import has_state, layers_of
from headstart.backends.keras.wrap import weight_names
from headstart.contract.recipe import FLOAT32, Place
from headstart.graph import Graph, NativePart, Node

_made: WeakKeyDictionary[keras.Model, list[tuple[Any, keras.Model]]] = WeakKeyDictionary()
"""a graph's first part -> the networks that begin with it, and what they are made of"""


def all_held(graph: Graph, params: Mapping[str, np.ndarray], place: Place) -> bool:
    """Whether the copies in a graph have its parameters, all of them, where and as it runs."""
    parts = _parts(graph)
    names = {f"{name}.{key}" for name, part in parts.items() for key in part.shapes}
    if not parts or place.precision != FLOAT32 or names != graph.param_shapes().keys():
        return False
    return all(_holds(part, f"{name}.", params, place) for name, part in parts.items())


def once(graph: Graph, outputs: Sequence[str], place: Place, make: Callable[[], keras.Model]) -> keras.Model:
    """What `make` gives for a graph whose parameters are held, or has given."""
    networks = _made.setdefault(next(iter(_parts(graph).values())).native, [])
    about = [*map(_described, graph.nodes)], list(outputs), place
    for known, network in networks:
        if known == about:
            return network
    network = make()
    networks.append((about, network))
    return network


def _parts(graph: Graph) -> dict[str, NativePart]:
    return {node.name: node.attrs["part"] for node in graph.nodes if node.op == "native"}


def _holds(part: NativePart, prefix: str, params: Mapping[str, np.ndarray], place: Place) -> bool:
    model = part.native
    if part.backend != "keras" or any(map(has_state, layers_of(model))):
        return False
    named = dict(zip(weight_names(model), (weight.value for weight in model.weights), strict=True))
    if any(DEVICES.place_of(value).device != place.device for value in named.values()):
        return False
    return all(np.array_equal(to_numpy(value), params[f"{prefix}{name}"]) for name, value in named.items())


def _described(node: Node) -> tuple[Any, ...]:
    """A node, by which no part is kept alive."""
    attrs = {name: ref(value.native) if name == "part" else value for name, value in node.attrs.items()}
    return node.name, node.op, node.inputs, attrs
