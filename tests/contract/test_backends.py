"""Every backend against the conformance suite.

With HEADSTART_BACKEND set, that backend is tested and a missing framework is a failure; without it, whatever
is installed is tested.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from conformance import Jax, Keras, Torch
from families import SMALL

from headstart.contract import registry
from headstart.contract.protocol import Backend
from headstart.contract.recipe import Place
from headstart.testing import BackendConformance, reference, relative_error


class EveryFamily:
    @pytest.mark.parametrize("family", SMALL)
    def test_every_family_equals_a_naive_reference(
        self, framework: Backend, place: Place, family: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whole networks, whose maps and tokens have no fixed number when they are built."""
        small = SMALL[family]
        graph = small.graph(monkeypatch, family)
        params = reference.random_params(graph, 0)
        x = np.random.default_rng(0).standard_normal((2, small.size, small.size, 3)).astype(np.float32)
        trunk = framework.trunk(graph, params, [graph.output], place)
        expected = reference.run(graph, params, x)[graph.output]
        assert relative_error(framework.numpy(trunk.run(x)[graph.output]), expected) < 1e-4


# One class a backend, so that its name is in every test's id. Parity tests hold the whole zoo in torch at every
# change, and little of it in the others.
SUITES = {"torch": (Torch,), "keras": (EveryFamily, Keras), "jax": (EveryFamily, Jax)}
asked_for = os.environ.get(registry.VARIABLE)
for name in (asked_for,) if asked_for else registry.installed():
    suites = SUITES.get(name, (BackendConformance,))
    globals()[f"Test{name.title()}"] = type(f"Test{name.title()}", suites, {"backend": name})
