"""What heads side by side owe: each is trained as if it were alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import headstart as hs
from headstart.contract.description import HEADS
from headstart.contract.heads import HeadsRecipe, chain_of
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.models.initial import initial_params
from headstart.testing.known import TwoLayers
from headstart.testing.samples import two_layers
from headstart.testing.suite import Suite, drawn, floats

LR, DECAY, SHARES = (0.2, 0.02, 0.5), (0.0, 0.3, 0.1), (1.0, 0.5, 0.25)


class SideBySide(Suite):
    """Three heads of two layers and a rectifier, each with a rate and a weight decay of its own."""

    @pytest.fixture(scope="class", params=[hs.SGD(momentum=0.9, nesterov=True), hs.AdamW()], ids=["sgd", "adamw"])
    @classmethod
    def three(cls, framework: Backend, place: Place, request: pytest.FixtureRequest) -> SimpleNamespace:
        """After an epoch with an order and one without; and the same by hand."""
        cls.require(HEADS)
        graph, (x, y) = two_layers(["relu"]), drawn(0, 24, 7, classes=4)
        chain = chain_of(graph)
        assert chain is not None
        starts = [initial_params(graph, seed) for seed in range(3)]
        stacked = {name: np.stack([start[name] for start in starts]) for name in starts[0]}
        recipe = HeadsRecipe(request.param, floats(LR), floats(DECAY), 0.1)
        heads = framework.heads(chain, stacked, recipe, place)
        if heads is None:
            pytest.skip(f"backend {cls.backend!r} trains these heads one after the other")
        order = np.random.default_rng(1).permutation(24).reshape(3, 8)
        rows, shares = heads.put(x), floats(SHARES)
        results = [heads.epoch(rows, y, order, shares), heads.epoch(rows, y, None, shares)]
        by_hand = []
        for start, lr, decay in zip(starts, LR, DECAY, strict=True):
            head = TwoLayers(
                start, replace(request.param, lr=lr, weight_decay=decay), rectified=True, smoothing=0.1
            )
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

    def test_heads_have_logits_of_their_own(self, three: SimpleNamespace) -> None:
        assert three.logits.shape == (5, 3, 4)
        for k, (head, _) in enumerate(three.by_hand):
            np.testing.assert_allclose(three.logits[:, k], head.logits(three.x[4:9]), rtol=1e-3, atol=1e-3)
