"""What training owes: update rules, rates, losses, hits, and which rows are trained on. All of it on linear
layers, whose gradients numpy knows; what draws random numbers or keeps statistics is in `layers`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import headstart as hs
from headstart.contract.optimizers import Optimizer
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.models.initial import initial_params
from headstart.store.keys import params_digest
from headstart.testing.known import TwoLayers, hits, linear_gradient, reference_update
from headstart.testing.samples import branched, linear_graph, two_layers
from headstart.testing.suite import PLAIN, Suite, assert_close, drawn, floats, recipe_of


class Trainers(Suite):
    """Updates, losses and hits."""

    @pytest.mark.parametrize(
        "optimizer",
        [
            PLAIN,
            hs.SGD(lr=0.1, momentum=0.9, weight_decay=0.01),
            hs.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
            # an epsilon that counts: it is added to the root of the velocity that is corrected
            hs.AdamW(lr=0.05, weight_decay=0.1, epsilon=0.01),
        ],
        ids=["sgd", "momentum", "nesterov", "adamw"],
    )
    def test_optimizers_follow_their_rules(self, framework: Backend, place: Place, optimizer: Optimizer) -> None:
        """Softmax regression with hand-made gradients, and a rate that changes with every step: an epoch, two
        steps by themselves, and another epoch, with the same moments throughout."""
        graph = linear_graph()
        x, y = drawn(3, 40, 7, classes=4)
        start = initial_params(graph, 0)
        order = np.random.default_rng(3).permutation(48).reshape(6, 8) % 40
        rates = hs.Schedule("cosine", warmup=0.4).rates(optimizer.lr, 6)

        now = {name: value.astype(np.float64) for name, value in start.items()}
        losses: list[float] = []
        right: list[int] = []
        gradients: dict[str, list[np.ndarray]] = {name: [] for name in now}
        for i, batch in enumerate(order):
            inputs = x[batch].astype(np.float64)
            loss, for_weight, for_bias = linear_gradient(now["fc.weight"], now["fc.bias"], inputs, y[batch], 0.1)
            right.append(hits(inputs @ now["fc.weight"].T + now["fc.bias"], y[batch]))
            losses.append(loss)
            for name, gradient in (("fc.weight", for_weight), ("fc.bias", for_bias)):
                gradients[name].append(gradient)
                now[name] = reference_update(optimizer, gradients[name], rates[: i + 1], start[name])

        trainer = framework.trainer(graph, start, recipe_of(optimizer, smoothing=0.1), place)
        rows = trainer.put(x)
        results = [trainer.epoch(rows, y, order[:2], rates[:2])]
        results += [trainer.step(x[order[i]], y[order[i]], rates[i]) for i in (2, 3)]
        results.append(trainer.epoch(rows, y, order[4:], rates[4:]))
        assert [np.shape(returned) for returned, _ in results] == [(2, 1), (1,), (1,), (2, 1)]
        returned = np.concatenate([np.ravel(part) for part, _ in results])
        np.testing.assert_allclose(returned, losses, rtol=1e-4)
        assert [count for _, count in results] == [right[0] + right[1], right[2], right[3], right[4] + right[5]]
        for name, value in trainer.params().items():
            assert_close(value, now[name], name)

    def test_label_smoothing_is_in_the_loss(self, framework: Backend, place: Place) -> None:
        graph, (x, y) = linear_graph(), drawn(4, 12, 7, classes=4)
        start = initial_params(graph, 0)
        trainer = framework.trainer(graph, start, recipe_of(smoothing=0.3), place)
        losses, _ = trainer.step(x, y, 0.5)
        loss, gradient, _ = linear_gradient(start["fc.weight"], start["fc.bias"], x, y, 0.3)
        assert losses[0] == pytest.approx(loss, rel=1e-5)
        assert_close(trainer.params()["fc.weight"], start["fc.weight"] - 0.5 * gradient)

    # ---- rates

    @pytest.fixture(
        scope="class",
        params=[
            hs.SGD(lr=0.1, momentum=0.9, weight_decay=0.1),
            hs.AdamW(lr=0.05, weight_decay=0.3, epsilon=0.01),
        ],
        ids=["sgd", "adamw"],
    )
    @classmethod
    def rated(cls, framework: Backend, place: Place, request: pytest.FixtureRequest) -> SimpleNamespace:
        """Two layers of which each parameter has another multiple of the rate, after an epoch and a step; and the
        same by hand."""
        graph, (x, y) = two_layers(), drawn(0, 24, 7, classes=4)
        start = initial_params(graph, 0)
        multiples = {"a.bias": 0.0, "b.weight": 0.1, "b.bias": 3.0}
        recipe = recipe_of(request.param, rates=multiples)
        trainer = framework.trainer(graph, start, recipe, place)
        by_hand = TwoLayers(start, request.param, multiples=multiples)
        order, rates = np.arange(24).reshape(3, 8)[::-1], hs.Schedule("cosine").rates(request.param.lr, 3)
        trainer.epoch(trainer.put(x), y, order[:2], rates[:2])
        trainer.step(x[order[2]], y[order[2]], rates[2])
        for batch, rate in zip(order, rates, strict=True):
            by_hand.step(x[batch], y[batch], rate)
        return SimpleNamespace(start=start, after=trainer.params(), expected=by_hand.params)

    def test_each_parameter_has_its_own_rate(self, rated: SimpleNamespace) -> None:
        """A multiple is one of the learning rate alone: moments and weight decay do not know of it."""
        for name in ("a.weight", "b.weight", "b.bias"):
            assert_close(rated.after[name], rated.expected[name], name)

    def test_a_rate_of_zero_leaves_a_parameter_bit_equal(self, rated: SimpleNamespace) -> None:
        """Weight decay or not."""
        np.testing.assert_array_equal(rated.after["a.bias"], rated.start["a.bias"])

    # ---- auxiliary outputs

    @pytest.fixture(scope="class")
    @classmethod
    def with_auxiliary(cls, framework: Backend, place: Place) -> SimpleNamespace:
        """An output and two auxiliary ones after an epoch of one step; and after another step."""
        graph, (x, y) = branched(), drawn(6, 24, 5, classes=3)
        start = initial_params(graph, 0)
        trainer = framework.trainer(graph, start, recipe_of(smoothing=0.1), place)
        epoch = trainer.epoch(trainer.put(x), y, np.arange(24).reshape(1, 24), floats([0.2]))
        after = trainer.params()
        step = trainer.step(x, y, 0.2)
        return SimpleNamespace(
            x=x,
            y=y,
            start=start,
            epoch=epoch,
            after=after,
            step=step,
            last=trainer.params(),
            logits=trainer.logits(x, 0, 24),
        )

    def test_auxiliary_losses_count_in_training(self, with_auxiliary: SimpleNamespace) -> None:
        """Each by its weight."""
        t = with_auxiliary
        for name, weight in (("main", 1.0), ("first", 0.3), ("second", 0.5)):
            _, for_weight, for_bias = linear_gradient(
                t.start[f"{name}.weight"], t.start[f"{name}.bias"], t.x, t.y, 0.1
            )
            for suffix, gradient in (("weight", for_weight), ("bias", for_bias)):
                key = f"{name}.{suffix}"
                np.testing.assert_allclose(
                    t.after[key], t.start[key] - 0.2 * weight * gradient, atol=1e-5, err_msg=key
                )

    def test_losses_come_back_unweighted(self, with_auxiliary: SimpleNamespace) -> None:
        """The output's first, then the auxiliary ones'."""
        t = with_auxiliary
        assert t.epoch[0].shape == (1, 3)
        assert t.step[0].shape == (3,)
        for i, name in enumerate(("main", "first", "second")):
            for params, losses in ((t.start, t.epoch[0][0]), (t.after, t.step[0])):
                loss, _, _ = linear_gradient(params[f"{name}.weight"], params[f"{name}.bias"], t.x, t.y, 0.1)
                assert losses[i] == pytest.approx(loss, rel=1e-4), name

    def test_hits_are_those_of_the_output(self, with_auxiliary: SimpleNamespace) -> None:
        t = with_auxiliary
        for params, (_, right) in ((t.start, t.epoch), (t.after, t.step)):
            counts = {
                name: hits(t.x @ params[f"{name}.weight"].T + params[f"{name}.bias"], t.y)
                for name in ("main", "first", "second")
            }
            assert counts["main"] not in (counts["first"], counts["second"]), "chance hides what is tested"
            assert right == counts["main"], counts

    def test_logits_are_those_of_the_output(self, with_auxiliary: SimpleNamespace) -> None:
        t = with_auxiliary
        expected = t.x @ t.last["main.weight"].T + t.last["main.bias"]
        np.testing.assert_allclose(t.logits, expected, rtol=1e-4, atol=1e-5)

    def test_a_network_follows_the_rule_of_adamw(self, framework: Backend, place: Place) -> None:
        """One that is no layers in a row, which backends may train in a way of their own: rates that change from
        step to step and by parameter, and weight decay."""
        optimizer, weights = hs.AdamW(lr=0.05, weight_decay=0.3), {"main": 1.0, "first": 0.3, "second": 0.5}
        multiples = {"first.weight": 0.1, "second.bias": 3.0}
        graph, (x, y) = branched(), drawn(6, 24, 5, classes=3)
        order, rates = np.arange(24).reshape(3, 8)[::-1], hs.Schedule("cosine").rates(optimizer.lr, 3)
        start = initial_params(graph, 0)
        now = {name: value.astype(np.float64) for name, value in start.items()}
        gradients: dict[str, list[np.ndarray]] = {name: [] for name in now}
        for i, batch in enumerate(order):
            for name, weight in weights.items():
                slopes = linear_gradient(now[f"{name}.weight"], now[f"{name}.bias"], x[batch], y[batch], 0.1)[1:]
                for key, slope in zip((f"{name}.weight", f"{name}.bias"), slopes, strict=True):
                    gradients[key].append(weight * slope)
                    of_it = rates[: i + 1] * multiples.get(key, 1.0)
                    now[key] = reference_update(optimizer, gradients[key], of_it, start[key])
        trainer = framework.trainer(graph, start, recipe_of(optimizer, smoothing=0.1, rates=multiples), place)
        trainer.epoch(trainer.put(x), y, order, rates)
        for name, value in trainer.params().items():
            assert_close(value, now[name], name)

    # ---- rows

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    def test_without_an_order_rows_come_as_they_lie(self, framework: Backend, place: Place, dtype: str) -> None:
        """Batch after batch; and rows in half precision are numbers as others are."""
        graph, (x, y) = linear_graph(), drawn(5, 24, 7, classes=4)
        x = x.astype(getattr(ml_dtypes, dtype, dtype))
        start = initial_params(graph, 0)
        trainer = framework.trainer(graph, start, recipe_of(), place)
        rates = floats([0.5, 0.2, 0.1])
        losses, right = trainer.epoch(trainer.put(x), y, None, rates)
        by_hand = _linear(start, x.reshape(3, 8, 7), y.reshape(3, 8), rates)
        np.testing.assert_allclose(losses[:, 0], by_hand.losses, rtol=1e-4)
        assert right == by_hand.right
        assert_close(trainer.params()["fc.weight"], by_hand.weight)

    def test_an_order_says_which_rows_a_step_has(self, framework: Backend, place: Place) -> None:
        """Some rows twice, some never; labels go with them."""
        graph, (x, y) = linear_graph(), drawn(6, 24, 7, classes=4)
        start = initial_params(graph, 0)
        trainer = framework.trainer(graph, start, recipe_of(), place)
        order, rates = np.array([[3, 3, 23, 0], [7, 8, 1, 3]]), floats([0.5, 0.2])
        losses, right = trainer.epoch(trainer.put(x), y, order, rates)
        by_hand = _linear(start, x[order], y[order], rates)
        np.testing.assert_allclose(losses[:, 0], by_hand.losses, rtol=1e-4)
        assert right == by_hand.right

    def test_no_hit_is_counted_where_the_loss_is_not_finite(self, framework: Backend, place: Place) -> None:
        """`argmax` of NaN is 0, a class as others are."""
        graph, (x, _) = linear_graph(), drawn(7, 24, 7, classes=4)
        x[9, 2] = np.nan
        y, start = np.zeros(24, np.int64), initial_params(graph, 0)
        trainer = framework.trainer(graph, start, recipe_of(), place)
        losses, right = trainer.epoch(trainer.put(x), y, np.arange(24).reshape(3, 8), np.full(3, 0.1, np.float32))
        assert np.isfinite(losses[:, 0]).tolist() == [True, False, False]
        assert right == hits(x[:8] @ start["fc.weight"].T + start["fc.bias"], y[:8])
        losses, right = trainer.step(x[:8], y[:8], 0.1)
        assert np.isnan(losses[0]) and right == 0

    def test_logits_are_of_the_rows_asked_for(self, framework: Backend, place: Place) -> None:
        """Of a handle as of a batch, a part or all of it."""
        graph, (x, _) = linear_graph(), drawn(8, 10, 7, classes=4)
        start = initial_params(graph, 0)
        trainer = framework.trainer(graph, start, recipe_of(), place)
        for inputs in (trainer.put(x), x):
            for first, last in ((0, 10), (3, 5), (8, 12)):
                logits = trainer.logits(inputs, first, last)
                assert logits.dtype == np.float32
                expected = x[first:last] @ start["fc.weight"].T + start["fc.bias"]
                np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)

    def test_a_step_takes_what_a_trunk_gives(self, framework: Backend, place: Place) -> None:
        """On the device, as it lies."""
        graph, (x, y) = two_layers(), drawn(9, 8, 7, classes=4)
        params = initial_params(graph, 0)
        first, head = graph.upto("a"), graph.after("a", (7,))
        start = {name: params[name] for name in head.param_shapes()}
        trunk = framework.trunk(first, {name: params[name] for name in first.param_shapes()}, ["a"], place)
        trainer = framework.trainer(head, start, recipe_of(), place)
        features = trunk.run(x)["a"]
        logits = trainer.logits(features, 0, 8)
        losses, right = trainer.step(features, y, 0.1)
        by_hand = TwoLayers(params, PLAIN)
        np.testing.assert_allclose(logits, by_hand.logits(x), rtol=1e-4, atol=1e-5)
        loss, count = by_hand.step(x, y, 0.1)
        assert losses[0] == pytest.approx(loss, rel=1e-4)
        assert right == count

    def test_trainers_know_nothing_of_each_other(self, framework: Backend, place: Place) -> None:
        """Two at a time, of one graph with the same parameters, take turns."""
        graph, (x, y) = linear_graph(), drawn(13, 16, 7, classes=4)
        start = initial_params(graph, 0)
        trainers = [framework.trainer(graph, start, recipe_of(hs.SGD(momentum=0.9)), place) for _ in range(2)]
        for k in (0, 8):
            for trainer, rate in zip(trainers, (0.5, 0.1), strict=True):
                trainer.step(x[k : k + 8], y[k : k + 8], rate)
        for trainer, rate in zip(trainers, (0.5, 0.1), strict=True):
            by_hand = _linear(start, x.reshape(2, 8, 7), y.reshape(2, 8), floats([rate, rate]), momentum=0.9)
            assert_close(trainer.params()["fc.weight"], by_hand.weight)

    # ---- parameters, and what belongs to the caller

    def test_parameters_are_read_back_from_the_device(self, framework: Backend, place: Place) -> None:
        """Whenever they are asked for; and what was read stays as it was."""
        graph, (x, y) = linear_graph(), drawn(10, 16, 7, classes=4)
        start = initial_params(graph, 0)
        trainer = framework.trainer(graph, start, recipe_of(), place)
        read = [trainer.params()]
        copies = [params_digest(read[0])]
        by_hand = _linear(start, x.reshape(2, 8, 7), y.reshape(2, 8), floats([0.5, 0.5]))
        for k in range(2):
            trainer.step(x[8 * k : 8 * k + 8], y[8 * k : 8 * k + 8], 0.5)
            read.append(trainer.params())
            copies.append(params_digest(read[-1]))
        assert copies[0] == params_digest(start)
        assert len(set(copies)) == 3, "a step has changed nothing that can be read"
        assert [params_digest(params) for params in read] == copies, "what was read has changed with a later step"
        assert_close(read[2]["fc.weight"], by_hand.weight)

    def test_a_snapshot_is_of_its_moment(self, framework: Backend, place: Place) -> None:
        """Whatever was trained before it is read, by steps and by epochs, and whichever is read first."""
        graph, (x, y) = linear_graph(), drawn(12, 16, 7, classes=4)
        trainer = framework.trainer(graph, initial_params(graph, 0), recipe_of(hs.AdamW(lr=0.05)), place)
        rows, order = trainer.put(x), np.arange(16).reshape(2, 8)
        snapshots, expected = [trainer.snapshot()], [trainer.params()]
        for _ in range(2):
            trainer.epoch(rows, y, order, floats([0.05, 0.05]))
            snapshots.append(trainer.snapshot())
            expected.append(trainer.params())
        trainer.step(x, y, 0.05)
        digests = list(map(params_digest, expected))
        assert len({*digests, params_digest(trainer.params())}) == 4
        assert [params_digest(read()) for read in reversed(snapshots)] == digests[::-1]
        assert params_digest(snapshots[0]()) == digests[0], "read once more"

    def test_what_a_trainer_is_given_is_left_as_it_is(self, framework: Backend, place: Place) -> None:
        """Features that fill the memory may be shared and not copied, so nothing may write to them."""
        graph, (x, y) = linear_graph(), drawn(11, 16, 7, classes=4)
        start, order = initial_params(graph, 0), np.random.default_rng(0).permutation(16).reshape(2, 8)
        rates = floats([0.5, 0.2])
        arrays: dict[str, Any] = {**start, "x": x, "y": y, "order": order, "rates": rates}
        before = {name: value.copy() for name, value in arrays.items()}
        trainer = framework.trainer(graph, start, recipe_of(), place)
        rows = trainer.put(x)
        trainer.epoch(rows, y, order, rates)
        trainer.epoch(rows, y, None, rates)
        trainer.step(x[:8], y[:8], 0.1)
        trainer.logits(rows, 0, 16)
        for name, value in arrays.items():
            np.testing.assert_array_equal(value, before[name], err_msg=name)

    # ---- precision

    @pytest.fixture(scope="class")
    @classmethod
    def in_bfloat16(cls, framework: Backend) -> SimpleNamespace:
        """Two layers after a step so small that no parameter in bfloat16 would feel it."""
        graph, (x, y) = two_layers(), drawn(12, 16, 7, classes=4)
        start = initial_params(graph, 0)
        place = framework.place(cls.on(), "bfloat16")
        trainer = framework.trainer(graph, start, recipe_of(), place)
        losses, _ = trainer.step(x, y, 1e-3)
        by_hand = TwoLayers(start, PLAIN)
        loss, _ = by_hand.step(x, y, 1e-3)
        return SimpleNamespace(
            x=x,
            start=start,
            by_hand=by_hand,
            loss=loss,
            returned=float(losses[0]),
            after=trainer.params(),
            logits=trainer.logits(x, 0, 16),
            arithmetic=place.arithmetic,
        )

    def test_training_computes_in_the_precision_of_its_place(self, in_bfloat16: SimpleNamespace) -> None:
        t = in_bfloat16
        assert t.returned == pytest.approx(t.loss, rel=2e-2)
        expected = t.by_hand.logits(t.x)
        error = np.abs(t.logits - expected).max() / np.abs(expected).max()
        assert error < 2e-2
        if t.arithmetic == "bfloat16":
            assert error > 1e-4, "the logits were not computed in bfloat16"
            assert abs(t.returned / t.loss - 1) > 1e-6, "the loss was not computed in bfloat16"

    def test_parameters_are_trained_in_float32(self, in_bfloat16: SimpleNamespace) -> None:
        """Whatever the layers' arithmetic."""
        t = in_bfloat16
        for name, value in t.after.items():
            assert value.dtype == np.float32
            moved, expected = value - t.start[name], t.by_hand.params[name] - t.start[name]
            assert np.abs(moved - expected).max() < 0.1 * np.abs(expected).max(), name


def _linear(
    start: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, rates: np.ndarray, momentum: float = 0.0
) -> SimpleNamespace:
    """`linear_graph` trained by hand on batches `x (steps, n, f)`: its losses, hits and weight at the end."""
    velocity: list[np.ndarray | float] = [0.0, 0.0]
    weight, bias = start["fc.weight"].astype(np.float64), start["fc.bias"].astype(np.float64)
    losses, right = [], 0
    for inputs, labels, rate in zip(x.astype(np.float64), y, rates, strict=True):
        right += hits(inputs @ weight.T + bias, labels)
        loss, for_weight, for_bias = linear_gradient(weight, bias, inputs, labels, 0.0)
        losses.append(loss)
        velocity = [momentum * v + g for v, g in zip(velocity, (for_weight, for_bias), strict=True)]
        weight, bias = weight - rate * velocity[0], bias - rate * velocity[1]
    return SimpleNamespace(losses=losses, right=right, weight=weight, bias=bias)
