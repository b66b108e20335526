"""Keys and ids: two runs share features just when nothing that features depend on differs."""

from __future__ import annotations

import copy
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.common.errors import SettingError, UnknownNameError
from headstart.store import array_to_ids, explain, ids_to_array, params_digest, trunk_key

pytestmark = pytest.mark.neutral

ARGUMENTS: dict[str, Any] = {
    "graph": [{"name": "conv1", "op": "conv", "stride": [2, 2]}, {"name": "relu", "op": "relu"}],
    "weights_digest": "0" * 32,
    "preprocess": {"size": 224, "resize": 256, "mean": [0.485, 0.456, 0.406]},
    "precision": "float32",
    "dtype": "float16",
    "views": {"flip": True},
    "label": {"model": "resnet50", "cut": "layer4.1"},
}


def changed(**fields: Any) -> dict[str, Any]:
    return copy.deepcopy(ARGUMENTS) | fields


@pytest.mark.parametrize(
    "fields",
    [
        {"graph": [{"name": "conv1", "op": "conv", "stride": [2, 1]}, {"name": "relu", "op": "relu"}]},
        {"graph": ARGUMENTS["graph"][:1]},
        {"graph": ARGUMENTS["graph"][::-1]},
        {"weights_digest": "0" * 31 + "1"},
        {"preprocess": {"size": 225, "resize": 256, "mean": [0.485, 0.456, 0.406]}},
        {"preprocess": {"size": 224, "resize": 256, "mean": [0.485, 0.456, 0.4060001]}},
        {"precision": "bfloat16"},
        {"dtype": "bfloat16"},
        {"views": None},
        {"views": {"flip": False}},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_every_field_changes_the_digest(fields: dict[str, Any]) -> None:
    assert trunk_key(**changed(**fields)).digest != trunk_key(**ARGUMENTS).digest


def test_format_version_changes_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = trunk_key(**ARGUMENTS).digest
    monkeypatch.setattr("headstart.store.keys.FORMAT_VERSION", 999)
    assert trunk_key(**ARGUMENTS).digest != before


def test_label_and_order_and_tuples_do_not_change_the_digest() -> None:
    key = trunk_key(**ARGUMENTS)
    assert trunk_key(**changed(label={"model": "mine"})).digest == key.digest
    turned = dict(reversed(ARGUMENTS["preprocess"].items())) | {"mean": (0.485, 0.456, 0.406)}
    assert trunk_key(**changed(preprocess=turned)) == key


def test_the_digest_is_the_same_everywhere_and_for_ever() -> None:
    # A changed value here makes every stored feature unreachable: raise FORMAT_VERSION knowingly instead.
    assert trunk_key(**ARGUMENTS).digest == "ef4bb7fd6e698cf40dcbefcca250e251"


def test_the_key_shares_nothing_with_its_arguments() -> None:
    arguments = changed()
    key = trunk_key(**arguments)
    arguments["preprocess"]["size"] = 1
    assert key.spec["preprocess"]["size"] == 224


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32(1), object()])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(SettingError):
        trunk_key(**changed(preprocess={"size": value}))


def test_unknown_dtype_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="float32, float16, bfloat16, uint8; did you mean 'float16'"):
        trunk_key(**changed(dtype="floaty16"))


def test_explain_names_the_field_of_the_nearest() -> None:
    mine = trunk_key(**ARGUMENTS).spec
    near = trunk_key(**changed(preprocess={**ARGUMENTS["preprocess"], "size": 256})).spec
    far = trunk_key(**changed(dtype="uint8", precision="bfloat16", views=None)).spec
    assert explain(mine, [far, near]) == "preprocess.size: 224 != 256"
    assert (
        explain(mine, [far])
        == 'dtype: float16 != uint8, precision: float32 != bfloat16, views: {"flip": true} != none'
    )
    assert explain(mine, []) is None
    assert explain(mine, [mine]) is None


def test_explain_summarises_graphs_and_weights() -> None:
    mine = trunk_key(**changed(graph=[{"name": f"n{i}", "op": "x" * 500} for i in range(99)])).spec
    other = trunk_key(**changed(weights_digest="f" * 32)).spec
    text = explain(mine, [other])
    assert text == "graph: 99 nodes != 2 nodes, weights: 00000000 != ffffffff"
    shifted = trunk_key(**changed(graph=[{"name": f"n{i}", "op": "x" * (500 + i)} for i in range(99)])).spec
    text = explain(mine, [shifted])
    assert text is not None and text.startswith("graph: node 1: ") and len(text) < 200


def test_explain_sees_missing_fields() -> None:
    assert explain({"a": 1}, [{"a": 1, "b": 2}]) == "b: none != 2"


def parameters() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "bn.bias": rng.normal(size=4).astype(ml_dtypes.bfloat16),
        "bn.num_batches_tracked": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
    }


def test_params_digest_changes_with_any_single_bit() -> None:
    params = parameters()
    digest = params_digest(params)
    rng = np.random.default_rng(1)
    for name in ("conv.weight", "bn.bias", "bn.num_batches_tracked"):
        flat = params[name].reshape(-1).view(np.uint8)
        for bit in rng.choice(8 * len(flat), size=min(40, 8 * len(flat)), replace=False):
            flat[bit // 8] ^= 1 << (bit % 8)
            assert params_digest(params) != digest
            flat[bit // 8] ^= 1 << (bit % 8)
    assert params_digest(params) == digest


def test_params_digest_sees_names_shapes_and_dtypes_but_not_layout() -> None:
    params = parameters()
    digest = params_digest(params)
    weight = params["conv.weight"]
    assert params_digest(dict(reversed(params.items()))) == digest
    assert params_digest(params | {"conv.weight": np.asfortranarray(weight)}) == digest
    assert params_digest(params | {"conv.weight": weight.astype(">f4")}) == digest
    assert params_digest(params | {"conv.weight": weight.reshape(3, 4, 3, 3)}) != digest
    assert params_digest(params | {"conv.weight": weight.view(np.int32)}) != digest
    assert params_digest(params | {"bn.num_batches_tracked": np.array([7], np.int64)}) != digest
    renamed = {name.replace("conv", "konv"): value for name, value in params.items()}
    assert params_digest(renamed) != digest
    with pytest.raises(SettingError, match="'odd'"):
        params_digest({"odd": np.array([None])})


@given(st.lists(st.binary(min_size=16, max_size=16)))
def test_ids_round_trip(raw: list[bytes]) -> None:
    ids = [id.hex() for id in raw]
    array = ids_to_array(ids)
    assert array.shape == (len(ids), 16) and array.dtype == np.uint8
    assert array_to_ids(array) == ids


@pytest.mark.parametrize("bad", ["", "ab", "g" * 32, "0" * 33, " " + "0" * 31, "00 " * 10 + "00"])
def test_a_wrong_id_is_named(bad: str) -> None:
    with pytest.raises(SettingError, match=r"number 1\) is not 32 hex digits"):
        ids_to_array(["0" * 32, bad, "1" * 32])


def test_wrong_lengths_that_add_up_are_refused() -> None:
    with pytest.raises(SettingError, match="number 0"):
        ids_to_array(["0" * 30, "0" * 34])
    with pytest.raises(SettingError, match="one string"):
        ids_to_array("0" * 32)
