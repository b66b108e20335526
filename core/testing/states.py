"""What a training goes on from: a trainer that loads a state takes the steps that the state's trainer would have
taken. On layers that keep something of everything there is to keep: moments, statistics, random numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import CheckpointError
from headstart.contract.description import STATE, WRAP
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.contract.running import Trainer
from headstart.contract.wrapping import END, WrapRequest
from headstart.graph import Graph, Node
from headstart.models.initial import initial_params
from headstart.testing import reference
from headstart.testing.samples import linear_graph, restless
from headstart.testing.suite import Suite, assert_close, drawn, recipe_of

MOMENTUM, ADAMW = hs.SGD(lr=0.1, momentum=0.9, weight_decay=0.01), hs.AdamW(lr=0.05, weight_decay=0.1)
STATISTICS = ("bn.running_mean", "bn.running_var")


class States(Suite):
    """`Trainer.state` and `Trainer.load_state`: the ability STATE."""

    @pytest.fixture(scope="class", params=[MOMENTUM, ADAMW], ids=["sgd", "adamw"])
    @classmethod
    def resumed(cls, framework: Backend, place: Place, request: pytest.FixtureRequest) -> SimpleNamespace:
        """What a trainer's last three steps of six gave, and what those gave of one that began at its state."""
        cls.require(STATE)
        graph, data = restless(), drawn(0, 48, 4, 5, 3, classes=4)
        start = reference.random_params(graph, 0)
        recipe = recipe_of(request.param, train_statistics=True, seed=5, rates={"fc.bias": 0.3})
        trainers = [framework.trainer(graph, start, recipe, place) for _ in range(2)]
        names = set(trainers[0].state())
        _train(trainers[0], data, 0, 3)
        state = trainers[0].state()
        copies = {name: array.copy() for name, array in state.items()}
        undisturbed = _train(trainers[0], data, 3, 6)
        trainers[1].load_state(state)
        loaded = trainers[1].state()
        return SimpleNamespace(
            undisturbed=undisturbed,
            result=_train(trainers[1], data, 3, 6),
            names=(names, set(state), set(trainers[0].state())),
            state=state,
            copies=copies,
            loaded=loaded,
        )

    def test_statistics_go_on_from_a_state(self, resumed: SimpleNamespace) -> None:
        for name in STATISTICS:
            self._equal(resumed.result.params[name], resumed.undisturbed.params[name], name)

    def test_what_is_dropped_goes_on_from_a_state(self, resumed: SimpleNamespace) -> None:
        """The first loss, before moments count: the same numbers are dropped."""
        self._equal(resumed.result.losses[:1], resumed.undisturbed.losses[:1])

    def test_moments_go_on_from_a_state(self, resumed: SimpleNamespace) -> None:
        """All losses, parameters and logits, of an epoch's steps and of steps by themselves."""
        self._equal(resumed.result.losses, resumed.undisturbed.losses)
        for name, value in resumed.undisturbed.params.items():
            self._equal(resumed.result.params[name], value, name)
        self._equal(resumed.result.logits, resumed.undisturbed.logits)

    def test_a_state_has_the_same_names_at_all_times(self, resumed: SimpleNamespace) -> None:
        """So that core can tell a state of something else, also of a trainer that has not begun."""
        first, *others = resumed.names
        assert first
        for names in others:
            assert names == first

    def test_a_state_is_a_copy(self, resumed: SimpleNamespace) -> None:
        """Of which nothing changes with later steps, of this trainer or of one that has loaded it; and what was
        loaded is what is read."""
        for name, array in resumed.copies.items():
            np.testing.assert_array_equal(resumed.state[name], array, err_msg=name)
            np.testing.assert_array_equal(resumed.loaded[name], array, err_msg=name)

    def test_a_wrapped_module_goes_on_from_a_state(self, framework: Backend, place: Place) -> None:
        """With its own statistics and its own generators; into a trainer that has trained already."""
        self.require(STATE)
        self.require(WRAP)
        inner, (x, y) = restless(), drawn(1, 8, 4, 5, 3, classes=4)
        native = framework.native(inner, reference.random_params(inner, 0))
        wrapping = framework.wrap(WrapRequest(native, END, False, x[:2], None, None, False, False, None, ""))
        shape = {"shape": (4, 5, 3)}
        node = Node("trunk", "native", ("input",), {"part": wrapping.trunk})
        graph = Graph((Node("input", "input", (), shape), node), "trunk")
        params = {f"trunk.{name}": value for name, value in wrapping.params.items()}
        recipe = recipe_of(MOMENTUM, train_statistics=True, seed=5)
        trainers = [framework.trainer(graph, params, recipe, place) for _ in range(2)]
        for trainer, steps in zip(trainers, (2, 1), strict=True):
            for _ in range(steps):
                trainer.step(x, y, 0.05)
        trainers[1].load_state(trainers[0].state())
        undisturbed, result = ([trainer.step(x, y, 0.05)[0] for _ in range(2)] for trainer in trainers)
        self._equal(np.array(result), np.array(undisturbed))
        after = trainers[1].params()
        for name, value in trainers[0].params().items():
            self._equal(after[name], value, name)

    def test_a_state_of_something_else_is_refused(self, framework: Backend, place: Place) -> None:
        """Of another graph, of another optimiser, one that lacks something: and the trainer is as it was."""
        self.require(STATE)

        def trainer(graph: Graph, optimizer: Any) -> Trainer:
            return framework.trainer(graph, initial_params(graph, 0), recipe_of(optimizer), place)

        mine = trainer(linear_graph(), ADAMW)
        before = mine.state()
        others = [trainer(linear_graph(8), ADAMW).state(), trainer(linear_graph(), MOMENTUM).state()]
        others.append(dict(list(before.items())[1:]))
        for other in others:
            with pytest.raises(CheckpointError, match="state of another graph or optimizer"):
                mine.load_state(other)
        for name, array in mine.state().items():
            np.testing.assert_array_equal(array, before[name], err_msg=name)

    def _equal(self, actual: np.ndarray, expected: np.ndarray, what: str = "") -> None:
        """To the bit on a CPU; elsewhere sums may come in another order."""
        (np.testing.assert_array_equal if self.on_cpu() else assert_close)(actual, expected, what)


def _train(trainer: Trainer, data: tuple[np.ndarray, np.ndarray], start: int, stop: int) -> SimpleNamespace:
    """The steps `start` to before `stop`, eight samples each: all but the last as an epoch, of which each other
    length would be compiled anew."""
    x, y = data
    rates = hs.Schedule("cosine").rates(0.05, 7)
    *order, last = np.arange(8 * start, 8 * stop).reshape(-1, 8)
    losses, _ = trainer.epoch(trainer.put(x), y, np.array(order), rates[start : stop - 1])
    loss, _ = trainer.step(x[last], y[last], rates[stop - 1])
    losses = np.concatenate((losses[:, 0], loss))
    return SimpleNamespace(losses=losses, params=trainer.params(), logits=trainer.logits(x, 0, 8))
