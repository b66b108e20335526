"""How a fault is planted in a backend: between it and the door that checks what it returns, so that the suite sees
what it would see of a backend that had the fault. `FAULTS` says which test of the suite has to fail for each."""

from __future__ import annotations

from typing import Any

from headstart.contract.checked import Passing
from headstart.contract.recipe import Place
from headstart.graph import Graph

FAULTS: dict[str, tuple[type[Passing], str]] = {}
"""name of the fault -> the backend, and the test that has to fail"""


def fails(test: str) -> Any:
    """Register a backend with a fault as one that this test has to find."""

    def registered(fault: type[Passing]) -> type[Passing]:
        FAULTS[fault.__name__] = (fault, test)
        return fault

    return registered


class Faulty(Passing):
    """A backend in which a subclass changes what trainers are asked for, or what they answer."""

    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        return self.made(graph, params, recipe, place)

    def made(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        return self._inner.trainer(graph, params, recipe, place)


class Trained(Passing):
    """A trainer that a subclass changes."""

    def __init__(self, inner: Any, graph: Graph, params: Any, recipe: Any, remake: Any = None) -> None:
        super().__init__(inner)
        self.graph, self.recipe, self.remake = graph, recipe, remake
        self.start = {name: value.copy() for name, value in params.items()}

    def epoch(self, rows: Any, labels: Any, order: Any, rates: Any) -> Any:
        return self.changed(self._inner.epoch(rows, labels, order, rates))

    def step(self, inputs: Any, labels: Any, rate: Any) -> Any:
        return self.changed(self._inner.step(inputs, labels, rate))

    def changed(self, result: Any) -> Any:
        return result


class FaultyTraining(Faulty):
    """`kind`: the trainer in place of the framework's own."""

    kind: type[Trained]

    def trainer(self, graph: Graph, params: Any, recipe: Any, place: Place) -> Any:
        def remake(current: Any) -> Any:
            return self._inner.trainer(graph, current, recipe, place)

        return self.kind(remake(params), graph, params, recipe, remake)


def faulty_training(name: str, test: str) -> Any:
    """Register a backend whose trainers are of the class."""

    def registered(kind: type[Trained]) -> type[Trained]:
        fails(test)(type(name, (FaultyTraining,), {"kind": kind}))
        return kind

    return registered
