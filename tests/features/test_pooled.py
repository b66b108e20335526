"""Features of several cuts averaged to vectors: what they are, and that they share keys only with what they
equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import headstart as hs
from headstart.features.extractor import Extractor
from headstart.features.pooled import with_pools

CUTS = ["layer1", "layer3.0", "layer4", "avgpool"]


def data() -> Any:
    rng = np.random.default_rng(0)
    return hs.data.arrays(rng.integers(0, 256, (9, 64, 64, 3), np.uint8), np.arange(9) % 3)


def test_they_are_the_means_of_the_maps_and_no_map_is_stored(backend: str, tmp_path: Path) -> None:
    model = hs.model("resnet18_half", weights="tinyimagenet", classes=3, size=64)
    common: dict[str, Any] = {"backend": backend, "device": "cpu", "precision": "float32", "dtype": "float32"}
    common |= {"batch_size": 4, "workers": 1}
    pooled = Extractor(model, CUTS, **common, cache=tmp_path / "pooled", pooled=True)(data())
    maps = hs.extract(model, data(), CUTS, **common, cache=tmp_path / "maps")
    for cut in CUTS:
        expected = maps.numpy(cut)
        expected = expected.mean((1, 2)) if expected.ndim == 4 else expected
        assert pooled.numpy(cut).shape == expected.shape
        np.testing.assert_allclose(pooled.numpy(cut), expected, rtol=1e-4, atol=1e-5)
    assert len(list((tmp_path / "pooled").rglob("trunk.json"))) == 3  # layer4's mean is what "avgpool" gives
    assert pooled.key("layer4").digest == pooled.key("avgpool").digest == maps.key("avgpool").digest
    assert {pooled.key(cut).digest for cut in CUTS[:2]}.isdisjoint(maps.key(cut).digest for cut in CUTS)


def test_the_models_own_nodes_stay_as_they_are() -> None:
    model = hs.model("resnet18_half", classes=3, size=64)
    wider, nodes = with_pools(model, {"layer1": "layer1.1", "layer4": "layer4.1", "avgpool": "avgpool"})
    assert nodes == {"layer1": "pooled_layer1.1", "layer4": "avgpool", "avgpool": "avgpool"}
    assert wider.graph.upto(model.graph.output) == model.graph
    assert wider.graph.cuts() == model.graph.cuts()
    transformer = hs.model("vit_tiny_patch16_224", classes=3)
    cut = next(n.name for n in transformer.graph.nodes if n.op == "add")
    _, nodes = with_pools(transformer, {cut: cut})
    assert with_pools(transformer, {cut: cut})[0].graph[nodes[cut]].op == "first_token"
