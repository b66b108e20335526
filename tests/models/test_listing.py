"""What the zoo lists: names by pattern, what models cost, where they can be cut, where weights are from."""

from __future__ import annotations

import json
from typing import Any

import pytest

import headstart as hs
from headstart.common.errors import SettingError, UnknownNameError
from headstart.models import ARCHITECTURES, listing

pytestmark = pytest.mark.neutral


def test_names_by_pattern() -> None:
    assert hs.list_models() == list(ARCHITECTURES)
    resnets = hs.list_models("resnet*")
    assert {"resnet18", "resnet50", "resnet18_half"} <= set(resnets)
    assert all(name.startswith("resnet") for name in resnets)
    assert hs.list_models("lenet") == ["lenet"]
    assert hs.list_models("RESNET*") == [] == hs.list_models("no such")
    pattern: Any = 3
    with pytest.raises(SettingError, match="pattern=3"):
        hs.list_models(pattern)


def test_what_models_cost() -> None:
    models = {model.name: model for model in listing.summaries()}
    assert list(models) == hs.list_models()
    assert models["resnet50"].parameters == 25_557_032
    small = {model.name: model for model in listing.summaries(64)}
    assert small["resnet50"].multiply_adds < models["resnet50"].multiply_adds / 4  # type: ignore[operator]
    assert small["lenet"].multiply_adds is None, "it takes images of one size"
    table = listing.models_table(models.values())
    assert ("lenet", "62,006", "0.001 G", "32", "-") not in table.rows  # that is of 10 classes
    assert [row[0] for row in table.rows] == list(models)
    assert json.dumps([model.as_dict() for model in models.values()])


def test_where_a_model_can_be_cut() -> None:
    cuts = listing.cut_summaries("resnet50")
    assert [cut.shape for cut in cuts if cut.cut == "layer4.2"] == [(7, 7, 2048)]
    shares = [cut.flops_share_before for cut in cuts]
    assert shares == sorted(shares) and 0.999 < shares[-1] < 1
    assert cuts[0].as_dict()["bytes_per_sample_float16"] == 2 * 112 * 112 * 64
    assert listing.cuts_table(cuts).rows[0][:2] == ("conv1", "112 x 112 x 64")
    last = listing.cuts_table(listing.cut_summaries("resnet101")).rows[-1]
    assert last[3] == "99.97%", "a classifier is behind it, so it is not all"
    with pytest.raises(UnknownNameError, match="resnet9"):
        listing.cut_summaries("resnet9")


def test_where_weights_are_from() -> None:
    (weights,) = listing.weights_summaries("resnet18_half")
    assert weights.as_dict() == {
        "model": "resnet18_half",
        "weights": "tinyimagenet",
        "from": "resnet18_half-tinyimagenet.safetensors",
        "here": True,
        "pinned": "release",
    }
    assert listing.weights_table([weights]).rows[0][3:] == ("yes", "release")
    assert {row.model for row in listing.weights_summaries()} <= set(hs.list_models())
