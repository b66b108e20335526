"""What a file of predictions says, of the three tasks: columns from outputs alone, and the files of them read back
by other programs."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from scipy.special import softmax as scipy_softmax

from headstart.data.label_texts import cut
from headstart.errors import SettingError, UnknownNameError
from headstart.training.prediction_columns import Reading, Tally, likeliest
from headstart.training.prediction_files import WRITERS

pytestmark = pytest.mark.neutral

NAMES = ("cat", "dog; wet", 'of "two", ü')
NAN, INF = np.nan, np.inf


def outputs_of(seed: int, n: int, k: int) -> np.ndarray:
    """float32 `(n, k)`; of odd seeds with ties, of every third with rows that are not finite."""
    rng = np.random.default_rng(seed)
    z = rng.normal(scale=3, size=(n, k)).astype(np.float32)
    z = np.round(z) if seed % 2 else z
    if seed % 3 == 0:
        z[rng.random((n, k)) < 0.1] = rng.choice([NAN, INF, -INF])
    return z


def written(suffix: str, reading: Reading, batches: list[np.ndarray]) -> bytes:
    columns = {"file": "text", **reading.columns, "error": "text"}
    rows = [
        [[f"{b}/{i}.png" for i in range(len(z))], *reading.cells(z), [None] * len(z)]
        for b, z in enumerate(batches)
    ]
    return b"".join(WRITERS[suffix](columns)(iter(rows)))


def read_csv(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def read_parquet(content: bytes) -> dict[str, list[Any]]:
    parquet = pytest.importorskip("pyarrow.parquet")
    columns: dict[str, list[Any]] = parquet.read_table(io.BytesIO(content)).to_pydict()
    return columns


def test_one_of_many_names_the_likeliest() -> None:
    for seed in range(200):
        z = outputs_of(seed, 7, 3)
        top = seed % 4 + 1
        reading = Reading(NAMES, top=top)
        cells = dict(zip(reading.columns, reading.cells(z), strict=True))
        assert len(cells) == 2 * min(top, 3)
        with np.errstate(invalid="ignore"):
            p = scipy_softmax(z.astype(np.float64), axis=1)
        for i, row in enumerate(z):
            order = np.argsort(-row, kind="stable")[:top]
            sure = np.isfinite(row.max())
            for rank, k in enumerate(order):
                suffix = f"_{rank + 1}" if rank else ""
                assert cells[f"class{suffix}"][i] == (NAMES[k] if sure else None)
                expected = p[i, k] if sure else NAN
                np.testing.assert_allclose(cells[f"probability{suffix}"][i], expected, rtol=1e-6, atol=1e-12)
        tally = Tally(reading)
        tally.add(z[:4])
        tally.add(z[4:])
        named = [name for name in cells["class"] if name is not None]
        assert tally.counts == {name: named.count(name) for name in named}
        assert list(tally.counts.values()) == sorted(tally.counts.values(), reverse=True)
        assert tally.lost == len(z) - len(named)


def test_several_of_many_names_those_over_the_threshold() -> None:
    for seed in range(200):
        z = outputs_of(seed, 7, 3)
        threshold = (0.5, 0.2, 0.0, 1.0)[seed % 4]
        reading = Reading(NAMES, "multi", threshold=threshold)
        assert list(reading.columns) == ["labels", *(f"probability_{name}" for name in NAMES)]
        labels, *shares = reading.cells(z)
        p = expit(z.astype(np.float64))
        for i, row in enumerate(z):
            sure = not (np.isnan(row) | (row == INF)).any()
            over = tuple(NAMES[k] for k in range(3) if p[i, k] > threshold)
            assert labels[i] == (over if sure else None)
            expected = p[i] if sure else np.full(3, NAN)
            np.testing.assert_allclose([share[i] for share in shares], expected, rtol=1e-6, atol=1e-12)
        tally = Tally(reading)
        tally.add(z)
        named = [name for names in labels for name in names or ()]
        assert tally.counts == {name: named.count(name) for name in named}


def test_a_probability_that_is_the_threshold_is_not_over_it() -> None:
    assert Reading(("x", "y"), "multi").cells(np.array([[0.0, 1e-6]], np.float32))[0] == [("y",)]


def test_targets_are_in_their_own_units() -> None:
    for seed in range(200):
        z = outputs_of(seed, 7, 3) * np.float32(1e6 if seed % 5 else 1e-3)
        reading = Reading(("hue", "width", "file"), "regression")
        assert list(reading.columns) == ["hue", "width", "file_value"], "a file is there anyway"
        cells = np.stack(reading.cells(z), 1)
        sure = np.isfinite(z).all(1)
        np.testing.assert_array_equal(cells, np.where(sure[:, None], z, NAN))
        tally = Tally(reading)
        for start in (0, 3):
            tally.add(z[start : start + 3])
        tally.add(z[6:])
        sound = z[sure]
        expected = {
            name: (float(sound[:, k].min()), float(sound[:, k].max())) for k, name in enumerate(reading.classes)
        }
        assert tally.ranges == (expected if len(sound) else {})
        assert tally.counts == {} and tally.lost == (~sure).sum()


def test_names_of_targets_that_are_taken() -> None:
    columns = Reading(("file", "file_value", "error"), "regression").columns
    assert list(columns) == ["file_value_value", "file_value", "error_value"]


def test_what_is_not_finite_is_empty_in_files() -> None:
    z = np.array([[1, 0, 3], [NAN, 0, 1], [0, -INF, 0]], np.float32)
    rows = read_csv(written(".csv", Reading(NAMES, top=2), [z]))
    assert [row["class"] for row in rows] == [NAMES[2], "", "cat"]
    assert list(rows[1].values()) == ["0/1.png", "", "", "", "", ""]
    assert (rows[2]["probability"], rows[2]["class_2"], rows[2]["probability_2"]) == ("0.5", NAMES[2], "0.5")
    columns = read_parquet(written(".parquet", Reading(NAMES, top=2), [z]))
    assert columns["class"] == [NAMES[2], None, "cat"]
    assert columns["probability"][1] is None and columns["probability"][2] == 0.5
    assert columns["error"] == [None, None, None]


def test_files_of_labels() -> None:
    z = np.array([[1, 1, -9], [NAN, 0, 1], [-9, -9, -9]], np.float32)
    reading = Reading(NAMES, "multi")
    rows = read_csv(written(".csv", reading, [z[:1], z[1:]]))
    listed = '["cat", "dog; wet"]'  # which "cat;dog; wet" does not tell
    assert [row["labels"] for row in rows] == [listed, "", "[]"]
    assert [row["probability_cat"] for row in rows] == ["0.731059", "", "0.000123395"]
    columns = read_parquet(written(".parquet", reading, [z[:1], z[1:]]))
    assert columns["labels"] == [listed, None, "[]"], "none over the threshold is not the same as not known"
    assert cut([listed, "[]"], None, True) == [["cat", "dog; wet"], []], "as tables of labels are read"
    plain = Reading(("cat", "dog", "eel"), "multi")
    assert [row["labels"] for row in read_csv(written(".csv", plain, [z]))] == ["cat;dog", "", ""]
    assert read_parquet(written(".parquet", plain, [z]))["labels"] == ["cat;dog", None, ""]
    assert columns["probability_cat"][1] is None
    assert columns["probability_cat"][::2] == pytest.approx(expit([1, -9]).tolist(), rel=1e-6)


def test_files_of_values_lose_no_digit() -> None:
    z = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32) * np.float32(1234567)
    reading = Reading(("hue", "größe"), "regression")
    rows = read_csv(written(".tsv", reading, [z]).replace(b"\t", b","))
    assert np.array_equal(np.array([[row["hue"], row["größe"]] for row in rows]).astype(np.float32), z)
    columns = read_parquet(written(".parquet", reading, [z]))
    assert np.array_equal(np.stack([columns["hue"], columns["größe"]], 1).astype(np.float32), z)


def test_the_likeliest_are_those_of_a_stable_sort() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(7, int(rng.integers(1, 30)))).astype(np.float32)
        logits = np.round(logits) if seed % 2 else logits
        top = int(rng.integers(1, logits.shape[1] + 2))
        expected = np.argsort(-logits, axis=1, kind="stable")[:, :top]
        np.testing.assert_array_equal(likeliest(logits, top), expected)
        assert (likeliest(logits, 1)[:, 0] == logits.argmax(1)).all()


def test_what_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="ordinal"):
        Reading(NAMES, "ordinal")
    with pytest.raises(SettingError, match="every label is told"):
        Reading(NAMES, "multi", top=2)
    for threshold in (-0.1, 1.5, NAN):
        with pytest.raises(SettingError, match="from 0 to 1"):
            Reading(NAMES, "multi", threshold=threshold)
