"""A backend that returns something else than it owes is named, with what it was: nothing of it is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import BackendError, UnknownNameError
from headstart.contract.checked import CheckedBackend
from headstart.contract.description import FACTS, HEADS, Description
from headstart.contract.heads import HeadsRecipe, chain_of
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Place, Recipe
from headstart.graph import Graph, Node

pytestmark = pytest.mark.neutral

PLACE = Place("cpu", "float32")
GRAPH = Graph(
    (
        Node("x", "input", (), {"shape": (5,)}),
        Node("fc", "linear", ("x",), {"in_features": 5, "out_features": 3}),
    ),
    "fc",
)
PARAMS = {"fc.weight": np.ones((3, 5), np.float32), "fc.bias": np.zeros(3, np.float32)}
ROWS, LABELS = np.ones((8, 5), np.float32), np.zeros(8, np.int64)
ORDER, RATES = np.arange(8).reshape(2, 4), np.ones(2)


class Answers:
    """A backend, its trunk and its trainer in one, that says what a test has it say."""

    name, extra = "odd", "of its own"

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def place(self, device: str, precision: str) -> Any:
        return self.answers.get("place", Place(device, precision))

    def device_facts(self, place: Place) -> Any:
        return self.answers["facts"]

    def trunk(self, *given: Any) -> Answers:
        return self

    trainer = heads = trunk

    def run(self, images: Any) -> Any:
        return self.answers.get("run", {"fc": np.ones((len(images), 3))})

    def params(self) -> Any:
        return self.answers.get("params", PARAMS)

    def epoch(self, *given: Any) -> Any:
        return self.answers.get("epoch", (np.ones((2, 1), np.float32), 8))

    def step(self, *given: Any) -> Any:
        return self.answers.get("step", (np.ones(1, np.float32), 0))

    def logits(self, inputs: Any, start: int, stop: int) -> Any:
        return self.answers.get("logits", np.ones((stop - start, 3), np.float32))


def checked_backend(**answers: Any) -> CheckedBackend:
    abilities = frozenset({FACTS, HEADS})
    description = Description("odd", (), (), "", devices=("cpu", "cuda"), abilities=abilities)
    return CheckedBackend(Answers(**answers), "odd", description)


def trained(**answers: Any) -> Any:
    return checked_backend(**answers).trainer(GRAPH, PARAMS, Recipe(hs.SGD(), Softmax(), False, 0), PLACE)


def test_what_is_right_passes() -> None:
    trainer = trained()
    assert trainer.params() == PARAMS
    assert trainer.epoch(ROWS, LABELS, ORDER, RATES)[1] == trainer.epoch(ROWS, LABELS, None, RATES)[1] == 8
    assert trainer.step(ROWS, LABELS, 0.1)[1] == 0
    assert trainer.logits(ROWS, 6, 8).shape == (2, 3)
    assert trainer.extra == "of its own"
    diverged = trained(params={**PARAMS, "fc.bias": np.full(3, np.nan, np.float32)})
    assert np.isnan(diverged.params()["fc.bias"]).all(), "values are anybody's"
    trunk = checked_backend().trunk(GRAPH, PARAMS, ["fc"], PLACE)
    assert trunk.run(ROWS)["fc"].shape == (8, 3)
    assert trunk.params() == PARAMS
    with pytest.raises(AttributeError):
        _ = trunk.nothing


PARAMETERS = {
    "parameter 'fc.bias' as nothing; expected float32 (3,)": {"fc.weight": PARAMS["fc.weight"]},
    "parameter 'fc.weight' as float32 (5, 3); expected float32 (3, 5)": {
        **PARAMS,
        "fc.weight": np.ones((5, 3), "f"),
    },
    "parameter 'fc.weight' as float64 (3, 5)": {**PARAMS, "fc.weight": np.ones((3, 5))},
    "parameter 'fc.more' as float32 (1,); expected no parameter": {**PARAMS, "fc.more": np.ones(1, "f")},
    "parameter 'fc.bias' as [0, 0, 0]": {**PARAMS, "fc.bias": [0, 0, 0]},
}
ONE = np.ones(1, np.float32)
WRONG: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    **{said: ({"params": params}, lambda t: t.params()) for said, params in PARAMETERS.items()},
    "losses as float32 (2,); expected floats (2, 1)": (
        {"epoch": (np.ones(2, np.float32), 8)},
        lambda t: t.epoch(ROWS, LABELS, ORDER, RATES),
    ),
    "losses as int64 (1,)": ({"step": (np.ones(1, np.int64), 0)}, lambda t: t.step(ROWS, LABELS, 0.1)),
    "classified right as 9; expected 0 to 8": ({"step": (ONE, 9)}, lambda t: t.step(ROWS, LABELS, 0.1)),
    "classified right as 0.5": ({"step": (ONE, 0.5)}, lambda t: t.step(ROWS, LABELS, 0.1)),
    "logits as float32 (8, 3); expected float32 (2,)": (
        {"logits": np.ones((8, 3), np.float32)},
        lambda t: t.logits(ROWS, 6, 8),
    ),
    "logits as float64 (2, 3)": ({"logits": np.ones((2, 3))}, lambda t: t.logits(ROWS, 6, 8)),
    "logits as float32 (2, 1, 3)": (
        {"logits": np.ones((2, 1, 3), np.float32)},
        lambda t: t.logits(ROWS, 6, 8),
    ),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_wrong_is_named(said: str) -> None:
    answers, ask = WRONG[said]
    with pytest.raises(BackendError) as caught:
        ask(trained(**answers))
    assert "backend 'odd' returned" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({}, "the trunk's outputs as []; expected ['fc']"),
        ({"fc": np.ones((8, 4))}, "the trunk's output 'fc' as (8, 4); expected (8, 3)"),
        ({"fc": np.ones((7, 3))}, "the trunk's output 'fc' as (7, 3); expected (8, 3)"),
    ],
)
def test_a_trunk_is_checked(outputs: Any, said: str) -> None:
    trunk = checked_backend(run=outputs).trunk(GRAPH, PARAMS, ["fc"], PLACE)
    with pytest.raises(BackendError) as caught:
        trunk.run(ROWS)
    assert said in str(caught.value)


def test_each_of_several_outputs_is_checked() -> None:
    graph = Graph((*GRAPH.nodes, Node("act", "relu", ("fc",)), Node("half", "sigmoid", ("act",))), "half")
    right = {name: np.ones((8, 3), np.float32) for name in ("fc", "act", "half")}
    for wrong in (None, *right):
        outputs = {**right, wrong: np.ones((8, 4), np.float32)} if wrong else right
        trunk = checked_backend(run=outputs).trunk(graph, PARAMS, list(right), PLACE)
        if wrong is None:
            assert trunk.run(ROWS).keys() == right.keys()
            continue
        with pytest.raises(BackendError, match=rf"the trunk's output '{wrong}' as \(8, 4\); expected \(8, 3\)"):
            trunk.run(ROWS)


def test_a_place_is_checked() -> None:
    """A backend hears of the first of a kind by its kind's name."""
    backend = checked_backend()
    assert backend.place("cuda:0", "tf32") == Place("cuda", "tf32")
    assert backend.place("cuda:1", "float16") == Place("cuda:1", "float16")
    with pytest.raises(
        UnknownNameError, match=r"'mps' \(of backend 'odd'\); expected one of auto, cpu, cuda, cuda:N"
    ):
        backend.place("mps", "float32")
    for asked, place in (
        ("cuda:1", Place("cuda", "float32")),
        ("cuda", Place("cpu", "float32")),
        ("auto", Place("mps", "float32")),
        ("cpu", Place("cpu", "bfloat16")),
    ):
        with pytest.raises(BackendError, match="returned a place as Place"):
            checked_backend(place=place).place(asked, "float32")


def test_facts_of_a_device_are_checked() -> None:
    card, facts = (
        Place("cuda:1", "float32"),
        {"name": "A card", "memory": 80 << 30, "tf32": False, "capability": 9.0},
    )
    assert checked_backend(facts=facts).device_facts(card) == facts
    assert checked_backend(facts=facts).device_facts(PLACE) == {}, "a CPU is not asked about"
    for wrong in (None, [], {"name": None}, {"memory": np.int64(3)}, {1: "one"}, {"cudnn": (9, 1)}):
        with pytest.raises(BackendError, match="returned a device's facts as"):
            checked_backend(facts=wrong).device_facts(card)


def test_training_is_never_in_float16() -> None:
    """Heads behind a trunk in float16 train in float32."""
    seen: list[Any] = []
    backend = checked_backend()
    backend._inner.trainer = backend._inner.heads = lambda *given: seen.append(given[-1]) or backend._inner
    backend.trainer(GRAPH, PARAMS, Recipe(hs.SGD(), Softmax(), False, 0), Place("cuda", "float16"))
    recipe = HeadsRecipe(hs.SGD(), np.ones(2, np.float32), np.zeros(2, np.float32), Softmax())
    backend.heads(chain_of(GRAPH), PARAMS, recipe, Place("cuda", "float16"))
    backend.trainer(GRAPH, PARAMS, Recipe(hs.SGD(), Softmax(), False, 0), Place("cuda", "bfloat16"))
    assert seen == [Place("cuda", "float32")] * 2 + [Place("cuda", "bfloat16")]


def test_heads_side_by_side_are_checked() -> None:
    chain = chain_of(GRAPH)
    recipe = HeadsRecipe(hs.SGD(), np.ones(2, np.float32), np.zeros(2, np.float32), Softmax())
    stacked = {name: np.repeat(value[None], 2, 0) for name, value in PARAMS.items()}
    right = {
        "params": stacked,
        "epoch": (np.ones((2, 2), np.float32), np.array([8, 0])),
        "logits": np.ones((8, 2, 3), np.float32),
    }
    for answers in (right, {}):
        heads = checked_backend(**answers).heads(chain, stacked, recipe, PLACE)
        for ask in (
            heads.params,
            lambda h=heads: h.epoch(ROWS, LABELS, ORDER, RATES),
            lambda h=heads: h.logits(ROWS, 0, 8),
        ):
            if answers:
                ask()
            else:
                with pytest.raises(BackendError):
                    ask()


def test_heads_that_are_kept_are_checked() -> None:
    """After that there are fewer of everything."""
    chain = chain_of(GRAPH)
    recipe = HeadsRecipe(hs.SGD(), np.ones(3, np.float32), np.zeros(3, np.float32), Softmax())
    three, two = ({name: np.repeat(value[None], n, 0) for name, value in PARAMS.items()} for n in (3, 2))
    for params, count in ((two, 2), (three, 3)):
        kept: list[Any] = []
        answers = {
            "params": params,
            "epoch": (np.ones((2, count), np.float32), np.zeros(count, np.int64)),
            "logits": np.ones((8, count, 3), np.float32),
        }
        backend = checked_backend(**answers)
        backend._inner.keep = kept.append
        heads = backend.heads(chain, three, recipe, PLACE)
        heads.keep([2, 0])
        assert kept == [[2, 0]]
        for ask in (
            heads.params,
            lambda h=heads: h.epoch(ROWS, LABELS, ORDER, RATES),
            lambda h=heads: h.logits(ROWS, 0, 8),
        ):
            if count == 2:
                ask()
            else:
                with pytest.raises(BackendError):
                    ask()


@pytest.mark.each
def test_nothing_of_it_is_saved(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """The whole way: a weight that comes back transposed ends `fit`."""
    from headstart.contract import registry

    inner = registry.load(backend)._inner  # type: ignore[attr-defined]
    make = inner.trainer

    def trainer(*asked: Any) -> Any:
        made = make(*asked)
        params = made.params
        made.params = lambda: {name: value.T for name, value in params().items()}
        return made

    monkeypatch.setattr(inner, "trainer", trainer)
    data = hs.data.digits().subset(range(16))
    with pytest.raises(BackendError, match=rf"backend '{backend}' returned parameter '\w+\.weight'"):
        hs.fit(hs.model("lenet", classes=10), data, epochs=1, backend=backend, device="cpu")
