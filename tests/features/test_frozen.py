"""The graph that a frozen trunk runs: nothing in it that inference does not need."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.features.inference import frozen
from headstart.models import architecture

pytestmark = pytest.mark.neutral


@pytest.mark.parametrize("name", ["convnext_tiny", "efficientnet_b0", "vgg11", "googlenet"])
def test_a_frozen_trunk_drops_nothing(name: str) -> None:
    graph = architecture(name).graph(10).main
    cut = graph.cuts()[-1]
    params = {key: np.broadcast_to(np.float32(1), shape) for key, shape in graph.param_shapes().items()}
    trunk, kept = frozen(graph, params, [graph.output, cut], folded=False)
    dropping = [node.name for node in graph.nodes if node.op in ("dropout", "drop_path")]
    assert dropping, "nothing is tested"
    assert {node.name for node in graph.nodes} - {node.name for node in trunk.nodes} == {*dropping} - {cut}
    assert kept.keys() == trunk.param_shapes().keys() == graph.param_shapes().keys()
