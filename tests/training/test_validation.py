"""What a run says of its validation data, beside scikit-learn's figures and what the run itself predicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

import headstart as hs
from headstart.common.errors import SettingError, UnknownNameError
from headstart.common.outputs import json_text
from headstart.data import Dataset
from headstart.training.feeds import evaluated
from headstart.training.metrics import softmax
from headstart.training.sample_texts import numbers_of
from headstart.training.scores.outcome import Outcome
from headstart.training.tables import scores_table
from headstart.training.validation import Validation, validation_of

pytestmark = pytest.mark.of("torch")  # what is made of predictions is core's


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    return hs.data.digits().subset(np.arange(300)).split(0.6)


def test_counts_and_mistakes(data: tuple[Dataset, Dataset]) -> None:
    val = data[1]
    logits = np.random.default_rng(0).normal(size=(len(val), 10)).astype(np.float32)
    found = validation_of(logits, val)
    assert found.samples == len(val)
    assert np.array_equal(found.matrix(10), confusion_matrix(val.labels, logits.argmax(1), labels=range(10)))
    assert all(count > 0 for _, _, count in found.confusion)
    assert len(found.worst) == 12
    probabilities = softmax(logits)
    for mistake in found.worst:
        i = mistake.index
        assert (mistake.id, mistake.label) == (val.ids[i], val.labels[i])
        assert mistake.predicted == logits[i].argmax() != mistake.label
        assert mistake.probability == pytest.approx(probabilities[i, mistake.predicted])
        assert mistake.loss == pytest.approx(-np.log(probabilities[i, mistake.label]))
    wrong = logits.argmax(1) != val.labels
    all_losses = -np.log(probabilities[np.arange(len(val)), val.labels])
    assert [miss.loss for miss in found.worst] == pytest.approx(sorted(all_losses[wrong], reverse=True)[:12])
    assert Validation.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_confusions_name_the_samples_of_their_class() -> None:
    found = Validation(6, ((0, 0, 2), (0, 1, 1), (1, 0, 3)), ())
    assert found.confusions(["a", "b"]) == [
        {"true": "b", "predicted": "a", "count": 3, "of": 3},
        {"true": "a", "predicted": "b", "count": 1, "of": 3},
    ]


def test_a_mistake_without_its_numbers(data: tuple[Dataset, Dataset]) -> None:
    """JSON has null for what was not finite."""
    saved = validation_of(np.zeros((len(data[1]), 10), np.float32), data[1]).as_dict()
    saved["worst"][0]["loss"] = None
    assert np.isnan(Validation.from_dict(saved).worst[0].loss)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)


def test_a_sample_with_one_prediction_that_is_not_finite() -> None:
    """Of several labels, or numbers, a sample: it counts as lost, and is no error of any size."""
    bad = np.array([[9, np.nan], [9, -9], [-9, 9]], np.float32)
    labels = hs.data.arrays(pictures(3), [[1, 0], [1, 0], [1, 1]], ["a", "b"], task="multi")
    found = validation_of(bad, labels)  # of the last sample one label is missing
    assert (found.not_finite, [miss.index for miss in found.misses]) == (1, [2])
    numbers = hs.data.arrays(pictures(3), [[1.0, 0.0], [9.0, -9.0], [1.0, 1.0]], ["a", "b"], task="regression")
    found = validation_of(bad, numbers)
    assert (found.not_finite, [miss.index for miss in found.misses], found.terms) == (1, [2, 1], "")


def test_errors_in_deviations_of_the_training_data_or_else_of_these() -> None:
    given = np.array([[1, 3], [0, 3], [4, 3]], np.float32)
    # the second target does not vary: its errors stay what they are
    numbers = hs.data.arrays(pictures(3), [[0.0, 5.0], [0.0, 5.0], [0.75, 5.0]], ["a", "b"], task="regression")
    off = np.abs(given - numbers.labels)
    for deviation, by in (([2.0, 4.0], [2.0, 4.0]), (None, [np.sqrt(0.125), 1.0])):
        expected = (off / by).mean(1)
        found = validation_of(given, numbers, deviation=deviation)
        kept = numbers_of(found.terms, 3, 1)
        assert kept is not None and kept[:, 0] == pytest.approx(expected)
        assert [miss.error for miss in found.misses] == pytest.approx(sorted(expected, reverse=True))
    alone = hs.data.arrays(pictures(3), [0.0, 0.0, 3.0], ["a"], task="regression")
    found = validation_of(given[:, :1], alone, deviation=[2.0])
    assert [miss.error for miss in found.misses] == pytest.approx([0.5, 0.5, 0.0]), "in deviations"
    kept = numbers_of(found.terms, 3, 1)
    assert kept is not None and kept[:, 0].tolist() == [1, 0, 1], "in units"


def test_groups_are_kept_and_make_intervals_wider(data: tuple[Dataset, Dataset]) -> None:
    val = data[1]
    pictures = np.random.default_rng(1).integers(0, 256, (len(val), 8, 8, 3), np.uint8)
    groups = [f"writer {i % 7}" for i in range(len(val))]
    grouped = hs.data.arrays(pictures, val.labels, val.classes, groups=groups)
    logits = np.random.default_rng(0).normal(size=(len(val), 10)).astype(np.float32)
    found = validation_of(logits, grouped)
    kept = numbers_of(found.groups, len(val), 1)
    assert kept is not None and kept[:, 0].astype(int).tolist() == [i % 7 for i in range(len(val))]
    assert Validation.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    scores = Outcome(logits, grouped).scores
    assert scores.settings["groups"] == 7
    said = scores_table(scores).legend
    assert said.startswith(
        "95 %: the interval for the score on all groups of this kind, by resampling the 7 groups."
    )
    assert "resampling." in scores_table(Outcome(logits, val).scores).legend


def test_without_a_mistake(data: tuple[Dataset, Dataset]) -> None:
    val = data[1]
    found = validation_of(np.eye(10, dtype=np.float32)[val.labels], val)
    assert found.worst == ()
    assert {(a, b) for a, b, _ in found.confusion} == {(k, k) for k in set(val.labels)}


def test_a_model_that_has_diverged(data: tuple[Dataset, Dataset]) -> None:
    val = data[1]
    found = validation_of(np.full((len(val), 10), np.nan, np.float32), val)
    assert (found.samples, found.not_finite, found.confusion, found.worst) == (len(val), len(val), (), ())


def test_what_is_no_number_is_taken_for_no_class(data: tuple[Dataset, Dataset]) -> None:
    """`argmax` of NaN is 0, so it would be right where the label is 0."""
    val = data[1]
    logits = np.random.default_rng(0).normal(size=(len(val), 10)).astype(np.float32)
    lost = [int(np.flatnonzero(val.labels == k)[-1]) for k in (0, 1, 2)]
    logits[lost[0]], logits[lost[1], 3], logits[lost[2], 4] = np.nan, np.nan, np.inf
    found = validation_of(logits, val)
    assert found.not_finite == 3
    assert sum(count for *_, count in found.confusion) == len(val) - 3
    assert not {mistake.index for mistake in found.worst} & set(lost)
    assert Validation.from_dict(json.loads(json_text(found.as_dict()))) == found


@pytest.mark.slow("keras", "jax")  # core scores
@pytest.mark.parametrize("mode", [pytest.param("cached", marks=pytest.mark.each), "full", "staged"])
def test_of_a_run(mode: str, data: tuple[Dataset, Dataset], backend: str, tmp_path: Path) -> None:
    """It is the model as it is after the last epoch, and is saved with it."""
    train, val = data
    model = hs.model("lenet", classes=10)
    run = hs.fit(model, train, val, mode=mode, epochs=1, backend=backend, device="cpu")
    assert run.validation is not None
    predicted = run.predict(val).argmax(1)
    assert np.array_equal(run.validation.matrix(10), confusion_matrix(val.labels, predicted, labels=range(10)))
    assert run.data == {
        "name": "digits", "train": len(train), "val": len(val), "classes": list(val.classes), "skipped": [],
        "task": "single", "named_classes": True,
        "split": [{"by": "id", "fraction": 0.6, "seed": 0, "side": "first"}],
    }  # fmt: skip
    if mode == "cached":
        assert run.trained == 84 * 10 + 10
    else:
        assert run.trained == model.describe()["parameters"]
    loaded = hs.load(run.save(tmp_path / "run"), backend=backend)
    assert (loaded.validation, loaded.trained, dict(loaded.data)) == (run.validation, run.trained, dict(run.data))


def test_some_classes_only() -> None:
    digits = hs.data.digits()
    some = digits.only(["7", "3"])
    assert some.classes == ("7", "3")
    assert np.array_equal(some.labels, np.where(digits.labels[np.isin(digits.labels, (7, 3))] == 7, 0, 1))
    threes = some.subset(np.arange(100)).only(["3"])
    assert threes.classes == ("3",)
    assert set(threes.labels) == {0}
    assert set(threes.ids) <= {id for id, label in zip(digits.ids, digits.labels, strict=True) if label == 3}
    assert [sample.label for sample in some][:20] == list(some.labels[:20])
    with pytest.raises(UnknownNameError, match="unknown class 'eleven'"):
        digits.only(["eleven"])
    with pytest.raises(SettingError, match="'1' twice; expected every name once"):
        digits.only(["1", "1"])
    with pytest.raises(SettingError, match="at least one"):
        digits.only([])


@pytest.mark.parametrize(("count", "computed"), [(1, 1), (512, 512), (513, 514), (800, 800), (1025, 1026)])
def test_an_evaluation_repeats_no_more_rows_than_windows_of_one_size_must(count: int, computed: int) -> None:
    rows, windows = np.arange(2 * count, dtype=np.float32).reshape(count, 2), []

    class Trainer:
        def logits(self, rows: np.ndarray, start: int, stop: int) -> np.ndarray:
            windows.append(stop - start)
            return rows[start:stop]

    assert np.array_equal(evaluated(Trainer(), rows, count), rows)
    assert sum(windows) == computed and len(set(windows)) == 1 and max(windows) <= 512
