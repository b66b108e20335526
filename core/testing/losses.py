"""What is minimised: every loss, with samples' weights and without, in a trainer and in heads side by side."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.contract.heads import HeadsRecipe
from headstart.contract.losses import Huber, Loss, Sigmoid, Softmax, SquaredError, right
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.models.initial import initial_params
from headstart.testing.known import TwoLayers
from headstart.testing.samples import two_layers
from headstart.testing.suite import PLAIN, Suite, assert_close, drawn, floats, recipe_of

OUTPUTS = 4
KINDS: dict[str, Loss] = {
    "softmax": Softmax(),
    "smoothed": Softmax(0.2),
    "sigmoid": Sigmoid(),
    "sigmoid, labels weighted": Sigmoid((0.5, 1.0, 3.0, 10.0)),
    "squared": SquaredError(),
    "huber": Huber(0.7),
}
BATCH, STEPS = 8, 3


def targets_of(loss: Loss, n: int, seed: int = 0) -> np.ndarray:
    """As a trainer takes them for the loss, `OUTPUTS` classes, labels or targets."""
    rng = np.random.default_rng(seed)
    if isinstance(loss, Softmax):
        return rng.integers(0, OUTPUTS, n)
    if isinstance(loss, Sigmoid):
        return rng.integers(0, 2, (n, OUTPUTS)).astype(np.uint8)
    return rng.standard_normal((n, OUTPUTS)).astype(np.float32)


def weights_of(n: int, seed: int = 1) -> np.ndarray:
    """float32 `(n,)`, from 0 to 3; of the first batch none counts but one sample."""
    weights = np.random.default_rng(seed).uniform(0, 3, n).astype(np.float32)
    weights[1:BATCH] = 0
    return weights


class Losses(Suite):
    """Two linear layers, whose gradients numpy knows."""

    @pytest.fixture(scope="class", params=[False, True], ids=["alike", "weighted"])
    @classmethod
    def weighted(cls, request: pytest.FixtureRequest) -> np.ndarray | None:
        return weights_of(BATCH * STEPS) if request.param else None

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_loss_is_what_it_says(
        self, framework: Backend, place: Place, kind: str, weighted: np.ndarray | None
    ) -> None:
        """Losses, hits and updates: of an epoch in an order, of one as the rows lie, and of a step."""
        loss, graph, (x, _) = KINDS[kind], two_layers(), drawn(0, BATCH * STEPS, 7, classes=OUTPUTS)
        targets, start = targets_of(loss, len(x)), initial_params(graph, 0)
        trainer = framework.trainer(graph, start, recipe_of(loss=loss), place)
        by_hand = TwoLayers(start, PLAIN, loss=loss)
        order = np.arange(len(x)).reshape(STEPS, BATCH)[:, ::-1].copy()
        rates, rows = floats([0.3, 0.2, 0.1]), trainer.put(x)
        results = [
            trainer.epoch(rows, targets, order, rates, weighted),
            trainer.epoch(rows, targets, None, rates, weighted),
            trainer.step(x[:BATCH], targets[:BATCH], 0.1, None if weighted is None else weighted[:BATCH]),
        ]
        batches = [*order, *np.sort(order, 1), np.arange(BATCH)]
        expected = [
            by_hand.step(x[b], targets[b], rate, None if weighted is None else weighted[b])
            for b, rate in zip(batches, [*rates, *rates, 0.1], strict=True)
        ]
        losses = np.concatenate([np.ravel(part) for part, _ in results])
        np.testing.assert_allclose(losses, [value for value, _ in expected], rtol=self.tolerance())
        counts = [right for _, right in expected]
        assert [int(right) for _, right in results] == [sum(counts[:3]), sum(counts[3:6]), counts[6]]
        for name, value in trainer.params().items():
            assert_close(value, by_hand.params[name], name)

    def test_samples_without_weight_teach_nothing(self, framework: Backend, place: Place) -> None:
        """Nor do they divide by zero."""
        graph, (x, y) = two_layers(), drawn(0, BATCH, 7, classes=OUTPUTS)
        start = initial_params(graph, 0)
        trainer = framework.trainer(graph, start, recipe_of(), place)
        losses, _ = trainer.step(x, y, 0.5, np.zeros(BATCH, np.float32))
        assert losses.tolist() == [0.0]
        for name, value in trainer.params().items():
            np.testing.assert_array_equal(value, start[name])

    @pytest.mark.parametrize("kind", KINDS)
    def test_heads_side_by_side_have_it_too(
        self, framework: Backend, place: Place, kind: str, weighted: np.ndarray | None
    ) -> None:
        loss, graph, (x, _) = KINDS[kind], two_layers(), drawn(0, BATCH * STEPS, 7, classes=OUTPUTS)
        targets = targets_of(loss, len(x))
        starts = [initial_params(graph, seed) for seed in range(2)]
        recipe = HeadsRecipe(hs.SGD(momentum=0.0), floats([0.3, 0.1]), floats([0.0, 0.0]), loss)
        heads = self.side_by_side(framework, graph, starts, recipe, place)
        order = np.random.default_rng(1).permutation(len(x)).reshape(STEPS, BATCH)
        shares = floats([1.0, 0.5, 0.25])
        result: Any = heads.epoch(heads.put(x), targets, order, shares, weighted)
        after = heads.params()
        for k, (start, lr) in enumerate(zip(starts, (0.3, 0.1), strict=True)):
            by_hand = TwoLayers(start, replace(PLAIN, lr=lr), loss=loss)
            steps = [
                by_hand.step(x[b], targets[b], lr * share, None if weighted is None else weighted[b])
                for b, share in zip(order, shares, strict=True)
            ]
            head = SimpleNamespace(losses=result[0][:, k], right=int(result[1][k]))
            np.testing.assert_allclose(head.losses, [value for value, _ in steps], rtol=self.tolerance())
            assert head.right == sum(right for _, right in steps)
            for name, value in by_hand.params.items():
                assert_close(after[name][k], value, f"{name} of head {k}")

    @pytest.mark.parametrize(
        ("kind", "ordered"), [("softmax", True), ("softmax", False), ("sigmoid", False), ("squared", True)]
    )
    def test_heads_weigh_samples_each_its_own_way(
        self, framework: Backend, place: Place, kind: str, ordered: bool
    ) -> None:
        """As if each were alone with its column as weights: also in a batch of which none counts. A sample that
        does not count is not right."""
        loss, graph, (x, _) = KINDS[kind], two_layers(), drawn(0, BATCH * STEPS, 7, classes=OUTPUTS)
        targets = targets_of(loss, len(x))
        starts = [initial_params(graph, seed) for seed in range(3)]
        lr, decay = (0.3, 0.1, 0.2), (0.1, 0.0, 0.3)
        recipe = HeadsRecipe(hs.SGD(momentum=0.9), floats(lr), floats(decay), loss)
        heads = self.side_by_side(framework, graph, starts, recipe, place)
        order = np.arange(len(x)).reshape(STEPS, BATCH)
        if ordered:
            order = np.random.default_rng(1).permutation(len(x)).reshape(STEPS, BATCH)
        weights = np.stack([weights_of(len(x), seed) for seed in range(3)], 1)
        weights[order[1], 1] = 0
        weights[:, 2] = np.arange(len(x)) % 3 > 0  # as of three folds
        shares = floats([1.0, 0.5, 0.25])
        losses, counts = heads.epoch(heads.put(x), targets, order if ordered else None, shares, weights)
        after = heads.params()
        for k, start in enumerate(starts):
            by_hand = TwoLayers(start, hs.SGD(lr[k], 0.9, weight_decay=decay[k]), loss=loss)
            hits = 0
            for i, (batch, share) in enumerate(zip(order, shares, strict=True)):
                there = weights[batch, k] > 0
                hits += right(loss, by_hand.logits(x[batch]), targets[batch])[there].sum()
                expected, _ = by_hand.step(x[batch], targets[batch], lr[k] * share, weights[batch, k])
                np.testing.assert_allclose(losses[i, k], expected, rtol=self.tolerance(), err_msg=f"head {k}")
            assert losses[1, 1] == 0
            assert counts[k] == hits
            for name, value in by_hand.params.items():
                assert_close(after[name][k], value, f"{name} of head {k}")
