"""What layers owe that are another thing in training than in inference: batch norms and what drops at random."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.testing import reference
from headstart.testing.known import softmax_loss
from headstart.testing.samples import normed, random_layers
from headstart.testing.suite import Suite, drawn, floats, recipe_of

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

    @pytest.fixture(scope="class")
    @classmethod
    def dropped(cls, framework: Backend, place: Place) -> SimpleNamespace:
        """Losses `(6,)` of single samples of ones with dropout, by seed, from which how many numbers were kept can
        be told; the logits in the middle; and whether the caller's own generators were drawn from."""
        graph, params = random_layers("dropout", [0.25]), _mean_of_all()
        x, y = np.ones((1, 4, 4, 4), np.float32), np.zeros(1, np.int64)
        losses: list[np.ndarray] = []
        logits: list[np.ndarray] = []
        drawn_from = []
        for turn, seed in enumerate((0, 0, 1)):
            random.seed(turn)
            np.random.seed(turn)
            states = repr((random.getstate(), np.random.get_state()))
            trainer = framework.trainer(graph, params, recipe_of(seed=seed), place)
            parts = []
            for _ in range(6):
                parts.append(float(trainer.step(x, y, 1e-9)[0][0]))
                if len(losses) == 0 and len(parts) == 3:
                    logits = [trainer.logits(np.repeat(x, 8, 0), 0, 8) for _ in range(2)]
            losses.append(np.array(parts))
            drawn_from.append(repr((random.getstate(), np.random.get_state())) != states)
        return SimpleNamespace(losses=losses, logits=logits, drawn_from=drawn_from)

    def test_dropout_drops_numbers_and_scales_the_rest(self, dropped: SimpleNamespace) -> None:
        kept = 48 * _first_logit(dropped.losses[0])
        np.testing.assert_allclose(kept, np.round(kept), atol=2e-2, err_msg="what is left is not scaled by 4/3")
        assert ((kept > 32) & (kept < 62)).all(), "about three quarters of 64"
        # of numbers scaled by a multiple of 4/3, as 4, all counts would seem to be multiples
        assert np.gcd.reduce(np.round(kept).astype(int)) == 1, "what is left is scaled by more than 4/3"
        assert len(set(np.round(kept))) > 1, "every step draws anew"

    @pytest.mark.parametrize("op", ["dropout", "drop_path"])
    def test_each_layer_draws_for_itself(self, framework: Backend, place: Place, op: str) -> None:
        """Of two layers of one shape the second drops half of what the first has left, not what that has dropped
        again. A sample's logit is the share of its numbers that are left, four times as large."""
        graph, params = random_layers(op, [0.5, 0.5]), _mean_of_all()
        trainer = framework.trainer(graph, params, recipe_of(), place)
        x, y = np.ones((1, 4, 4, 4), np.float32), np.zeros(1, np.int64)
        order = np.zeros((144, 1), np.int64)
        losses, _ = trainer.epoch(trainer.put(x), y, order, np.full(144, 1e-9, np.float32))
        left = _first_logit(losses[:, 0]) / 4
        assert 0.13 < left.mean() < 0.37, "a quarter is left; a half where both drop the same"

    def test_the_seed_decides_what_is_dropped(self, dropped: SimpleNamespace) -> None:
        first, again, other = dropped.losses
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_the_callers_generators_are_not_drawn_from(self, dropped: SimpleNamespace) -> None:
        """Python's and numpy's: neither does what is dropped depend on them, nor do they move."""
        assert not any(dropped.drawn_from)

    def test_logits_are_of_inference(self, dropped: SimpleNamespace) -> None:
        """In the middle of training, too."""
        for logits in dropped.logits:
            np.testing.assert_allclose(logits, np.tile([1.0, 0.0], (8, 1)), atol=1e-5)

    def test_drop_path_drops_whole_samples(self, framework: Backend, place: Place) -> None:
        """Each by itself: of a batch some are dropped, and what is left of one is scaled as a whole. A dropped
        sample's logits are the bias."""
        graph, params = random_layers("drop_path", [0.25]), _mean_of_all()
        x, y = np.ones((16, 4, 4, 4), np.float32), np.zeros(16, np.int64)
        trainer = framework.trainer(graph, params, recipe_of(), place)
        order = np.tile(np.arange(16), (6, 1))
        losses, _ = trainer.epoch(trainer.put(x), y, order, np.full(6, 1e-9, np.float32))
        whole, none = np.log1p(np.exp(-4 / 3)), np.log(2.0)
        dropped = 16 * (losses[:, 0] - whole) / (none - whole)
        np.testing.assert_allclose(dropped, np.round(dropped), atol=1e-2, err_msg="parts of samples were dropped")
        assert ((dropped > 0.5) & (dropped < 15.5)).any(), "samples are dropped each by itself"
        assert 4 < dropped.sum() < 44, "about a quarter of 96"
        assert len(set(np.round(dropped))) > 1, "every step draws anew"
        np.testing.assert_allclose(trainer.logits(x, 0, 16), np.tile([1.0, 0.0], (16, 1)), atol=1e-5)


def _mean_of_all() -> dict[str, np.ndarray]:
    """Parameters of a classifier of 64 numbers: the first logit is their mean, the second 0."""
    weight = np.zeros((2, 64), np.float32)
    weight[0] = 1 / 64
    return {"fc.weight": weight, "fc.bias": np.zeros(2, np.float32)}


def _first_logit(losses: np.ndarray) -> np.ndarray:
    """z of the losses `log(1 + exp(-z))` of the logits (z, 0)."""
    return -np.log(np.expm1(losses.astype(np.float64)))
