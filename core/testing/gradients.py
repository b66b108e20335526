"""What updates come from: gradients through every op, held against differences of losses that numpy computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.graph import Graph
from headstart.testing import reference
from headstart.testing.known import softmax_loss
from headstart.testing.samples import every_op, tiny_model
from headstart.testing.suite import Suite, drawn, recipe_of

NUDGE = 1e-5


class Gradients(Suite):
    """One step at a rate of one moves every parameter by its gradient."""

    def test_gradients_reach_every_layer_of_a_network(self, framework: Backend, place: Place) -> None:
        """Through batch norms that go by their batch, whose statistics the gradient knows of."""
        self.check(framework, place, tiny_model().graph, (13, 10, 3), by_batch=True)

    def test_gradients_go_through_every_op(self, framework: Backend, place: Place) -> None:
        """What drops at random drops nothing here; batch norms go by running statistics."""
        graph = every_op()
        nodes = tuple(replace(n, attrs={**n.attrs, "rate": 0.0}) if "rate" in n.attrs else n for n in graph.nodes)
        self.check(framework, place, replace(graph, nodes=nodes), (17, 11, 3), by_batch=False)

    def check(
        self, framework: Backend, place: Place, graph: Graph, shape: tuple[int, ...], by_batch: bool
    ) -> None:
        """Of each parameter along one random direction."""
        x, y = drawn(0, 3, *shape, classes=4)
        start = reference.random_params(graph, 0)
        trainer = framework.trainer(graph, start, recipe_of(train_statistics=by_batch), place)
        losses, _ = trainer.step(x, y, 1.0)
        after = trainer.params()
        wide = {name: value.astype(np.float64) for name, value in start.items()}
        np.testing.assert_allclose(losses[0], _loss(graph, wide, x, y, by_batch), rtol=1e-4)
        rng, wrong = np.random.default_rng(1), {}
        for name in [name for name in start if name not in graph.buffers()]:
            direction = rng.standard_normal(start[name].shape)
            ends = [
                _loss(graph, {**wide, name: wide[name] + sign * NUDGE * direction}, x, y, by_batch)
                for sign in (1, -1)
            ]
            expected = (ends[0] - ends[1]) / (2 * NUDGE)
            gradient = wide[name] - after[name]
            actual = float((gradient * direction).sum())
            size = float(np.linalg.norm(gradient) * np.linalg.norm(direction))
            if not abs(actual - expected) < 1e-3 * max(size, 1e-3):
                wrong[name] = actual, expected, size
        assert not wrong, f"parameters along which the gradient is another: (actual, expected, scale) {wrong}"


def _loss(graph: Graph, params: Mapping[str, np.ndarray], x: np.ndarray, y: np.ndarray, by_batch: bool) -> float:
    """Of the output; with `by_batch`, batch norms go by the statistics of what they are given."""
    values = {graph.input: x.astype(np.float64)}
    for node in graph.nodes[1:]:
        weights = {name.removeprefix(f"{node.name}."): params[name] for name in node.param_shapes()}
        inputs = [values[name] for name in node.inputs]
        if by_batch and node.op == "batch_norm":
            axes = tuple(range(inputs[0].ndim - 1))
            weights |= {"running_mean": inputs[0].mean(axes), "running_var": inputs[0].var(axes)}
        values[node.name] = reference.apply(node, weights, inputs)
    return softmax_loss(values[graph.output], y, 0.0)[0]
