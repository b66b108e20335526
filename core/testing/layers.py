"""What layers owe that are another thing in training than in inference: batch norms and what drops at random."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from headstart.contract.masks import DROPS, factors
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.testing import reference
from headstart.testing.known import softmax_loss
from headstart.testing.samples import normed, random_layers
from headstart.testing.suite import Suite, drawn, floats, recipe_of

TINY = 1e-9
"""a learning rate that moves nothing"""
STATISTICS = ("bn.running_mean", "bn.running_var")


class Layers(Suite):
    """Batch norms, dropout and stochastic depth."""

    # ---- batch norms

    @pytest.fixture(scope="class", params=[True, False], ids=["train", "keep"])
    @classmethod
    def norms(cls, framework: Backend, place: Place, request: pytest.FixtureRequest) -> SimpleNamespace:
        """A batch norm after each of two steps."""
        graph, (x, y) = normed(), drawn(0, 16, 4, 5, 3, classes=4)
        x = x * floats([0.5, 2, 3]) + floats([1, -2, 0])
        start = reference.random_params(graph, 0)
        trainer = framework.trainer(graph, start, recipe_of(train_statistics=request.param), place)
        seen, snapshots = [], []
        for k in range(2):
            losses, _ = trainer.step(x[8 * k : 8 * k + 8], y[8 * k : 8 * k + 8], 0.01)
            seen.append((float(losses[0]), trainer.params()))
            snapshots.append(trainer.snapshot())
        return SimpleNamespace(
            graph=graph,
            x=x,
            y=y,
            start=start,
            seen=seen,
            snapshots=[read() for read in snapshots],
            trained=request.param,
            logits=trainer.logits(x, 0, 5),
        )

    def test_running_statistics_follow_the_batches(self, norms: SimpleNamespace) -> None:
        """Where they are trained: by the node's momentum towards the batch's mean and unbiased variance; else they
        stay as they are."""
        mean, variance = (norms.start[name].astype(np.float64) for name in STATISTICS)
        for k, (_, params) in enumerate(norms.seen):
            batch = norms.x[8 * k : 8 * k + 8].astype(np.float64)
            if norms.trained:
                mean = 0.7 * mean + 0.3 * batch.mean((0, 1, 2))
                variance = 0.7 * variance + 0.3 * batch.var((0, 1, 2), ddof=1)
            np.testing.assert_allclose(params["bn.running_mean"], mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(params["bn.running_var"], variance, rtol=1e-4)
        if not norms.trained:
            for name in STATISTICS:
                np.testing.assert_array_equal(norms.seen[1][1][name], norms.start[name])

    def test_snapshots_have_statistics_too(self, norms: SimpleNamespace) -> None:
        for (_, params), snapshot in zip(norms.seen, norms.snapshots, strict=True):
            assert snapshot.keys() == params.keys()
            for name, value in params.items():
                np.testing.assert_array_equal(snapshot[name], value, err_msg=name)

    def test_a_batch_is_normalized_by_the_statistics_asked_for(self, norms: SimpleNamespace) -> None:
        """By its own where they are trained, else by those that came with the weights."""
        batch = norms.x[:8].astype(np.float64)
        params = dict(norms.start)
        if norms.trained:
            params |= {"bn.running_mean": batch.mean((0, 1, 2)), "bn.running_var": batch.var((0, 1, 2))}
        loss, _ = softmax_loss(reference.run(norms.graph, params, batch)["fc"], norms.y[:8], 0.0)
        assert norms.seen[0][0] == pytest.approx(loss, rel=1e-4)

    def test_scales_and_offsets_are_trained(self, norms: SimpleNamespace) -> None:
        """Whatever becomes of the statistics."""
        for name in ("bn.weight", "bn.bias", "fc.weight", "fc.bias"):
            assert not np.array_equal(norms.seen[0][1][name], norms.start[name]), name

    def test_logits_are_normalized_by_running_statistics(self, norms: SimpleNamespace) -> None:
        expected = reference.run(norms.graph, norms.seen[1][1], norms.x[:5])["fc"]
        np.testing.assert_allclose(norms.logits, expected, rtol=1e-4, atol=1e-4)

    # ---- what drops at random

    @pytest.mark.parametrize("op", DROPS)
    def test_what_is_dropped(self, framework: Backend, place: Place, op: str) -> None:
        """Exactly what `headstart.contract.masks` says, by the recipe's seed, the layer's name, the number of the
        step and the place in a batch of any size, and the rest is scaled. Two layers draw each for itself; epochs
        and single steps count alike, and in between logits are of inference. The caller's own generators neither
        decide it nor move."""
        rates, seed = (0.25, 0.5), 5
        graph = random_layers(op, rates)
        params = reference.random_params(graph, 0)
        x, y = np.random.default_rng(0).uniform(1, 2, (6, 4, 4, 4)).astype(np.float32), np.arange(6) % 2
        trainer = framework.trainer(graph, params, recipe_of(seed=seed), place)
        states = repr((random.getstate(), np.random.get_state()))
        losses = list(
            trainer.epoch(trainer.put(x), y, np.arange(6).reshape(2, 3), np.full(2, TINY, np.float32))[0]
        )
        losses.append(trainer.step(x, y, TINY)[0])
        logits = trainer.logits(x, 0, 6)
        losses.append(trainer.step(x[:5], y[:5], TINY)[0])
        losses += list(trainer.epoch(trainer.put(x), y, None, np.full(3, TINY, np.float32))[0])
        assert repr((random.getstate(), np.random.get_state())) == states
        np.testing.assert_allclose(logits, reference.run(graph, params, x)["fc"], rtol=1e-4, atol=1e-4)
        for step, (begin, end) in enumerate(((0, 3), (3, 6), (0, 6), (0, 5), (0, 2), (2, 4), (4, 6))):
            kept = x[begin:end]
            for place_of_layer, rate in enumerate(rates):
                name = f"random{place_of_layer}"
                kept = kept * factors(op, rate, seed, name, step, kept.shape)
            expected, _ = softmax_loss(reference.run(graph, params, kept)["fc"], y[begin:end], 0.0)
            assert losses[step][0] == pytest.approx(expected, rel=1e-4, abs=1e-5), f"step {step}"
