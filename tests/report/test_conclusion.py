"""The paragraph that a report begins with: which run to take and why, what it took, what to distrust; in every
form that a comparison has."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import pytest
from report_pages import GAPS, NAN, SPACE, Parsed, content, of_labels, of_numbers, of_task, row

from headstart import report
from headstart.report.conclusion import conclusion

pytestmark = pytest.mark.neutral

FEW = "20 validation samples are few: each is 5.0 points."
CHOSEN = "The same samples chose the run, so expect a little worse on new ones."


def told(given: dict[str, Any]) -> str:
    before = deepcopy(given)
    text = conclusion(given).text
    assert repr(given) == repr(before)
    return text.replace(SPACE, " ")


def run(label: str, accuracy: float | None, seconds: float, **changes: Any) -> dict[str, Any]:
    """Of 400 validation samples, without any cause for doubt."""
    backend, mode = label.split()
    cells = [[k, k, 100] for k in range(4)]
    scores = {
        "task": "single",
        "samples": 400,
        "values": {},
        "intervals": {"accuracy": [0.7, 0.9]},
        "per_class": [],
    }
    about = {"total_seconds": seconds, "validation": {"samples": 400, "confusion": cells}, "scores": scores}
    return row(backend, mode, accuracy, **{"against_best": None, "speedup_over_frozen": None, **about, **changes})


def against(best: str, difference: float, low: float, high: float, noise: bool, **more: Any) -> dict[str, Any]:
    return {
        "against_best": {"best": best, "difference": difference, "interval": [low, high], "noise": noise} | more
    }


def test_the_best_by_how_much_beside_the_next_and_what_it_took() -> None:
    rows = [
        run("torch frozen", 0.906, 14.6, **against("torch full", -0.043, -0.073, -0.016, False)),
        run("torch full", 0.949, 31.9),
        run(
            "torch cached",
            0.906,
            5.7,
            speedup_over_frozen=330.4,
            **against("torch full", -0.043, -0.07, -0.02, False),
        ),
    ]
    assert told(content(rows)) == (
        "Take torch full: accuracy 94.9 % (95 %: 70.0 to 90.0) on 400 validation samples. torch cached is next, "
        "90.6 %: 4.3 points less, more than noise (95 %: 2.0 to 7.0). torch full took 31.9 s; the quickest, "
        f"torch cached, 5.7 s. Speed-up of an epoch by the cache: 330× (torch cached). {CHOSEN}"
    )


def test_what_the_samples_do_not_tell_apart() -> None:
    rows = [
        run("torch full", 0.9, 200.0),
        run("torch staged", 0.89, 80.0, **against("torch full", -0.01, -0.03, 0.01, True)),
        run("torch cached", 0.88, 2.0, **against("torch full", -0.02, -0.04, 0.01, True)),
        run("torch scratch", 0.5, 200.0, **against("torch full", -0.4, -0.5, -0.3, False)),
    ]
    text = told(content(rows))
    assert "torch staged is next, 89.0 %: 1.0 points less, within the noise of these samples. " in text
    assert (
        "Nor do these samples tell torch cached from the best. torch full took 3.3 min; the quickest, torch "
        "cached, 2.0 s." in text
    )
    assert "torch scratch" not in text
    weighted = [rows[0], {**rows[1], **against("torch full", -0.01, -0.03, 0.01, True, weighted=True)}]
    assert "within the noise of these samples, samples by their weights." in told(content(weighted))
    # of other samples, or of a file without that, a bootstrap says nothing
    apart = [rows[0], {**rows[1], **against("jax full", -0.01, -0.03, 0.01, True)}]
    assert "1.0 points less, and whether by chance is not known." in told(content(apart))
    for one, ids in zip(apart, ("of these", "of those"), strict=True):
        one["validation"] = {**one["validation"], "ids": ids}
    assert "torch staged is next, 89.0 %, on other samples: the two do not compare." in told(content(apart))


def test_of_frameworks_with_equal_results_the_quickest() -> None:
    rows = [run("torch cached", 0.9, 9.0), run("keras cached", 0.9, 12.0), run("jax cached", 0.90004, 7.0)]
    for one in rows[:2]:
        one |= against("jax cached", -0.00004, -0.0001, 0.0001, True)
    assert told(content(rows)) == (
        "Take jax cached: accuracy 90.0 % (95 %: 70.0 to 90.0) on 400 validation samples. torch cached and keras "
        "cached have the same, and took longer. jax cached took 7.0 s, no run took less; keras cached took 12.0 s."
    )
    many = [run(f"b{i} cached", 0.9, 9.0 + i) for i in range(6)]
    assert "b1 cached, b2 cached, b3 cached, b4 cached and b5 cached have the same" in told(content(many))
    many.append(run("b6 cached", 0.9, 9.0))
    assert "b6 cached, b1 cached, b2 cached, b3 cached and 2 more have the same." in told(content(many))
    alike = [run("torch cached", 0.9, 9.0), run("jax cached", 0.9, 9.01)]
    assert told(content(alike)).endswith(
        " jax cached has the same, and took longer. torch cached took 9.0 s, as the other did."
    )


def test_one_run() -> None:
    alone = content([run("jax full", 0.8, 0.5)])
    assert (
        told(alone) == "jax full: accuracy 80.0 % (95 %: 70.0 to 90.0) on 400 validation samples. It took 0.5 s."
    )
    folds = {"score": "accuracy", "mean": 0.75, "interval": [0.5, 1.0], "values": [0.5, 1.0, 0.75]}
    crossed = {**alone["rows"][0], "folds": folds, "val_accuracy": 0.75}
    assert told(content([crossed])).startswith(
        "jax full: accuracy 75.0 % (95 %: 50.0 to 100.0) in the mean of 3 folds."
    )


def test_several_labels_a_sample() -> None:
    assert told(of_labels()) == (
        "Take torch cached: micro F1 62.5 % (95 %: 50.0 to 62.5) on 20 validation samples. torch full is next, "
        "50.0 %: 12.5 points less, within the noise of these samples. torch cached took 9.0 s, as the other did. "
        f"Speed-up of an epoch by the cache: 200× (torch cached). 20 validation samples are few. {CHOSEN}"
    )


def test_numbers_in_their_units_the_least_error_first() -> None:
    assert told(of_numbers()) == (
        "Take torch cached: mean absolute error 12.5 (95 %: 10 to 1,234) on 20 validation samples. torch full is "
        "next, 21: 8.5 more, within the noise of these samples. torch cached took 9.0 s, as the other did. "
        f"Speed-up of an epoch by the cache: 200× (torch cached). 20 validation samples are few. {CHOSEN}"
    )
    useless = of_task(row("torch", "full"), "mae", [9.0])
    useless["scores"]["values"]["r2"] = -0.25
    assert "torch full is no better than predicting the mean every time: R2 -0.25." in told(content([useless]))


def test_where_none_is_to_be_taken() -> None:
    unvalidated = GAPS["no-validation"]()
    unvalidated["data"] = {"name": "things", "train": 80, "val": 0}
    assert told(unvalidated) == (
        "Nothing says which run to take: no samples were kept out of the training to validate it."
    )
    one = {**unvalidated, "rows": unvalidated["rows"][:1]}
    assert told(one).startswith("Nothing says how well this run does: no samples were kept out")
    assert told(GAPS["nothing-known"]()).startswith("Nothing says how well this run does")
    assert told(GAPS["all-failed"]()) == "No run came to its end."
    both = [run("torch full", 0.9, 1.0), of_numbers()["rows"][1]]
    assert "No run is the best: they are known by different scores, accuracy and mean absolute error." in told(
        content(both)
    )


def test_runs_that_diverged() -> None:
    fallen = run("jax full", 0.99, 1.0, diverged=True)
    assert told(content([fallen])).startswith(
        "Do not take this run: it diverged, its losses or its weights are not"
    )
    assert told(content([fallen, {**fallen, "label": "b"}])).startswith(
        "Take none of these runs: every one diverged,"
    )
    beside = told(content([fallen, run("jax frozen", 0.5, 2.0)]))
    assert beside.startswith("jax frozen: ") is False and beside.startswith("Take jax frozen: accuracy 50.0 %")
    assert beside.endswith(" It took 2.0 s. jax full diverged.")
    assert told(GAPS["diverged"]()).endswith("jax full diverged.")
    unknown = run("jax full", NAN, 1.0, diverged=False, history=[])
    assert told(content([unknown])).startswith("Nothing says how well this run does: no score of it is known.")


@pytest.mark.parametrize(
    ("changes", "about", "said"),
    [
        (
            {},
            {"val_in_train": 7, "val": 400},
            "The scores are too good: 7 of 400 validation samples were trained on",
        ),
        (
            {},
            {"val_of_train_groups": 9, "val": 400},
            "The scores are too good: 9 validation samples are of groups that were trained on as well.",
        ),
        ({"folds": {"values": [0.8, 0.8]}}, {"val_of_train_groups": 9}, None),  # which cut no group
        (
            {"test": {"of_seen_groups": 1, "samples": 40}},
            {},
            "The scores are too good: 1 test sample is of a group that was trained or validated on as well.",
        ),
        ({"data": {"val_in_train": 2, "val": 9}}, {}, "The scores are too good: 2 of 9 validation samples were"),
        ({"data": {"val": 9}}, {"val_in_train": 7, "val": 400}, None),  # which are another run's
        ({}, {"skipped": [["a.jpg", "is empty"]]}, "1 file of the data was left out."),
        ({"validation": {"samples": 20}}, {}, FEW),
        ({"validation": {"samples": 1}}, {}, "1 validation sample is few: each is 100.0 points."),
        ({"validation": {"samples": 20, "weights": "AA"}}, {}, "20 validation samples are few."),
        ({"scores": {"settings": {"groups": 7}}}, {}, "7 groups of validation samples are few."),
        (
            {"validation": {"samples": 400, "not_finite": 3}},
            {},
            "torch cached: outputs for 3 validation samples are not finite.",
        ),
        (
            {"validation": {"samples": 400, "confusion": [[0, 0, 320], [1, 0, 80]]}},
            {},
            "torch cached is no better than always naming the commonest class, which is right in 80.0 %.",
        ),
        (
            {"validation": {"samples": 400, "confusion": [[0, 0, 290], [1, 0, 110]]}},
            {},
            "These samples do not tell torch cached from always naming the commonest class, which is right in",
        ),
        ({"best_epoch": 3}, {}, "The last epoch of torch cached was its best: more of them may do better."),
        ({"best_epoch": 2}, {}, None),
        ({"settings": {"threshold": 0.5}}, {}, None),
        (
            {"settings": {"threshold": "best"}, "score": "micro_f1", "val_score": 0.8},
            {},
            "The same samples chose the threshold of torch cached, so its micro F1 is a little too good.",
        ),
        ({"reused": 80, "extracted": 0}, {}, None),  # alone it is beside nothing
    ],
)
def test_what_is_to_be_distrusted(changes: dict[str, Any], about: dict[str, Any], said: str | None) -> None:
    given = content([run("torch cached", 0.8, 1.0, **changes)])
    given["data"] = {**given["data"], **about}
    doubts = [doubt.replace(SPACE, " ") for doubt in conclusion(given).doubts]
    assert (doubts == []) if said is None else (len(doubts) == 1 and doubts[0].startswith(said)), doubts


def test_test_data_say_what_the_validation_data_cannot_and_whoever_filled_the_cache_paid() -> None:
    test = {
        "samples": 250,
        "trained_on": {"samples": 2, "share": 0.008},
        "scores": {"samples": 250, "values": {"accuracy": 0.75}, "intervals": {"accuracy": [0.7, 0.8]}},
    }
    rows = [run("torch full", 0.9, 9.0, test=test), run("torch cached", 0.8, 1.0, reused=80, extracted=0)]
    rows[1] |= against("torch full", -0.1, -0.2, -0.05, False)
    text = told(content(rows))
    assert "On 250 test samples, which chose nothing: accuracy 75.0 % (95 %: 70.0 to 80.0)." in text
    assert "The scores are too good: 2 of 250 test samples were trained on as well." in text
    rows[0]["test"] = {**test, "trained_on": {"samples": 1}}
    assert "The scores are too good: 1 of 250 test samples was trained on as well." in told(content(rows))
    assert CHOSEN not in text
    assert text.endswith("torch cached found the cache full: filling it is not in its time.")
    rows[1]["extracted"] = 1
    part = "torch cached found a part of the cache full: filling that is not in its time."
    assert told(content(rows)).endswith(part)
    assert "test samples, which" not in " ".join(conclusion(content(rows)).lines), (
        "a line of its own on a terminal"
    )


def test_it_is_the_first_that_a_page_says() -> None:
    for name, made in GAPS.items():
        html = report.page(made())
        first = re.search(r"<h1>.*?</h1>\s*<p class=\"conclusion\">(.*?<p class=\"note\">)", html, re.DOTALL)
        assert first is not None
        words = " ".join("".join(Parsed(first[1]).texts).replace("What to distrust: ", "").split())
        assert words.replace(" Failed: torch.", "") == " ".join(conclusion(made()).text.split()), name
    assert "Failed: torch." in report.page(GAPS["all-failed"]())
