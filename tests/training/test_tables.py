"""Results as tables: plain text by column, whatever is missing or diverged."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import f1_score, mean_absolute_error

from headstart.common.table import Table
from headstart.common.text import told_apart
from headstart.data import arrays
from headstart.report.conclusion import conclusion
from headstart.training.comparison import Comparison
from headstart.training.noise import mark_noise
from headstart.training.plan import Budget, CutPlan, Plan
from headstart.training.prediction_columns import Reading
from headstart.training.predictions import Predictions
from headstart.training.sample_texts import bits_of, bits_text, numbers_of, numbers_text, weights_of_text
from headstart.training.scores import scores_of
from headstart.training.scores.result import headline
from headstart.training.tables import classes_table, comparison_legend, scores_table, sweep_table
from headstart.training.validation import validation_of

pytestmark = pytest.mark.neutral


def column(table: Table, name: str) -> list[str]:
    return [row[table.columns.index(name)] for row in table.rows]


def row(mode: str, **changes: Any) -> dict[str, Any]:
    epoch = {"total": 2.0, "data": 0.5, "trunk": 0.0, "head": 1.5}
    return {
        "backend": "torch", "mode": mode, "val_accuracy": 0.5, "diverged": False, "seconds_per_epoch": epoch,
        "extraction_seconds": 3.0, "extracted": 8, "features_made_by": [], "speedup_over_frozen": None,
        "total_seconds": 9.87, "pays_off_after_epochs": None, **changes,
    }  # fmt: skip


def test_a_comparison() -> None:
    cached = {"features_made_by": ["torch"], "speedup_over_frozen": 12.4, "pays_off_after_epochs": 1}
    rows = [
        row("frozen", speedup_over_frozen=1.0),
        row("cached", **cached),
        row("cached", **cached, extracted=0, reused=8, diverged=True),
        row("full", backend="jax", val_accuracy=None),
    ]
    comparison = Comparison(rows=rows, versions={"torch": {"torch": "2"}, "jax": {}, "keras": {}})
    first, second = comparison.as_tables()
    assert (first.title, second.title) == ("torch (torch 2)", "jax ()")
    assert column(first, "mode") == ["frozen", "cached", "cached"]
    assert column(first, "val acc") == ["50.0%", "50.0%", "diverged"] and column(second, "val acc") == ["-"]
    assert column(first, "extract") == ["-", "3.00", "3.00*"]
    assert column(first, "speed-up") == ["1.0x", "12x", "12x"] and column(second, "speed-up") == ["-"]
    assert column(first, "trunk") == ["-"] * 3 and column(first, "head") == ["1.50"] * 3
    assert column(first, "pays off") == ["-", "1 epoch", "1 epoch"]
    assert "; * to find it full already" in comparison_legend(comparison, [first, second])
    rows[1] |= {"extracted": 2, "reused": 6}
    assert column(comparison.as_tables()[0], "extract") == ["-", "3.00*", "3.00*"]
    both = "; * to fill what it lacked, as a part of it was there already; or to find it full already"
    assert both in comparison_legend(comparison, [first, second])
    rows[1] |= {"reused": 0}
    unfound = Comparison(rows=rows[:2], versions={"torch": {}})
    assert "extract: seconds to fill the cache, once. " in comparison_legend(unfound, unfound.as_tables())


def test_a_legend_says_the_marks_that_stand_in_a_table_and_no_others() -> None:
    alone = row("cached", scores={"intervals": {"accuracy": [0.4, 0.6]}})
    folds = {**alone, "folds": {"interval": [0.4, 0.6], "values": [0.5]}}
    for rows, said in (
        ([row("full")], "s/epoch: "),
        ([alone], "±: half of the 95 % interval, by resampling the validation data. s/epoch: "),
        ([folds], "±: half of the 95 % interval, by Student's t over the folds. s/epoch: "),
        ([alone, {**alone, "against_best": {"noise": True}}], "±: half of the 95 % interval, by resampling the "
         "validation data; =: they do not tell it from the best. s/epoch: "),
    ):  # fmt: skip
        comparison = Comparison(rows=rows, versions={"torch": {}})
        assert comparison_legend(comparison, comparison.as_tables()).startswith(said)


def test_a_column_without_a_value_is_left_out_and_not_explained() -> None:
    comparison = Comparison(rows=[row("full"), row("scratch")], versions={"torch": {}})
    (table,) = comparison.as_tables()
    shown = table.without_empty_columns()
    assert shown.columns == ("mode", "val acc", "s/epoch", "data", "head", "total")
    assert shown.right == (1, 2, 3, 4, 5)
    assert column(shown, "total") == column(table, "total") == ["9.9", "9.9"]
    assert "total: " in comparison_legend(comparison, [table])
    assert "speed-up: " not in comparison_legend(comparison, [table])
    assert Table(("a", "b"), [("", ""), ("-", "-")]).without_empty_columns().columns == ("a",)
    assert Table(("a", "b"), []).without_empty_columns().columns == ("a", "b")


def test_which_epoch_was_kept_stands_below_a_comparison() -> None:
    def trained(mode: str, epochs: int, kept: int, **changes: Any) -> dict[str, Any]:
        settings = {"monitor": "val_loss", "stages": {"head": {"max_epochs": 100}, "all": {"max_epochs": 3}}}
        history = [{"epoch": i + 1, "val_loss": 1.0} for i in range(epochs)]
        return row(mode, history=history, best_epoch=kept, settings=settings, **changes)

    head = [{"epoch": i + 1, "val_loss": 1.0} for i in range(37)]
    staged = trained("staged", 3, 2, head_history=head, head_best_epoch=22)
    rows = [trained("full", 3, 2), staged, row("cached", settings={"solver": "ridge"})]
    (table,) = Comparison(rows=rows, versions={"torch": {}}).as_tables()
    assert table.note == "kept epoch, by val_loss: full 2 of 3, staged 2 of 3 (head: 22 of 37, stopped early)"
    (alone,) = Comparison(rows=[staged], versions={"torch": {}}).as_tables()
    assert alone.note == (
        "head: stopped after 37 of at most 100 epochs; kept epoch 22, the best by val_loss. "
        "all: 3 epochs; kept epoch 2, the best by val_loss"
    )


def test_a_comparison_of_one_run() -> None:
    facts: dict[str, Any] = {"machine": {"cores": 2}, "data": {"name": "a"}, "model": {"name": "b"}}
    comparison = Comparison(rows=[row("full")], versions={"torch": {"torch": "2"}}, created="now", **facts)
    assert comparison.single() == {**facts, "versions": {"torch": "2"}, **row("full")}


def test_a_sweep() -> None:
    figures = {"val_accuracy": 0.25, "val_loss": 1.5, "accuracy": 1.0, "loss": 0.125, "diverged": False}
    table = sweep_table([{"lr": 0.001, "seed": 1, **figures}, {"lr": 1.0, "seed": 0, **figures}], top=1)
    assert table.columns == ("lr", "seed", "val acc", "val loss", "train acc", "train loss")
    assert table.rows == [("0.001", "1", "25.0%", "1.5000", "100.0%", "0.1250")]
    assert len(sweep_table([figures, figures], top=0).rows) == 1
    assert len(sweep_table([figures, figures]).rows) == 2


def test_heads_of_a_sweep_are_told_apart() -> None:
    """A seed is no rough size, and of rates as many digits are shown as differ."""
    figures = {"val_accuracy": 0.25, "val_loss": 1e30, "accuracy": 1.0, "loss": 0.125, "diverged": False}
    points = [(0.0012345678, 1234567), (0.0012345679, 1234568), (0.1, 0)]
    table = sweep_table([{"lr": lr, "seed": seed, **figures} for lr, seed in points])
    assert [row[:2] for row in table.rows] == [
        ("0.0012345678", "1234567"),
        ("0.0012345679", "1234568"),
        ("0.1", "0"),
    ]
    assert table.rows[0][3] == "1e+30"  # and not thirty digits
    rates = [float(rate) for rate in np.logspace(-4, -1, 8)]
    assert told_apart(rates)[1] == "0.00026827"


def test_numbers_are_not_right_or_wrong() -> None:
    figures = {"val_score": 0.01234, "score": "mae", "val_accuracy": None, "accuracy": None, "diverged": False}
    table = sweep_table([{"lr": 0.1, "val_loss": 1.5, "loss": 0.125, **figures}])
    assert table.columns == ("lr", "val MAE", "val loss", "train loss")
    assert table.rows == [("0.1", "0.01234", "1.5000", "0.1250")]


def test_many_targets_are_shown_by_r2() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 40)) / 1000
    scores = scores_of("regression", truth + np.arange(40) / 1e4, truth, [f"t{k}" for k in range(40)])
    table = classes_table(scores)
    assert table.title == "the 30 of 40 targets with the lowest R2"
    assert table.columns[0] == "target" and column(table, "target")[0] == "t39"
    first, second, *_ = column(scores_table(scores), "value")
    assert second == f"{scores['mae']:.4g}", "small units have their digits"
    assert float(first) == pytest.approx((np.arange(40) / 1e4 / truth.std(0)).mean(), rel=1e-3)
    assert "calibration" not in scores_table(scores).legend


def test_a_plan() -> None:
    near = CutPlan("near", (4,), 2000, 1, 1, 5, 60.0, 1.0, 2.0, "device", True, 3, 63.0, 6.0)
    far = CutPlan("far", (8,), 4000, 1, 1, 0, 0.0, 2.0, 1.0, "disk", False, 3, 6.0, 3.0)
    data = {"name": "a", "train": 4, "val": 1, "classes": ["x"]}
    plan = Plan((near, far), {"samples": 5}, Budget(nbytes=3000), data, {"name": "net"})
    table = plan.as_table()
    assert column(table, "cut") == ["near", "far ~"]
    assert column(table, "cache") == ["2.0 kB", "4.0 kB*"]
    assert column(table, "extract") == ["60.0 s", "there"]
    assert column(table, "pays off") == ["60 epochs", "never"]
    assert column(table, "3 epochs") == ["63.0 s", "6.0 s"]
    facts = plan.as_dict()
    assert (facts["data"], facts["model"], facts["best"], facts["epochs"]) == (data, {"name": "net"}, "near", 3)
    assert repr(plan) == "Plan('net', 2 cuts, the best within the budget 'near')"
    longer = Plan((near, replace(far, epochs=10, total_seconds=20.0)), {}).as_table()
    assert column(longer, "epochs") == ["3", "10"]
    assert column(longer, "in total") == ["63.0 s", "20.0 s"]
    assert facts["rows"][0] == {**asdict(near), "shape": [4], "pays_off_after_epochs": 60}


def test_predictions() -> None:
    reading = Reading(("x", "y"), top=2)
    cells = tuple(reading.cells(np.log([[0.25, 0.75], [np.nan, np.nan], [np.nan, np.nan]]).astype(np.float32)))
    errors = (None, None, "is empty")
    predictions = Predictions(("a.jpg", "b.jpg", "c.jpg"), reading, cells, errors)
    assert predictions.as_list() == [
        {"image": "a.jpg", "classes": [["y", 0.75], ["x", 0.25]]},
        {"image": "b.jpg", "classes": []},
        {"image": "c.jpg", "classes": [], "error": "is empty"},
    ]
    assert repr(predictions) == "Predictions(3 images, 1 of them not read, 2 classes)"
    assert predictions.as_table().rows == [
        ("a.jpg", "y", "75.0%"),
        ("", "x", "25.0%"),
        ("b.jpg", "-", "not finite"),
        ("c.jpg", "-", "is empty"),
    ]


def test_accuracies_have_an_interval_and_say_what_is_noise() -> None:
    scores = {"intervals": {"accuracy": [0.44, 0.56]}}
    rows = [
        row("full", scores=scores),
        row("cached", scores=scores, against_best={"best": "torch full", "noise": True}),
        row("frozen", scores=scores, against_best={"best": "torch full", "noise": False}),
        row("staged", scores={"intervals": {}}),
    ]
    (table,) = Comparison(rows=rows, versions={"torch": {}}).as_tables()
    assert column(table, "val acc") == ["50.0%±6.0", "=50.0%±6.0", "50.0%±6.0", "50.0%"]


def test_the_share_of_right_samples_is_no_f1() -> None:
    """Where no sample has a label there is no F1, and all of them may be right."""
    rows = [row("cached", score="micro_f1", val_score=None, val_accuracy=1.0), row("full", score="accuracy")]
    labels, classes = (Comparison(rows=[of], versions={"torch": {}}).as_tables()[0] for of in rows)
    assert column(labels, "val F1") == ["-"] and column(classes, "val acc") == ["50.0%"]
    figures = {"val_loss": 0.3, "loss": 0.2, "accuracy": 0.5, "diverged": False}
    swept = sweep_table([{"lr": 0.1, **figures, "val_accuracy": 1.0, "val_score": None, "score": "micro_f1"}])
    assert column(swept, "val F1") == ["-"] and column(swept, "train subset acc") == ["50.0%"]


def test_it_is_said_that_samples_are_weighted() -> None:
    """A class of one sample, which weighs nothing, has no recall; another has one of 11.1 % with two samples."""
    logits, labels, weights = np.eye(2, dtype=np.float32)[[0, 1, 0]], np.array([0, 0, 1]), np.array([1.0, 8, 0])
    said = "Scores count samples by their weights; numbers of samples do not."
    scores = scores_of("single", logits, labels, "ab", weights)
    assert classes_table(scores).rows[0][:4] == ("a", "2", "100.0%", "11.1%")
    assert scores.per_class[1]["undefined"]["recall"] == "no sample that has it counts"
    assert said in scores_table(scores, weighted=True).legend and said not in scores_table(scores).legend
    loose, heavy = row("cached"), row("full", validation={"samples": 3, "weights": "AA"})
    (table,) = Comparison(rows=[loose, heavy], versions={"torch": {}}).as_tables()
    said = "Scores of validation count samples by their weights."
    assert said in comparison_legend({"rows": [loose, heavy]}, [table])
    assert said not in comparison_legend({"rows": [loose]}, [table])


def test_the_threshold_of_labels_is_said() -> None:
    scores = scores_of("multi", np.ones((3, 2), np.float32), np.eye(3, 2), "ab", threshold=0.408)
    assert "predicted: labels whose probability is larger than 0.408." in scores_table(scores).legend


def test_scores_as_tables() -> None:
    logits = np.array([[2, 0, 0], [0, 1, 0], [1, 0, 0], [0, 3, 0]], np.float32)
    scores = scores_of("single", logits, np.array([0, 1, 1, 1]), ["a", "b", "absent"])
    table = scores_table(scores)
    accuracy, *_ = table.rows
    assert accuracy[:2] == ("accuracy", "75.0%") and accuracy[2].endswith("% to 100.0%")
    assert column(table, "score")[-1] == "log loss"
    assert repr(scores).startswith("Scores(4 samples: accuracy 0.75 (95 %: ") and len(repr(scores)) < 400
    classes = classes_table(scores)
    assert classes.rows[0] == ("a", "1", "50.0%", "100.0%", "66.7%", "100.0%", "100.0%")
    assert classes.rows[2] == ("absent", "0", "-", "-", "-", "-", "-")
    lost = scores_table(scores_of("single", logits * np.nan, np.array([0, 1, 1, 1]), ["a", "b", "absent"]))
    assert lost.rows[0] == ("accuracy", "-", "the logits of 4 of 4 samples are not finite")


def test_of_many_classes_the_worst_are_shown() -> None:
    rng = np.random.default_rng(0)
    scores = scores_of(
        "single", rng.normal(size=(300, 40)), rng.integers(0, 40, 300), [f"c{i}" for i in range(40)]
    )
    table = classes_table(scores)
    assert len(table.rows) == 30
    assert table.title == "the 30 of 40 classes with the lowest F1"
    assert "among the first 5" in column(scores_table(scores), "score")


def test_noise_is_told_on_the_same_samples_only() -> None:
    right = np.arange(160) < 120
    better = np.arange(160) < 150

    def entry(label: str, bits: np.ndarray, ids: str = "x", **changes: Any) -> dict[str, Any]:
        validation = {"samples": len(bits), "right": bits_text(bits), "ids": ids}
        return {"label": label, "diverged": False, "validation": validation, **changes}

    near = better.copy()
    near[:3] = False
    rows = [
        entry("good", right), entry("near", near), entry("best", better), entry("elsewhere", right, "y"),
        entry("lost", right, diverged=True),
        {"label": "before", "diverged": False, "validation": {"samples": 160}},
        {"label": "unvalidated", "diverged": False, "validation": None},
        entry("labels", right, score="micro_f1"),
        entry("damaged", right) | {"validation": {"samples": 160, "right": "*no*", "ids": "x"}},
        entry("short", right) | {"validation": {"samples": 160, "right": "AAAA", "ids": "x"}},
    ]  # fmt: skip
    mark_noise(rows)
    good, near_of_best, *others = (of["against_best"] for of in rows)
    assert good["best"] == "best" and not good["noise"]
    assert good["difference"] == pytest.approx(-30 / 160) and good["interval"][1] < 0
    assert near_of_best["noise"]
    assert others == [None] * 8


def test_runs_that_were_asked_other_things_of_the_same_pictures_are_not_compared() -> None:
    """Accuracy in two colours and in three sizes are two scores; a class more that no sample has is no matter, nor
    whether somebody named the classes."""
    right, better = np.arange(160) < 120, np.arange(160) < 150

    def entry(label: str, bits: np.ndarray, counts: list[int], classes: list[str], **more: Any) -> dict[str, Any]:
        cells = [[k, k, count] for k, count in enumerate(counts) if count]
        about = {"samples": 160, "right": bits_text(bits), "ids": "x", "confusion": cells, **more}
        own = {"classes": classes} if classes else {}
        return {"label": label, "diverged": False, "validation": about, **own}

    rows = [
        entry("lost", right, [90, 60], [], not_finite=10),
        entry("colour", better, [100, 60], []),
        entry("colour again", right, [0, 60, 100], ["blue", "green", "red"]),
        entry("numbered", right, [100, 60], ["0", "1"]),
        entry("size", right, [50, 60, 50], ["small", "middle", "large"]),
        entry("other pictures' colours", right, [60, 100], ["red", "green"]),
    ]
    mark_noise(rows, ["red", "green"])
    best = [(row["against_best"] or {}).get("best") for row in rows]
    assert best == ["colour", None, "colour", "colour", None, None]
    apart = [row("full", val_accuracy=0.9), row("cached", val_accuracy=0.8)]
    for one, of in zip(apart, (rows[1], rows[4]), strict=True):
        one |= of
    text = conclusion({"data": {"classes": ["red", "green"]}, "rows": apart}).text
    assert "size is next, 80.0" in text and "with other labels: the two do not compare." in text


def test_noise_is_told_by_the_samples_weights() -> None:
    """The best is then the best of what counts."""
    many, few = np.arange(160) < 120, np.arange(160) >= 100
    weights = np.where(np.arange(160) >= 120, 10.0, 0.1)

    def entry(label: str, bits: np.ndarray, text: str) -> dict[str, Any]:
        validation = {"samples": 160, "right": bits_text(bits), "ids": "x", "weights": text}
        return {"label": label, "diverged": False, "validation": validation}

    text = numbers_text(weights)
    rows = [
        entry("many", many, text),
        entry("few", few, text),
        entry("plain", many, ""),
        entry("bad", few, "AA=="),
    ]
    mark_noise(rows)
    assert [row["against_best"] for row in rows[1:]] == [None] * 3
    against = rows[0]["against_best"]
    expected = np.average(many.astype(float) - few, weights=weights.astype(np.float32))
    assert (against["best"], against["noise"], against["weighted"]) == ("few", False, True)
    assert against["difference"] == pytest.approx(expected) and against["interval"][1] < 0


def test_noise_is_told_by_the_samples_groups() -> None:
    """Of runs that differ on one group alone nothing is known, though they do so on eight samples; also where an
    older file does not say the groups."""
    groups = np.arange(240) // 12
    base = np.arange(240) % 12 < 4

    def entry(label: str, bits: np.ndarray, text: str) -> dict[str, Any]:
        validation = {"samples": 240, "right": bits_text(bits), "ids": "x", "groups": text}
        return {"label": label, "diverged": False, "validation": validation}

    for text in (numbers_text(groups), ""):
        rows = [entry("base", base, text), entry("best", base | (groups == 3), numbers_text(groups))]
        mark_noise(rows)
        assert rows[0]["against_best"]["noise"], text
    rows = [entry("base", base, ""), entry("best", base | (groups == 3), "")]
    mark_noise(rows)
    assert not rows[0]["against_best"]["noise"]


def judged(label: str, outputs: np.ndarray, truth: np.ndarray, task: str, **changes: Any) -> dict[str, Any]:
    """An entry of these outputs for the validation data, as a run makes it."""
    pictures = np.zeros((len(truth), 4, 4, 3), np.uint8)
    pictures[:, 0, 0, 0], pictures[:, 0, 0, 1] = np.arange(len(truth)) % 256, np.arange(len(truth)) // 256
    data = arrays(pictures, truth, [f"t{k}" for k in range(truth.shape[1])], task=task)
    validation = validation_of(outputs.astype(np.float32), data).as_dict()
    score = headline(task, truth.shape[1])
    return {"label": label, "diverged": False, "score": score, "validation": validation, **changes}


def test_labels_are_told_apart_by_f1() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((160, 3)) < 0.4).astype(np.uint8)
    noisy = {share: np.where(rng.random(truth.shape) < share, 1 - truth, truth) * 2.0 - 1 for share in (0.1, 0.3)}
    near = noisy[0.1].copy()
    near[:4] *= -1
    rows = [judged("far", noisy[0.3], truth, "multi"), judged("best", noisy[0.1], truth, "multi")]
    rows += [judged("near", near, truth, "multi"), judged("others", noisy[0.3], truth, "multi", classes=["x"])]
    mark_noise(rows)
    far, best, close, others = (row["against_best"] for row in rows)
    assert (best, others) == (None, None), "F1 of other labels is another score"
    expected = [f1_score(truth, outputs > 0, average="micro") for outputs in (noisy[0.3], noisy[0.1])]
    assert (far["best"], far["noise"], far["weighted"]) == ("best", False, False)
    assert far["difference"] == pytest.approx(expected[0] - expected[1])
    assert close["noise"]

    guesses = [outputs > 0 for outputs in (noisy[0.3], noisy[0.1])]
    terms = np.concatenate(
        [np.stack([2 * (g & (truth > 0)).sum(1), g.sum(1) + truth.sum(1)], 1) for g in guesses], 1
    )

    def difference(*terms: np.ndarray, axis: int) -> Any:
        a, of_a, b, of_b = (of.sum(axis) for of in terms)
        return a / of_a - b / of_b

    drawn = bootstrap(
        tuple(terms.T), difference, paired=True, vectorized=True, method="percentile", n_resamples=4000, rng=rng
    ).confidence_interval
    assert far["interval"] == pytest.approx([drawn.low, drawn.high], abs=0.015)


def test_numbers_are_told_apart_by_their_errors_and_the_least_is_best() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(160, 2)).astype(np.float32)
    errors = {scale: truth + scale * rng.normal(size=truth.shape) for scale in (0.5, 1.0)}
    near = errors[0.5].copy()
    near[:4] += 0.5
    rows = [judged(str(scale), outputs, truth, "regression") for scale, outputs in errors.items()]
    rows += [judged("near", near, truth, "regression"), judged("lost", truth * np.nan, truth, "regression")]
    mark_noise(rows)
    best, far, close, lost = (row["against_best"] for row in rows)
    assert (best, lost) == (None, None)
    unit = truth.std(0, dtype=np.float64)
    a, b = (
        mean_absolute_error((truth / unit).T, (errors[s] / unit).T, multioutput="raw_values") for s in (1.0, 0.5)
    )
    assert (far["best"], far["noise"]) == ("0.5", False)
    assert far["difference"] == pytest.approx((a - b).mean(), rel=1e-4), "more is worse"
    drawn = bootstrap((a - b,), np.mean, method="percentile", n_resamples=4000, rng=rng).confidence_interval
    assert far["interval"] == pytest.approx([drawn.low, drawn.high], abs=0.02)
    assert close["noise"]


@pytest.mark.parametrize("task", ["multi", "regression"])
def test_equal_runs_are_rarely_told_apart(task: str) -> None:
    """By simulation: of pairs whose errors are drawn alike about 5 % at most, of unlike ones most."""
    rng = np.random.default_rng(1)
    told = {1.0: 0, 1.5: 0}
    for _ in range(40):
        truth = (rng.random((100, 2)) < 0.5).astype(np.uint8) if task == "multi" else rng.normal(size=(100, 2))
        centre = 2.0 * truth - 1 if task == "multi" else truth
        first = judged("first", centre + rng.normal(size=truth.shape), truth, task)
        for spread in told:
            pair = [first, judged("other", centre + spread * rng.normal(size=truth.shape), truth, task)]
            mark_noise(pair)
            (against,) = (row["against_best"] for row in pair if row["against_best"])
            told[spread] += not against["noise"]
    assert told[1.0] <= 5 and told[1.5] >= 15, told


def test_terms_that_do_not_fit_tell_nothing() -> None:
    truth = np.arange(12.0).reshape(12, 1)
    rows = [judged(str(k), truth + k, truth, "regression") for k in range(3)]
    rows[0]["validation"]["terms"] = numbers_text(-np.ones(12))
    rows[1]["validation"]["terms"] = rows[1]["validation"]["terms"][:8]
    mark_noise(rows)
    assert [row["against_best"] for row in rows] == [None] * 3
    two = np.random.default_rng(0).random((9, 2)).astype(np.float32)
    np.testing.assert_array_equal(numbers_of(numbers_text(two), 9, 2), two)
    assert numbers_of(numbers_text(two), 9, 1) is None


def test_weights_go_there_and_back() -> None:
    weights = np.random.default_rng(0).random(9).astype(np.float32)
    np.testing.assert_array_equal(weights_of_text(numbers_text(weights), 9), weights)
    for wrong in (weights[:8], -weights, weights * np.nan, weights * 0):
        assert weights_of_text(numbers_text(wrong), 9) is None
    assert weights_of_text("*no*", 9) is None


def test_bits_go_there_and_back() -> None:
    for n in (1, 7, 8, 9, 1000):
        bits = np.random.default_rng(n).random(n) < 0.5
        assert bits_of(bits_text(bits), n) is not None
        np.testing.assert_array_equal(bits_of(bits_text(bits), n), bits)
        assert bits_of(bits_text(bits), n + 8) is None
