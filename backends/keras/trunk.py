"""Extraction: a frozen graph in inference. On a device of its own a few batches are under way at once, and rows
leave it in the type of numbers in which they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np

from headstart.backends.keras.arrays import DEVICES, ENGINE, at_place, dtype_policy, on, to_numpy
from headstart.backends.keras.door import behind_door
from headstart.backends.keras.emit import Style, network, numpy_params
from headstart.backends.keras.forward import HalfWeights, Program, in_store_dtypes, program
from headstart.backends.keras.functions import compiled_for
from headstart.backends.keras.held import all_held, once
from headstart.contract.recipe import Place
from headstart.contract.streams import Dtypes, is_held, one_by_one, overlapped
from headstart.graph import Graph


class UnderWay(NamedTuple):
    images: Any
    rows: dict[str, Any]
    """node -> what is on its way to the host, as `largest`"""
    largest: dict[str, Any]


@behind_door("__init__", "run", "params", "_begin", "_end")
@at_place("run", "params", "_begin", "_end")
class KerasTrunk:
    def __init__(
        self, graph: Graph, params: Mapping[str, np.ndarray], outputs: Sequence[str], place: Place
    ) -> None:
        self.graph, self.place = graph, place
        # A user's own layers may write to their variables as they run, which Keras's prediction sees to.
        self.is_owners = any(node.op == "native" for node in graph.nodes)
        self.by_keras = ENGINE == "tensorflow" or self.is_owners
        with on(place):
            style = Style(dtype=dtype_policy(place), frozen=True, shared=all_held(graph, params, place))

            def made() -> keras.Model:
                model = network(graph, params, outputs, style)
                return compiled_for(model, place) if self.by_keras else model

            self.model = once(graph, outputs, place, made) if style.shared else made()
            self.weights = HalfWeights(graph, self.model, params, place)
            if not self.by_keras:
                self._program = program(self.model, place)
        self._leaving: dict[tuple[tuple[str, str], ...], Program] = {}
        """the nodes and dtypes of a stream -> its program"""

    def run(self, images: Any) -> dict[str, Any]:
        if self.by_keras:
            return self.model.predict_on_batch(images)
        return DEVICES.wait(self._program(DEVICES.put(images, self.place)), self.place)

    def stream(self, batches: Iterable[Any], dtypes: Dtypes) -> Iterator[dict[str, np.ndarray]]:
        if self.by_keras or not DEVICES.can_stream(self.place):
            yield from one_by_one(self.run, to_numpy, batches, dtypes, self.is_owners)
            return
        begin, end = partial(self._begin, dtypes=dtypes), partial(self._end, dtypes=dtypes)
        yield from overlapped(batches, begin, end)

    def _begin(self, images: Any, dtypes: Dtypes) -> UnderWay:
        key = tuple((node, dtype.name) for node, dtype in dtypes.items())
        if key not in self._leaving:
            self._leaving[key] = program(self.model, self.place, partial(in_store_dtypes, dtypes=dict(dtypes)))
        rows, largest = self._leaving[key](DEVICES.send(images, self.place))
        fetched = [{node: DEVICES.fetch(x) for node, x in part.items()} for part in (rows, largest)]
        return UnderWay(images, *fetched)

    def _end(self, batch: UnderWay, dtypes: Dtypes) -> dict[str, np.ndarray]:
        rows = {node: DEVICES.fetched(x) for node, x in batch.rows.items()}
        largest = {node: DEVICES.fetched(x) for node, x in batch.largest.items()}
        if lost := [node for node in largest if not is_held(largest[node], dtypes[node])]:
            outputs = self.run(batch.images)  # core wants to see in full what is lost
            rows |= {node: to_numpy(outputs[node]) for node in lost}
        return rows

    def params(self) -> dict[str, np.ndarray]:
        params = numpy_params(self.graph, self.model)
        return {name: self.weights.told(name, value) for name, value in params.items()}
