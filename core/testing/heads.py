"""What heads side by side owe: each is trained as if it were alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.contract.heads import HeadsRecipe, chain_of
from headstart.contract.losses import Softmax
from headstart.contract.optimizers import Optimizer
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.graph import Builder, Graph
from headstart.models.initial import initial_params
from headstart.testing import reference
from headstart.testing.known import TwoLayers, softmax_loss
from headstart.testing.samples import dropped_layers, of_shape, two_layers
from headstart.testing.suite import Suite, drawn, floats, recipe_of

LR, DECAY, SHARES = (0.2, 0.02, 0.5), (0.0, 0.3, 0.1), (1.0, 0.5, 0.25)
SOME = (2, 0, 2, 1)
"""heads whose logits are asked for alone, one of them twice; and then the first two of them"""
OPTIMIZERS = [hs.SGD(momentum=0.9, nesterov=True), hs.AdamW(epsilon=0.01)]


def pooled() -> Graph:
    """A classifier of the average over `(3, 2, 5)` maps."""
    b = Builder()
    return of_shape(b.graph(b.linear("fc", b.add("pool", "global_avg_pool", "input"), 5, 4)), (3, 2, 5))


class SideBySide(Suite):
    """Three heads of two layers and a rectifier, each with a rate and a weight decay of its own."""

    @classmethod
    def _heads(
        cls, framework: Backend, place: Place, optimizer: Optimizer, smoothing: float = 0.0
    ) -> tuple[Any, list[TwoLayers]]:
        """The backend's, and the same by hand."""
        graph = two_layers(["relu"])
        starts = [initial_params(graph, seed) for seed in range(3)]
        recipe = HeadsRecipe(optimizer, floats(LR), floats(DECAY), Softmax(smoothing))
        heads = cls.side_by_side(framework, graph, starts, recipe, place)
        by_hand = [
            TwoLayers(start, replace(optimizer, lr=lr, weight_decay=decay), rectified=True, smoothing=smoothing)
            for start, lr, decay in zip(starts, LR, DECAY, strict=True)
        ]
        return heads, by_hand

    @pytest.fixture(scope="class", params=OPTIMIZERS, ids=["sgd", "adamw"])
    @classmethod
    def three(cls, framework: Backend, place: Place, request: pytest.FixtureRequest) -> SimpleNamespace:
        """After an epoch with an order and one without; and the same by hand."""
        heads, heads_by_hand = cls._heads(framework, place, request.param, 0.1)
        x, y = drawn(0, 24, 7, classes=4)
        order = np.random.default_rng(1).permutation(24).reshape(3, 8)
        rows, shares = heads.put(x), floats(SHARES)
        results = [heads.epoch(rows, y, order, shares), heads.epoch(rows, y, None, shares)]
        by_hand = []
        for head, lr in zip(heads_by_hand, LR, strict=True):
            steps = []
            for batches in (order, np.arange(24).reshape(3, 8)):
                steps.append([head.step(x[b], y[b], lr * share) for b, share in zip(batches, SHARES, strict=True)])
            by_hand.append((head, steps))
        return SimpleNamespace(
            x=x,
            results=results,
            by_hand=by_hand,
            params=heads.params(),
            logits=heads.logits(x, 4, 9),
            some=[heads.logits_of(rows, 4, 9, numbers) for numbers in (SOME, SOME[:2])],
        )

    def test_heads_have_rates_and_decays_of_their_own(self, three: SimpleNamespace) -> None:
        for k, (head, _) in enumerate(three.by_hand):
            for name, value in head.params.items():
                np.testing.assert_allclose(three.params[name][k], value, rtol=1e-3, atol=2e-4, err_msg=(name, k))

    def test_heads_have_losses_and_hits_of_their_own(self, three: SimpleNamespace) -> None:
        """The second epoch's are of the rows as they lie."""
        for part, (losses, right) in enumerate(three.results):
            assert losses.shape == (3, 3)
            assert right.shape == (3,)
            for k, (_, steps) in enumerate(three.by_hand):
                np.testing.assert_allclose(losses[:, k], [loss for loss, _ in steps[part]], rtol=1e-3)
                assert right[k] == sum(count for _, count in steps[part])

    def test_heads_see_what_comes_before_them(self, framework: Backend) -> None:
        """A pooling without parameters is done once for all; in the precision of the place, as all else."""
        graph = pooled()
        chain = chain_of(graph)
        assert chain is not None and chain.before is not None
        x, y = drawn(2, 8, 3, 2, 5, classes=4)
        starts = [initial_params(graph, seed) for seed in range(2)]
        recipe = HeadsRecipe(hs.SGD(momentum=0.0), floats([0.1, 0.1]), floats([0.0, 0.0]), Softmax())
        errors = {}
        for precision in ("float32", "bfloat16"):
            at = framework.place(self.on(), precision)
            heads = self.side_by_side(framework, graph, starts, recipe, at)
            logits = heads.logits(x, 0, 8)
            expected = np.stack([reference.run(graph, start, x)["fc"] for start in starts], 1)
            errors[precision] = np.abs(logits - expected).max() / np.abs(expected).max()
            losses, _ = heads.epoch(heads.put(x), y, None, floats([1.0]))
            known = [softmax_loss(expected[:, k], y, 0.0)[0] for k in range(2)]
            np.testing.assert_allclose(losses[0], known, rtol=2e-2 if precision == "bfloat16" else 1e-4)
        assert errors["float32"] < self.tolerance()
        assert errors["bfloat16"] < 2e-2
        if at.arithmetic == "bfloat16":
            assert errors["bfloat16"] > 1e-4, "the logits were not computed in bfloat16"

    def test_heads_drop_what_each_drops_alone(self, framework: Backend, place: Place) -> None:
        """One mask for all heads of a seed, epoch after epoch, also when some of them are no longer trained; and
        none in what they are asked for."""
        graph, optimizer, seed = dropped_layers(), hs.SGD(momentum=0.9), 5
        chain = chain_of(graph)
        assert chain is not None and len(chain.dropouts) == 2
        starts = [initial_params(graph, start) for start in range(2)]
        lr, decay = floats(LR[:2]), floats(DECAY[:2])
        recipe = HeadsRecipe(optimizer, lr, decay, Softmax(), seed)
        heads = self.side_by_side(framework, graph, starts, recipe, place)
        alone = [
            framework.trainer(graph, start, recipe_of(replace(optimizer, weight_decay=DECAY[k]), seed=seed), place)
            for k, start in enumerate(starts)
        ]
        x, y = drawn(0, 24, 7, classes=4)
        order, shares = np.random.default_rng(1).permutation(24).reshape(3, 8), floats(SHARES)
        for there in ([0, 1], [1]):
            if len(there) == 1:
                heads.keep(there)
            losses, right = heads.epoch(heads.put(x), y, order, shares)
            for number, k in enumerate(there):
                known, count = alone[k].epoch(alone[k].put(x), y, order, lr[k] * shares)
                np.testing.assert_allclose(losses[:, number], known[:, 0], rtol=1e-3, err_msg=f"{there}, {k}")
                assert right[number] == count
        np.testing.assert_allclose(heads.logits(x, 0, 24)[:, 0], alone[1].logits(x, 0, 24), rtol=1e-3, atol=1e-3)

    def test_heads_have_logits_of_their_own(self, three: SimpleNamespace) -> None:
        assert three.logits.shape == (5, 3, 4)
        for k, (head, _) in enumerate(three.by_hand):
            np.testing.assert_allclose(three.logits[:, k], head.logits(three.x[4:9]), rtol=1e-3, atol=1e-3)

    def test_some_heads_have_logits_alone(self, three: SimpleNamespace) -> None:
        for logits in three.some:
            assert logits.shape[0] == 5 and logits.shape[2] == 4
            for place, k in enumerate(SOME[: logits.shape[1]]):
                known = three.by_hand[k][0].logits(three.x[4:9])
                np.testing.assert_allclose(logits[:, place], known, rtol=1e-3, atol=1e-3)
        assert [logits.shape[1] for logits in three.some] == [4, 2]

    @pytest.fixture(scope="class", params=OPTIMIZERS, ids=["sgd", "adamw"])
    @classmethod
    def fewer(cls, framework: Backend, place: Place, request: pytest.FixtureRequest) -> SimpleNamespace:
        """Three heads, of which after an epoch the last and the first are kept, and after another these two in
        turn; and the same by hand. The last epoch has weights of each head its own."""
        heads, by_hand = cls._heads(framework, place, request.param)
        x, y = drawn(0, 24, 7, classes=4)
        order, rows, shares = np.arange(24).reshape(3, 8), heads.put(x), floats(SHARES)
        weights = np.random.default_rng(1).uniform(0, 3, (24, 3)).astype(np.float32)
        epochs = []
        for there, numbers in (([0, 1, 2], None), ([2, 0], [2, 0]), ([0, 2], [1, 0])):
            if numbers is not None:
                heads.keep(numbers)
            by_head = weights[:, there] if there == [0, 2] else None
            losses, right = heads.epoch(rows, y, order, shares, by_head)
            steps = [
                [
                    by_hand[k].step(x[b], y[b], LR[k] * share, None if by_head is None else weights[b, k])
                    for b, share in zip(order, SHARES, strict=True)
                ]
                for k in there
            ]
            expected = {k: {n: w.copy() for n, w in by_hand[k].params.items()} for k in there}
            epochs.append(SimpleNamespace(there=there, losses=losses, right=right, steps=steps, expected=expected))
            epochs[-1].params = heads.params()
        logits = heads.logits(x, 4, 9)
        known = [by_hand[k].logits(x[4:9]) for k in (0, 2)]
        return SimpleNamespace(epochs=epochs, logits=logits, known=known, compiles=heads.compiles)

    def test_heads_that_are_kept_go_on(self, fewer: SimpleNamespace) -> None:
        """With their parameters, rates, weight decays, and what the optimiser keeps of them."""
        for epoch in fewer.epochs:
            assert epoch.losses.shape == (3, len(epoch.there))
            assert epoch.right.shape == (len(epoch.there),)
            for place, (k, steps) in enumerate(zip(epoch.there, epoch.steps, strict=True)):
                np.testing.assert_allclose(epoch.losses[:, place], [loss for loss, _ in steps], rtol=1e-3)
                assert epoch.right[place] == sum(count for _, count in steps)
                for name, value in epoch.expected[k].items():
                    assert epoch.params[name].shape == (len(epoch.there), *value.shape)
                    # nine steps of 0.1 make more of rounding than six do
                    error = (name, k, epoch.there)
                    kept = epoch.params[name][place]
                    np.testing.assert_allclose(kept, value, rtol=2e-3, atol=2e-3, err_msg=error)

    def test_heads_say_whether_they_are_compiled_for_their_number(self, fewer: SimpleNamespace) -> None:
        assert fewer.compiles in (True, False)

    def test_heads_that_are_kept_have_their_own_logits(self, fewer: SimpleNamespace) -> None:
        assert fewer.logits.shape == (5, 2, 4)
        for place, known in enumerate(fewer.known):
            np.testing.assert_allclose(fewer.logits[:, place], known, rtol=1e-3, atol=1e-3)
