"""Every backend against the conformance suite, and its ops against a naive numpy interpreter.

With HEADSTART_BACKEND set, that backend is tested and a missing framework is a failure; without it, whatever
is installed is tested.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import reference
from families import SMALL

from headstart.common.errors import UnsupportedOpError
from headstart.contract import registry
from headstart.graph import OPS, Graph, Node
from headstart.graph.ops import Op
from headstart.models.initial import initial_params
from headstart.testing import BackendConformance, every_op, relative_error


class WithReference(BackendConformance):
    def test_every_op_equals_a_naive_reference(self, chosen) -> None:
        graph = every_op()
        # two are in the graphs of the suite's models, which torchvision is the reference of; `native` has no
        # meaning of its own
        others = {"normalize", "global_avg_pool", "native"}
        assert {node.op for node in graph.nodes} | others == set(OPS)
        rng = np.random.default_rng(0)
        params = {
            name: rng.uniform(0.3, 1.0, value.shape).astype(np.float32) if value.ndim == 1 else value
            for name, value in initial_params(graph, 1).items()
        }
        x = rng.standard_normal((2, 17, 11, 3)).astype(np.float32)
        nodes = [node.name for node in graph.nodes[1:]]
        trunk = chosen.trunk(graph, params, nodes, chosen.place("cpu", "float32"))
        found = trunk.run(x)
        expected = reference.run(graph, params, x)
        for name in nodes:
            assert relative_error(chosen.numpy(found[name]), expected[name]) < 1e-5, name

    def test_an_op_without_a_layer_is_refused(self, chosen, monkeypatch) -> None:
        monkeypatch.setitem(OPS, "twirl", Op("twirl", lambda a, s: s[0]))
        graph = Graph((Node("input", "input"), Node("turn", "twirl", ("input",))), "turn")
        with pytest.raises(UnsupportedOpError, match=rf"{self.backend} backend has no layer for op 'twirl'"):
            chosen.trunk(graph, {}, ["turn"], chosen.place("cpu", "float32"))


class EveryFamily:
    @pytest.mark.parametrize("family", SMALL)
    def test_every_family_equals_a_naive_reference(
        self, chosen, family: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whole networks, whose maps and tokens have no fixed number when they are built."""
        small = SMALL[family]
        graph = small.graph(monkeypatch, family)
        params = reference.random_params(graph, 0)
        x = np.random.default_rng(0).standard_normal((2, small.size, small.size, 3)).astype(np.float32)
        trunk = chosen.trunk(graph, params, [graph.output], chosen.place("cpu", "float32"))
        expected = reference.run(graph, params, x)[graph.output]
        assert relative_error(chosen.numpy(trunk.run(x)[graph.output]), expected) < 1e-4


# One class a backend, so that its name is in every test's id. Parity tests hold the whole zoo in torch, JAX and
# Keras on TensorFlow; what Keras makes of the families on its other engines is seen only here.
ENGINES = ("keras",)
asked_for = os.environ.get(registry.VARIABLE)
for name in (asked_for,) if asked_for else registry.installed():
    suites = (EveryFamily, WithReference) if name in ENGINES else (WithReference,)
    globals()[f"Test{name.title()}"] = type(f"Test{name.title()}", suites, {"backend": name})
