"""Every score against scikit-learn's own and torch's definitions, on hundreds of random cases: ties, classes
without a sample, one sample, weights; and what cannot be told."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn import config_context
from sklearn import metrics as sk
from sklearn.preprocessing import label_binarize

from headstart.common.errors import DataError, UnknownNameError
from headstart.training.metrics import cross_entropy
from headstart.training.scores import Scores, scores_of
from headstart.training.scores.calibration import calibration_error
from headstart.training.scores.multi import best_threshold, sigmoid
from headstart.training.scores.resampling import interval, paired_difference, ratio
from headstart.training.scores.single import _rows

pytestmark = pytest.mark.neutral
CASES = 100
RANDOM = "rng" if [int(part) for part in version("scipy").split(".")[:2]] >= [1, 15] else "random_state"
"""what SciPy calls it"""
PRF = ("precision", "recall", "f1")


class Case(NamedTuple):
    logits: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None
    classes: tuple[str, ...]


def sizes(rng: np.random.Generator) -> tuple[int, int]:
    """One sample now and then, more classes than samples too; few classes mostly, as the references take long."""
    return int(rng.choice([1, 2, 5, 40, 150])), int(rng.choice([2, 3, 4, 22], p=[0.4, 0.3, 0.25, 0.05]))


def some(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    """Logits; in a third of the cases many of them equal."""
    logits = rng.normal(0, rng.choice([0.3, 2, 5]), (n, k)).astype(np.float32)
    return np.round(logits) if rng.random() < 0.35 else logits


def weights(rng: np.random.Generator, n: int) -> np.ndarray | None:
    if rng.random() < 0.5:
        return None
    w = rng.random(n).astype(np.float32)
    w[rng.random(n) < 0.2] = 0
    w[0] = 0.5
    return w


def singles() -> Iterator[Case]:
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        n, k = sizes(rng)
        there = rng.choice(k, int(rng.integers(1, k + 1)), replace=False)
        yield Case(some(rng, n, k), rng.choice(there, n), weights(rng, n), tuple(f"c{i}" for i in range(k)))


def multis() -> Iterator[Case]:
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        n, k = sizes(rng)
        labels = (rng.random((n, k)) < rng.choice([0.1, 0.5])).astype(np.uint8)
        labels[:, rng.random(k) < 0.2] = 0
        yield Case(some(rng, n, k), labels, weights(rng, n), tuple(f"c{i}" for i in range(k)))


def same(mine: Any, reference: float, what: str) -> None:
    assert mine == pytest.approx(reference, rel=1e-6, abs=1e-9), what


def mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def assert_score(scores: Scores, name: str, reference: float | None) -> None:
    """The reference's value, or a reason where it has none."""
    if reference is None:
        assert name not in scores.values
        assert scores.undefined[name]
    else:
        same(scores[name], reference, name)
        assert name not in scores.undefined


def assert_row(row: Any, name: str, reference: float | None) -> None:
    if reference is None:
        assert name not in row
        assert row["undefined"][name]
    else:
        same(row[name], reference, f"{name} of {row['class']}")
        assert name not in row.get("undefined", {})


def mean_of(scores: Scores, name: str) -> float | None:
    return mean([row[name] for row in scores.per_class if name in row])


def assert_ranked(scores: Scores, number: int, truth: np.ndarray, score: np.ndarray, w: np.ndarray | None) -> None:
    """A class's AUC and average precision are scikit-learn's, where they are defined. One class a case: that takes
    it longer than everything else."""
    sides = set(truth[slice(None) if w is None else w > 0].tolist())
    auc = sk.roc_auc_score(truth, score, sample_weight=w) if len(sides) == 2 else None
    precision = sk.average_precision_score(truth, score, sample_weight=w) if True in sides else None
    assert_row(scores.per_class[number], "auc", auc)
    assert_row(scores.per_class[number], "average_precision", precision)


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the interval is no matter."""
    monkeypatch.setattr("headstart.training.scores.resampling.RESAMPLES", 40)


@pytest.fixture(autouse=True)
def quiet_reference() -> Iterator[None]:
    """scikit-learn warns of what it cannot tell; what is tested must not. Its checks of arguments take longer than
    all else here."""
    with warnings.catch_warnings(), config_context(skip_parameter_validation=True, assume_finite=True):
        warnings.filterwarnings("ignore", module=r"sklearn\.")
        yield


# --- one class a sample


def test_scores_of_one_class_a_sample_are_scikit_learns(few_resamples: None) -> None:
    for case in singles():
        logits, y, w, classes = case
        k = len(classes)
        scores = scores_of("single", *case[:2], classes, w)
        predicted = logits.argmax(1)
        had = np.bincount(y, w, minlength=k) > 0
        present = np.flatnonzero(had)
        same(scores["accuracy"], sk.accuracy_score(y, predicted, sample_weight=w), "accuracy")
        # of samples of weight 0 scikit-learn makes classes, of recall NaN
        part = slice(None) if w is None else w > 0
        balanced = sk.balanced_accuracy_score(
            y[part], predicted[part], sample_weight=None if w is None else w[part]
        )
        same(scores["balanced_accuracy"], balanced, "balanced accuracy")
        options: dict[str, Any] = {"labels": present, "sample_weight": w, "zero_division": np.nan}
        for name, values in zip(PRF, sk.precision_recall_fscore_support(y, predicted, **options), strict=False):
            assert_score(scores, f"macro_{name}", mean([v for v in values.tolist() if not math.isnan(v)]))
            by_class = dict(zip(present.tolist(), values.tolist(), strict=True))
            for number, row in enumerate(scores.per_class):
                value = by_class.get(number)
                assert_row(row, name, None if value is None or math.isnan(value) else value)
        # 64 bits of a softmax, as users compute it; torch's float64 log-softmax gives the same order
        logp = (logits - np.logaddexp.reduce(logits.astype(np.float64), axis=1)[:, None]).astype(np.float32)
        assert_ranked(scores, int(y[0]), y == y[0], logp[:, y[0]], w)
        assert_score(scores, "macro_auc", mean_of(scores, "auc"))
        assert_score(scores, "macro_average_precision", mean_of(scores, "average_precision"))
        p = np.exp(logits.astype(np.float64) - np.logaddexp.reduce(logits.astype(np.float64), axis=1)[:, None])
        if p.min() > 1e-15:  # what is smaller scikit-learn takes for 2e-16
            same(scores["log_loss"], sk.log_loss(y, p, sample_weight=w, labels=range(k)), "log loss")
        assert [row["samples"] for row in scores.per_class] == np.bincount(y, minlength=k).tolist()
        low, high = scores.interval or (0, 1)
        assert 0 <= low <= scores["accuracy"] + 1e-9 and scores["accuracy"] - 1e-9 <= high <= 1 + 1e-9
        if k > 20:
            # its own ties go to the last class, and argmax's to the first: turned round
            top = sk.top_k_accuracy_score(k - 1 - y, logits[:, ::-1], k=5, labels=range(k), sample_weight=w)
            same(scores["top5_accuracy"], top, "top 5")
        else:
            assert "top5_accuracy" not in scores


def test_macro_auc_is_scikit_learns_one_against_rest() -> None:
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(90, 4)).astype(np.float32), np.arange(90) % 4
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    scores = scores_of("single", logits, y, "abcd")
    same(scores["macro_auc"], sk.roc_auc_score(y, p, multi_class="ovr", average="macro"), "AUC")
    same(
        scores["macro_average_precision"],
        sk.average_precision_score(label_binarize(y, classes=range(4)), p, average="macro"),
        "average precision",
    )


@pytest.mark.parametrize(
    ("seed", "n", "k", "scale", "expected"),
    [
        (0, 200, 5, 1.0, 0.3261411786079407),
        (1, 1000, 10, 3.0, 0.5397512316703796),
        (2, 37, 3, 0.3, 0.10707177221775055),
        (3, 500, 2, 2.0, 0.3093056380748749),
        (4, 60, 40, 1.5, 0.2169065773487091),
    ],
)
def test_calibration_error_is_torchmetrics(seed: int, n: int, k: int, scale: float, expected: float) -> None:
    """`multiclass_calibration_error(softmax, labels, num_classes=k, n_bins=15, norm="l1")` of torchmetrics 1.9."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)).astype(np.float32) * np.float32(scale)
    y = rng.integers(0, k, n)
    scores = scores_of("single", logits, y, [str(i) for i in range(k)])
    assert scores["calibration_error"] == pytest.approx(expected, rel=1e-6)


def test_calibration_error_by_hand() -> None:
    """Two samples at 0.9, one right: a gap of 0.4 for two thirds of the samples; one at 0.6 that is wrong."""
    confidence, right = np.array([0.9, 0.9, 0.6]), np.array([True, False, False])
    assert calibration_error(confidence, right, None) == pytest.approx(0.4 * 2 / 3 + 0.6 / 3)
    assert calibration_error(confidence, right, np.array([3.0, 1, 0])) == pytest.approx(abs(0.9 - 0.75))
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, False]), None) == 0


def test_log_loss_is_that_of_the_history() -> None:
    rng = np.random.default_rng(1)
    logits, y = rng.normal(0, 30, (50, 6)).astype(np.float32), rng.integers(0, 6, 50)
    assert scores_of("single", logits, y, "abcdef")["log_loss"] == pytest.approx(cross_entropy(logits, y).mean())


# --- any number of labels a sample


def test_scores_of_labels_are_scikit_learns(few_resamples: None) -> None:
    for seed, case in enumerate(multis()):
        logits, y, w, classes = case
        threshold = 0.5 if seed % 2 else 0.3
        scores = scores_of("multi", logits, y, classes, w, threshold=threshold)
        guess = sigmoid(logits.astype(np.float64)) > threshold
        truth = y.astype(bool)
        counted = np.ones(len(y), bool) if w is None else w > 0
        options: dict[str, Any] = {"sample_weight": w, "zero_division": np.nan}
        had = truth[counted].any(0)
        micros = sk.precision_recall_fscore_support(truth, guess, average="micro", **options)
        by_label = sk.precision_recall_fscore_support(truth, guess, **options)
        for name, micro, each in zip(PRF, micros, by_label, strict=False):
            told = not math.isnan(micro) and (name != "f1" or had.any())
            assert_score(scores, f"micro_{name}", float(micro) if told else None)
            values = np.where(had, each, math.nan).tolist()
            for row, value in zip(scores.per_class, values, strict=True):
                assert_row(row, name, None if math.isnan(value) else float(value))
            assert_score(scores, f"macro_{name}", mean([v for v in values if not math.isnan(v)]))
        number = seed % len(classes)
        assert_ranked(scores, number, truth[:, number], logits[:, number], w)
        assert_score(scores, "mean_average_precision", mean_of(scores, "average_precision"))
        assert_score(scores, "macro_auc", mean_of(scores, "auc"))
        same(scores["subset_accuracy"], sk.accuracy_score(truth, guess, sample_weight=w), "subset accuracy")
        same(scores["hamming_loss"], sk.hamming_loss(truth, guess, sample_weight=w), "Hamming")
        p = sigmoid(logits.astype(np.float64))
        repeated = None if w is None else np.repeat(w, len(classes))
        loss = sk.log_loss(truth.ravel(), p.ravel(), sample_weight=repeated, labels=[False, True])
        assert scores["log_loss"] == pytest.approx(loss, rel=1e-5)


def test_the_best_threshold_is_the_best(few_resamples: None) -> None:
    for case in list(multis())[:12]:
        logits, y, w, _ = case
        if len(y) == 1 or not y[w > 0 if w is not None else slice(None)].any():
            assert best_threshold(logits * 0, y * 0, w) == 0.5
            continue
        threshold = best_threshold(logits, y, w)
        p = sigmoid(logits.astype(np.float64))

        def f1(t: float, p: Any = p, y: Any = y, w: Any = w) -> float:
            return float(sk.f1_score(y, p > t, average="micro", sample_weight=w, zero_division=0.0))

        best = max(f1(j / 20) for j in range(1, 20))
        assert f1(threshold) >= best - 1e-9
        scores = scores_of("multi", logits, y, case.classes, w, threshold="best")
        assert scores.settings == {"threshold": threshold}
        same(scores["micro_f1"], f1(threshold), "F1")


# --- numbers


def test_scores_of_numbers_are_scikit_learns(few_resamples: None) -> None:
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        n, d = int(rng.choice([1, 2, 9, 80])), int(rng.integers(1, 4))
        y = (rng.normal(1e3 if seed % 3 else 0, 2, (n, d))).astype(np.float32)
        y[:, rng.random(d) < 0.2] = 7
        predictions = y + rng.normal(0, rng.choice([0.1, 3]), (n, d)).astype(np.float32)
        w = weights(rng, n)
        scores = scores_of("regression", predictions, y, [f"t{j}" for j in range(d)], w)
        options: dict[str, Any] = {"sample_weight": w, "multioutput": "raw_values"}
        y64, p64 = y.astype(np.float64), predictions.astype(np.float64)
        counted = slice(None) if w is None else w > 0
        varies = [len(np.unique(y[counted, j])) > 1 for j in range(d)]
        r2 = sk.r2_score(y64[counted], p64[counted], sample_weight=None if w is None else w[counted],
                         multioutput="raw_values") if any(varies) else np.zeros(d)  # fmt: skip
        expected = {
            "mae": sk.mean_absolute_error(y64, p64, **options).tolist(),
            "rmse": sk.root_mean_squared_error(y64, p64, **options).tolist(),
            "r2": [float(value) if at else None for value, at in zip(r2, varies, strict=True)],
        }
        for name, values in expected.items():
            for row, value in zip(scores.per_class, values, strict=True):
                assert_row(row, name, value)
            assert_score(scores, name, mean([value for value in values if value is not None]))


# --- what cannot be told


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.nan])
@pytest.mark.parametrize("task", ["single", "multi", "regression"])
def test_logits_that_are_not_finite_give_no_number(task: str, bad: float) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        outputs = rng.normal(size=(12, 3)).astype(np.float32)
        outputs[rng.integers(12), rng.integers(3)] = bad
        y = rng.integers(0, 3, 12) if task == "single" else rng.integers(0, 2, (12, 3))
        scores = scores_of(task, outputs, y, "abc")
        assert not scores.values and not scores.intervals and not scores.per_class
        assert set(scores.undefined.values()) == {
            f"the {'predictions' if task == 'regression' else 'logits'} of 1 of 12 samples are not finite"
        }
        with pytest.raises(KeyError, match="1 of 12"):
            scores[scores.headline]


def test_a_class_that_is_ruled_out_is_no_nan() -> None:
    logits = np.array([[0, -np.inf, 1], [2, 0, -np.inf]], np.float32)
    scores = scores_of("single", logits, np.array([2, 0]), "abc")
    assert scores["accuracy"] == 1
    assert math.isfinite(scores["log_loss"])
    scores = scores_of("single", logits, np.array([1, 0]), "abc")
    assert scores["accuracy"] == 0.5
    assert scores.undefined["log_loss"] == "infinite: the class of 1 of 2 samples is ruled out"
    largest = np.array([[3e38, -3e38], [-3e38, 3e38], [1, 0]], np.float32)  # of which float32 has no difference
    assert scores_of("single", largest, np.array([0, 1, 0]), "ab")["macro_auc"] == 1
    scores = scores_of("multi", np.array([[-np.inf, 1], [2, 3]], np.float32), np.array([[1, 1], [1, 1]]), "ab")
    assert scores["micro_recall"] == 0.75 and "log_loss" not in scores
    assert scores.undefined["log_loss"] == "infinite: 1 of 2 samples have a label ruled out"


def test_a_sample_that_does_not_count_may_be_ruled_out() -> None:
    w = np.array([0.0, 3.0])
    scores = scores_of("single", np.array([[0, -np.inf], [1, 0]], np.float32), np.array([1, 0]), "ab", w)
    assert scores["log_loss"] == pytest.approx(math.log1p(math.exp(-1)))
    scores = scores_of("multi", np.array([[-np.inf, 1], [1, 1]], np.float32), np.ones((2, 2), int), "ab", w)
    assert scores["log_loss"] == pytest.approx(math.log1p(math.exp(-1)))


def test_no_sample_and_no_weight() -> None:
    for task, y in (("single", np.zeros(4, int)), ("multi", np.zeros((4, 2))), ("regression", np.zeros((4, 2)))):
        outputs = np.zeros((4, 2), np.float32)
        assert set(scores_of(task, outputs[:0], y[:0], "ab").undefined.values()) == {"there is no sample"}
        scores = scores_of(task, outputs, y, "ab", np.zeros(4))
        assert set(scores.undefined.values()) == {"no sample has a weight above 0"}


@pytest.mark.parametrize(
    ("task", "y"), [("multi", [[1, 0]] * 4), ("regression", [[0.0, 0.0]] * 4)], ids=["multi", "regression"]
)
def test_samples_without_spread_have_the_score_and_no_interval(task: str, y: list[list[float]]) -> None:
    scores = scores_of(task, np.tile(np.float32([2, -1]), (4, 1)), np.array(y), "ab")
    assert scores.headline in scores and scores.interval is None
    assert "no spread" in scores.undefined[f"{scores.headline} interval"]


def test_of_a_headline_that_cannot_be_told_the_interval_needs_no_word() -> None:
    scores = scores_of("multi", np.zeros((4, 2), np.float32), np.zeros((4, 2)), "ab")
    assert scores.undefined["micro_f1"] == "no sample has any label" and scores["subset_accuracy"] == 1
    assert scores.interval is None and not [name for name in scores.undefined if "interval" in name]


def test_arguments_that_do_not_fit() -> None:
    outputs = np.zeros((4, 2), np.float32)
    with pytest.raises(
        UnknownNameError, match="unknown task 'ordinal'; expected one of single, multi, regression"
    ):
        scores_of("ordinal", outputs, np.zeros(4), "ab")
    for y, classes, w, text in (
        (np.zeros(3, int), "ab", None, "labels \\(3,\\)"),
        (np.zeros(4, int), "abc", None, "there are 3 classes"),
        (np.full(4, 2), "ab", None, "labels reach from 2 to 2"),
        (np.zeros(4, int), "ab", np.ones(3), "expected one a sample"),
        (np.zeros(4, int), "ab", -np.ones(4), "not negative"),
        (np.zeros(4, int), "ab", np.full(4, np.nan), "must be finite"),
    ):
        with pytest.raises(DataError, match=text):
            scores_of("single", outputs, y, classes, w)
    with pytest.raises(UnknownNameError, match="threshold 'good'"):
        scores_of("multi", outputs, np.zeros((4, 2)), "ab", threshold="good")


# --- intervals


def test_an_interval_is_the_binomials() -> None:
    """What the bootstrap of a share comes to, to the resamples' noise."""
    rng = np.random.default_rng(0)
    for n, share in ((160, 0.725), (5000, 0.3)):
        right = np.arange(n) < round(n * share)
        logits = np.where(right[:, None], [[1.0, 0]], [[0, 1.0]]).astype(np.float32)
        drawn = rng.binomial(n, right.mean(), 200_000) / n
        low, high = scores_of("single", logits, np.zeros(n, int), "ab").interval or (0, 0)
        spread = right.std() / n**0.5
        assert low == pytest.approx(np.percentile(drawn, 2.5), abs=spread / 4)
        assert high == pytest.approx(np.percentile(drawn, 97.5), abs=spread / 4)
        # Weights that are all the same change nothing but how it is drawn, and whole ones count as copies.
        weighted = scores_of("single", logits, np.zeros(n, int), "ab", np.full(n, 0.3)).interval or (0, 0)
        assert weighted == pytest.approx((low, high), abs=spread / 4)


def test_the_bootstrap_is_scipys() -> None:
    """Of a weighted mean, where every sample is a group of its own."""
    from scipy.stats import bootstrap

    rng = np.random.default_rng(3)
    y = rng.normal(size=(120, 1))
    predictions = y + rng.exponential(1, (120, 1))
    w = rng.random(120)
    low, high = scores_of("regression", predictions, y, ["t"], w).interval or (0, 0)
    errors = np.abs(predictions - y)[:, 0]

    def mean_error(e: Any, v: Any, axis: int) -> Any:
        return (e * v).sum(axis) / v.sum(axis)

    ends = bootstrap((errors, w), mean_error, paired=True, vectorized=True, method="percentile", **{RANDOM: rng})
    assert (low, high) == pytest.approx(tuple(ends.confidence_interval), abs=0.02)


def test_an_interval_is_the_same_every_time_and_the_seeds() -> None:
    rng = np.random.default_rng(0)
    logits, y, w = rng.normal(size=(300, 3)), rng.integers(0, 3, 300), rng.random(300)
    first = scores_of("single", logits, y, "abc", w).interval
    assert first == scores_of("single", logits, y, "abc", w).interval
    assert first != scores_of("single", logits, y, "abc", w, seed=1).interval


def test_all_right_is_no_certainty() -> None:
    """Clopper and Pearson's: of 20 samples all right, 16.8 % wrong is still compatible."""
    logits = np.tile(np.array([[1, 0]], np.float32), (20, 1))
    assert scores_of("single", logits, np.zeros(20, int), "ab").interval == (pytest.approx(0.8316, abs=1e-4), 1.0)
    assert scores_of("single", logits, np.ones(20, int), "ab").interval == (0.0, pytest.approx(0.1684, abs=1e-4))
    weighted = scores_of("single", logits, np.zeros(20, int), "ab", np.arange(20))
    assert weighted.interval is None
    assert "no spread" in weighted.undefined["accuracy interval"]


@pytest.mark.parametrize("task", ["single", "multi", "regression"])
def test_copies_in_a_group_tell_no_more_than_one_sample(task: str) -> None:
    """Whole groups are drawn, whatever their names and their order."""
    rng = np.random.default_rng(0)
    outputs, y = rng.normal(size=(30, 2)), {"single": rng.integers(0, 2, 30), "multi": rng.integers(0, 2, (30, 2))}
    labels = y.get(task, rng.normal(size=(30, 2)))
    order = rng.permutation(np.repeat(np.arange(30), 8))
    names = np.array([f"patient {i:02}" for i in range(30)], object)
    alone = scores_of(task, outputs, labels, "ab", groups=names)
    copies = scores_of(task, outputs[order], labels[order], "ab", groups=names[order])
    assert copies.interval == pytest.approx(alone.interval) and dict(copies) == pytest.approx(dict(alone))
    loose = scores_of(task, outputs[order], labels[order], "ab")
    assert np.ptp(loose.interval or ()) < 0.6 * np.ptp(alone.interval or ())
    assert (copies.settings["groups"], "groups" in loose.settings) == (30, False)
    right = scores_of("single", np.tile([1.0, 0], (60, 1)), np.zeros(60, int), "ab", groups=np.arange(60) // 3)
    assert right.interval == (pytest.approx(0.8316, abs=1e-4), 1.0), "as of 20 samples"
    with pytest.raises(DataError, match=r"groups have the shape \(2,\); expected one a sample, \(30,\)"):
        scores_of(task, outputs, labels, "ab", groups=names[:2])


def test_intervals_of_groups_hold_what_they_say() -> None:
    """By simulation: 40 groups of 10 samples, each right as often as its group is."""
    rng, held = np.random.default_rng(0), {"groups": 0, "samples": 0}
    groups = {"groups": np.repeat(np.arange(40), 10)}
    for _ in range(200):
        right = (rng.random((40, 10)) < rng.beta(1.4, 0.6, (40, 1))).ravel()
        columns = np.stack([right, np.ones(400)], 1)
        for drawn in held:
            low, high = interval(columns, ratio, groups=groups.get(drawn)) or (0, 0)
            held[drawn] += low <= 0.7 <= high
    assert 180 <= held["groups"] <= 199 and held["samples"] < 150, held


def test_a_difference_on_one_group_is_noise() -> None:
    """However many samples it has: the sign test needs six of them."""
    base, groups = np.arange(240) % 12 < 4, np.arange(240) // 12
    for task_weights in (None, np.full(240, 2.0)):
        of_one, of_all = base | (groups == 3), base | (np.arange(240) % 12 == 11)
        assert not paired_difference(of_one, base, task_weights).is_noise, "one by one they seem to tell"
        one, every = (paired_difference(of, base, task_weights, groups=groups) for of in (of_one, of_all))
        assert (one.is_noise, one.at_odds) == (True, pytest.approx(1))
        assert (every.is_noise, every.at_odds) == (False, pytest.approx(20))
        assert (every.value, every.low, every.high) == pytest.approx((1 / 12,) * 3)


def test_a_difference_is_paired() -> None:
    """72.5 against 75.6 % of 160 is noise or not by how many samples they differ on."""
    base = np.arange(160) < 116
    better = base.copy()
    better[116:121] = True  # all five gained, none lost: still fewer than a sign test needs
    assert paired_difference(better, base).is_noise
    better[121:127] = True
    assert not paired_difference(better, base).is_noise
    shuffled = np.roll(base, 40)
    shuffled[:5] = True
    difference = paired_difference(shuffled, base)
    assert difference.is_noise and difference.low < 0 < difference.high
    same_run = paired_difference(base, base)
    assert (same_run.value, same_run.at_odds, same_run.is_noise) == (0, 0, True)
    assert paired_difference(np.array([True]), np.array([False])).is_noise, "one sample tells nothing"
    gap = paired_difference(better, base)
    assert gap.value == pytest.approx(11 / 160)
    rng = np.random.default_rng(0)
    d = better.astype(float) - base
    drawn = np.percentile([rng.choice(d, 160).mean() for _ in range(4000)], (2.5, 97.5))
    assert (gap.low, gap.high) == pytest.approx(tuple(drawn), abs=0.008)


def test_a_weighted_difference_is_scipys_paired_bootstrap() -> None:
    """Of equal weights it is the plain one; samples without weight are as if they were not there."""
    from scipy.stats import bootstrap

    for seed in range(3):
        rng = np.random.default_rng(seed)
        base, other = rng.random(150) < 0.7, rng.random(150) < 0.8
        w = rng.exponential(size=150).astype(np.float32)
        difference = paired_difference(other, base, w)

        def weighted(d: Any, v: Any, axis: int) -> Any:
            return (d * v).sum(axis) / v.sum(axis)

        d = other.astype(float) - base
        ends = bootstrap(
            (d, w), weighted, paired=True, vectorized=True, method="percentile", n_resamples=4000, **{RANDOM: rng}
        )
        assert difference.value == pytest.approx(np.average(d, weights=w))
        assert (difference.low, difference.high) == pytest.approx(tuple(ends.confidence_interval), abs=0.012)
        plain, equal = paired_difference(other, base), paired_difference(other, base, np.full(150, 3.0))
        assert equal.value == pytest.approx(plain.value) and equal.at_odds == pytest.approx(plain.at_odds)
        assert (equal.low, equal.high) == pytest.approx((plain.low, plain.high), abs=0.012)
        padded = np.concatenate([w, np.zeros(50)])
        more = paired_difference(np.append(other, np.ones(50, bool)), np.append(base, np.zeros(50, bool)), padded)
        assert (more.value, more.at_odds) == pytest.approx((difference.value, difference.at_odds))
        assert (more.low, more.high) == pytest.approx((difference.low, difference.high), abs=0.015)
    heavy = np.full(1000, 1e-6)
    heavy[0] = 1
    assert paired_difference(np.ones(1000, bool), np.zeros(1000, bool), heavy).is_noise, "one sample decides"


def test_equal_runs_are_rarely_told_apart_and_unequal_ones_mostly() -> None:
    """By simulation: at most about 5 % of pairs that are equally good, however the weights are spread."""
    rng = np.random.default_rng(0)
    told = {0.0: 0, 0.2: 0}
    for _ in range(80):
        w = rng.exponential(size=120)
        base = rng.random(120) < 0.7
        for gain, count in told.items():
            other = np.where(rng.random(120) < 0.4, rng.random(120) < 0.7 + gain, base)
            other |= (rng.random(120) < gain) & ~base
            told[gain] = count + (not paired_difference(other, base, w).is_noise)
    assert told[0.0] <= 9, told
    assert told[0.2] >= 50, told


# --- size and speed


def test_it_goes_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whatever size: the same scores."""
    rng = np.random.default_rng(0)
    logits, y = np.round(rng.normal(size=(97, 23)) * 3).astype(np.float32), rng.integers(0, 23, 97)
    labels = (rng.random((97, 23)) < 0.3).astype(np.uint8)
    whole = scores_of("single", logits, y, [str(i) for i in range(23)]).as_dict()
    several = scores_of("multi", logits, labels, [str(i) for i in range(23)]).as_dict()
    monkeypatch.setattr("headstart.common.slices.SLICE_NBYTES", 8 * 23 * 10)
    assert scores_of("single", logits, y, [str(i) for i in range(23)]).as_dict() == whole
    again = scores_of("multi", logits, labels, [str(i) for i in range(23)]).as_dict()
    assert again["values"] == pytest.approx(several["values"])
    rows = _rows(logits, y)
    assert rows.predicted.tolist() == logits.argmax(1).tolist()


def test_it_needs_little_beside_the_logits() -> None:
    """Of 2,000 samples and 2,000 classes, 16 MB, in the memory that numpy asks for."""
    code = """
import tracemalloc, numpy as np
from headstart.common import slices
from headstart.training.scores import scores_of
slices.SLICE_NBYTES = 1 << 20
rng = np.random.default_rng(0)
logits, y = rng.normal(size=(2000, 2000)).astype(np.float32), rng.integers(0, 2000, 2000)
names = [str(i) for i in range(2000)]
tracemalloc.start()
scores_of("single", logits, y, names)
print(tracemalloc.get_traced_memory()[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16e6, "less than another copy of the logits"


def test_scores_import_no_library() -> None:
    code = "import sys, headstart.training.scores\nprint(sorted({'sklearn', 'scipy', 'torch'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scores_go_to_json_and_back() -> None:
    rng = np.random.default_rng(0)
    scores = scores_of("single", rng.normal(size=(9, 3)), rng.integers(0, 2, 9), "abc")
    again = Scores.from_dict(scores.as_dict())
    assert again == scores
    assert again.per_class[2]["undefined"]["recall"] == "no sample has it"
    assert dict(scores) == scores.values
