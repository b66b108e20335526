"""The page: what it says, and that nothing in it is fetched or taken for markup."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
from report_pages import (
    GAPS,
    SPACE,
    Parsed,
    content,
    full_size,
    hostile,
    of_labels,
    of_numbers,
    row,
)

from headstart import report
from headstart.report import figures, pictures, plots
from headstart.report.cards import LARGEST
from headstart.report.curves import AXES, SHIPPED, _shipped, curves
from headstart.report.curves import script as bokeh_script
from headstart.report.runs import runs_table
from headstart.report.scores import scores_card

pytestmark = pytest.mark.neutral


@pytest.mark.each  # where it is installed
def test_importing_the_report_imports_neither_bokeh_nor_a_framework() -> None:
    code = "import sys, headstart.report; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"bokeh", "jinja2", "torch", "keras", "tensorflow", "jax"} & set(done.stdout.split())


def test_nothing_in_a_page_is_fetched_and_a_full_one_is_under_three_megabytes() -> None:
    given = full_size()
    before = deepcopy(given)
    html = report.page(given)
    assert given == before
    assert report.page(given) == html
    assert len(html.encode()) < 3_000_000
    parsed = Parsed(html)
    fetching = ("src", "href", "srcset", "action", "data", "poster", "xlink:href", "formaction", "background")
    named = [attributes[name] for _, attributes in parsed.elements for name in fetching if name in attributes]
    assert named == ["data:,"]  # the icon, which a browser would ask the site for
    assert not re.search(r"url\(|@import", "".join(parsed.styles))
    assert not any("url(" in (attributes.get("style") or "") for _, attributes in parsed.elements)
    assert len(parsed.scripts) == 4  # pictures, data, Bokeh's, the page's
    assert not any(re.search(r"<!--|<script|</script", script, re.IGNORECASE) for script in parsed.scripts)
    shown = json.loads(parsed.scripts[0])
    wanted = {attributes["data-picture"] for tag, attributes in parsed.elements if tag == "img"}
    assert shown.keys() <= wanted and len(wanted) == 1 + 15 * (2 + 12)
    # Bokeh's script grows with its versions: there are all pictures, or as many as there is room for.
    assert shown.keys() == wanted or len(html.encode()) > LARGEST - max(map(len, shown.values()))
    assert all(re.fullmatch(r"data:image/(png|jpeg);base64,[\w+/]+=*", uri) for uri in shown.values())


def test_pictures_for_which_there_is_no_room_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given = full_size()
    whole = len(report.page(given).encode())
    monkeypatch.setattr("headstart.report.build.LARGEST", whole - 300_000)
    html = report.page(given)
    assert whole - 350_000 < len(html.encode()) <= whole - 300_000
    parsed = Parsed(html)
    shown = json.loads(parsed.scripts[0])
    numbers = [int(str(attributes["data-picture"])) for tag, attributes in parsed.elements if tag == "img"]
    assert max(map(int, shown)) < max(numbers)
    # Kernels, the page's last pictures, are the last to go.
    assert all(str(number) in shown for number in numbers[-45:])


def test_texts_from_data_are_never_markup() -> None:
    parsed = Parsed(report.page(hostile()))
    plain = Parsed(report.page(content()))
    assert {tag for tag, _ in parsed.elements} <= {tag for tag, _ in plain.elements} | {"pre", "ul", "li", "img"}
    assert len(parsed.scripts) == len(plain.scripts) == 4
    assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    assert not any(attributes.get("src") for _, attributes in parsed.elements)
    assert any("{{ 7*7 }} @row \\x00\\u202e\\ud800" in text for text in parsed.texts)
    for script in parsed.scripts[:2]:
        json.loads(script)


@pytest.mark.parametrize("name", GAPS)
def test_what_is_missing_leaves_a_gap(name: str) -> None:
    html = report.page(GAPS[name]())
    text = " ".join(Parsed(html).texts)
    assert "None" not in text.replace("None: every sample", "") and "nan" not in text.split()
    if name == "diverged":
        assert "not finite leave gaps: jax full" in html
    if name == "many-classes":
        assert "taken for each other most often" in html and "Confusion matrix" not in html
    if name == "all-failed":
        assert "its last words:\ngone" in html


def test_the_worst_errors_say_how_they_are_sorted() -> None:
    """Their percentages do not fall in step with their losses."""
    said = "The largest loss first. The percentage: how probable the model held the class it chose."
    validation = row("torch", "cached")["validation"]
    for worst in (validation["worst"], []):
        html = report.page(content([row("torch", "cached", validation={**validation, "worst": worst})]))
        assert (said in Parsed(html).texts) == bool(worst)


def test_the_report_says_that_samples_are_weighted_and_groups_drawn_whole() -> None:
    """5 of 20 are wrong, and of their weight 40 %: without words one of both looks wrong."""
    plain, given = row("torch", "cached"), row("torch", "cached", 0.6)
    given["validation"]["weights"] = "AA"
    given["scores"] = {**given["scores"], "settings": {"groups": 30}, "values": {"accuracy": 0.6}}
    for entry, there in ((given, True), (plain, False)):
        text = " ".join(Parsed(report.page(content([entry]))).texts)
        assert ("of 20 wrong, 40.0% by weight" in text) == there
        assert ("They count samples by their weights; numbers of samples do not." in text) == there
        assert ("Scores of validation count samples by their weights." in text) == there
        assert ("by resampling the validation data, groups whole." in text) == there


def test_of_folds_the_share_of_samples_with_an_error_is_that_of_all() -> None:
    """The run is known by its mean micro F1, and has no `val_accuracy`."""
    labels = of_labels()
    (entry,) = labels["rows"][:1]
    entry["folds"] = {"score": "micro_f1", "values": [0.5, 0.5], "mean": 0.5, "interval": None, "sizes": [10, 10]}
    entry |= {
        "val_accuracy": None,
        "scores": {**entry["scores"], "task": "multi", "values": {"subset_accuracy": 0.7}},
    }
    page = " ".join(Parsed(report.page({**labels, "rows": [entry]})).texts)
    assert "6 of 20 with a label missing or too many" in page


def drawn(html: str) -> Any:
    return json.loads(next(text for text in Parsed(html).scripts if '"figures"' in text))


@pytest.mark.parametrize(
    ("given", "score", "points", "said"),
    [
        (
            of_labels,
            "micro_f1",
            [[None, 0.25], [None, 0.5]],
            [
                "80 training and 20 validation samples with 2 labels.",
                f"Take torch cached: micro F1 62.5{SPACE}%",
                "val micro F1",
                "50.0 to 62.5",
                "\N{MINUS SIGN}12.5, within noise",
                "the difference in micro F1, in points of a percentage",
                "Loss and micro F1",
                "Micro F1 per epoch",
                "5 of 20 with a label missing or too many",
                "Scores by label",
                "'red' and 'blue' predicted nothing, loss 1.25",
            ],
        ),
        (
            of_numbers,
            "mae",
            [[None, 50.0], [None, 21.0]],
            [
                "80 training and 20 validation samples with 1 target.",
                "Take torch cached: mean absolute error 12.5",
                "val MAE",
                "10 to 1,234",
                "+8.5, within noise",
                "the difference in mean absolute error, in its units, less is better",
                "Loss and mean absolute error",
                "Mean absolute error over time",
                "Scores by target",
                "20.25",
                "'red' predicted 'blue', off 1.25",
            ],
        ),
    ],
    ids=["multi", "regression"],
)
def test_a_page_of_another_task(
    given: Callable[[], dict[str, Any]], score: str, points: list[list[float | None]], said: list[str]
) -> None:
    html = report.page(given())
    text = re.sub(r"[ \n]+", " ", "".join(Parsed(html).texts))
    for words in said:
        assert words in text, words
    assert "ccuracy" not in text.replace("subset accuracy", "") and "taken for" not in text
    assert "Confusion" not in text and "class" not in text
    assert text.index("torch cached") < text.index("torch full")
    made = drawn(html)
    assert {name.split()[0] for name in made["figures"]} == {"loss", score, "break-even"}
    assert [[point[4], point[6]] for point in made["runs"][0]["points"]] == points


def test_a_column_without_a_value_is_left_out_and_not_explained() -> None:
    """The page of one run: there is no other to compare it with."""
    unknown = dict.fromkeys(("cut", "against_best", "speedup_over_frozen", "validation"))
    alone = row("jax", "cached", **unknown)
    model = {"name": "lenet", "weights": "tinyimagenet"}
    texts = Parsed(report.page(content([alone], model=model))).texts
    assert "cut" not in texts and "against the best" not in texts and "speed-up" not in texts
    assert figures.NONE not in texts
    note = next(text for text in texts if text.startswith("95 %: "))
    assert "pays off: " in note and "speed-up" not in note
    assert "once. " in note, "no star stands in the table"
    texts = Parsed(report.page(content([alone, {**alone, "extracted": 0, "reused": 8}], model=model))).texts
    assert "once; * to find it full already" in next(text for text in texts if text.startswith("95 %: "))
    assert "data: waiting for samples. head: what is trained, with its validation. " in texts, "no trunk ran"


def test_runs_of_several_tasks_are_drawn_apart() -> None:
    """Neither is better than the other."""
    html = report.page(content([row("torch", "full"), of_numbers()["rows"][1]]))
    text = " ".join(Parsed(html).texts)
    assert "val score" in text and not any("aria-sort" in attributes for _, attributes in Parsed(html).elements)
    assert "No run is the best" in text and "Take" not in text
    made = drawn(html)
    assert [run["score"] for run in made["runs"]] == ["accuracy", "mae"]
    assert {name.split()[0] for name in made["figures"]} == {"loss", "accuracy", "mae", "break-even"}


def test_intervals_noise_and_classes_are_shown() -> None:
    noise, best, before = row("torch", "cached"), row("torch", "full"), row("torch", "frozen")
    best["against_best"] = None
    del before["scores"], before["against_best"]
    worse = row("torch", "scratch", against_best={"best": "torch full", "difference": -0.3, "noise": False})
    texts = Parsed(report.page(content([noise, best, before, worse]))).texts
    text = " ".join(texts)
    assert texts.count("65.0 to 95.0") == 3
    assert texts.count("\N{MINUS SIGN}5.0, within noise") == 1 and texts.count("\N{MINUS SIGN}30.0") == 1
    assert "torch full, torch frozen and torch scratch have the same." in text
    noise["against_best"]["weighted"] = True
    weighted = Parsed(report.page(content([noise, best]))).texts
    assert "\N{MINUS SIGN}5.0, weighted, within noise" in weighted
    assert texts.count("Scores by class") == texts.count("Scores") == 3
    assert texts.count("85.0%") == 3 and texts.count("65.0% to 95.0%") == 3 and "F1, macro" in texts
    assert "94.7%" in texts and "75.0%" in texts


def test_scores_of_test_data_stand_beside_those_of_validation() -> None:
    test = {"scores": {"values": {"accuracy": 0.625}, "intervals": {"accuracy": [0.5, 0.75]}}}
    tested = scores_card(row("torch", "full", test=test))
    assert tested == {
        "columns": ["validation", "95 %", "test", "95 %"],
        "lines": [
            {"name": "accuracy", "texts": ["85.0%", "65.0% to 95.0%", "62.5%", "50.0% to 75.0%"]},
            {"name": "F1, macro", "texts": ["50.0%", "", "–", ""]},
        ],
    }
    assert "62.5%" in Parsed(report.page(content([row("torch", "full", test=test)]))).texts
    plain = row("torch", "full")
    plain["scores"]["intervals"] = {}
    assert scores_card(plain) == {
        "columns": ["validation"],
        "lines": [{"name": "accuracy", "texts": ["85.0%"]}, {"name": "F1, macro", "texts": ["50.0%"]}],
    }
    assert scores_card(row("torch", "full", scores=None)) is None


def test_of_folds_it_is_said_which_figure_is_the_mean_and_which_is_of_all_together() -> None:
    folds = {"score": "accuracy", "mean": 0.75, "interval": [0.5, 1.0], "values": [0.5, 1.0]}
    crossed = row("torch", "cached", folds=folds)
    assert scores_card(crossed)["columns"][0] == "all folds together"
    alone, mixed = runs_table([crossed]), runs_table([crossed, row("jax", "cached")])
    assert [column["name"] for column in alone["columns"]][4:5] == ["accuracy, mean of 2 folds"]
    assert "by Student's t over the folds, whose mean the score is." in alone["note"]
    assert [column["name"] for column in mixed["columns"]][4:5] == ["val accuracy"]
    assert "by resampling the validation data; of folds, whose mean the score is, by Student's t" in mixed["note"]


def test_rows_whose_kernels_are_the_same_share_a_card() -> None:
    one = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    same, changed = pictures.kernels("conv1", one, one), pictures.kernels("conv1", one, one + 0.5)
    rows = [row("torch", "frozen", kernels=same), row("torch", "full", kernels=changed)]
    rows.append(row("torch", "cached", kernels=same))
    html = report.page(content(rows))
    assert "<h3>torch frozen, torch cached</h3>" in html
    assert "max |difference| exactly 0: frozen" in html and "max |difference| 0.5<" in html


def test_a_fact_that_is_true_or_false_is_no_number() -> None:
    texts = Parsed(
        report.page(content(data={"name": "x", "named_classes": True, "classes": ["a"], "train": 9}))
    ).texts
    assert "yes" in texts and "not finite" not in texts


def test_the_command_is_what_one_types() -> None:
    assert "headstart compare --data &#39;my photos&#39;" in report.page(content())
    module = content(command=["/x/headstart/__main__.py", "fit", "a&b"])
    assert "python -m headstart fit &#39;a&amp;b&#39;" in report.page(module)
    assert 'class="command"' not in report.page(content(command=["-c"])), "nothing was typed that could be again"


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize(("measure", "label"), [("loss", "loss"), ("accuracy", 'the "share" that is right')])
def test_shipped_figures_are_what_bokeh_draws(measure: str, label: str, axis: str) -> None:
    if json.loads(SHIPPED.read_text("utf-8"))["bokeh"] != version("bokeh"):
        pytest.skip("the shipped figures are of another Bokeh: python -m headstart.report.curves writes them anew")
    assert curves(measure, label, axis) == plots.curves(measure, label, axis)


def test_figures_of_another_bokeh_are_drawn(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr("headstart.report.curves.version", lambda name: "3.9.0")
    request.addfinalizer(_shipped.cache_clear)
    _shipped.cache_clear()
    assert curves("loss", "loss", "epoch") is plots.curves("loss", "loss", "epoch")


def test_the_script_is_that_of_bokeh_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    as_it_lies = bokeh_script.__wrapped__()
    monkeypatch.setattr("headstart.report.curves.find_spec", lambda name: None)
    told = re.sub(r"/\* (BEGIN|END) bokeh.min.js \*/", "", bokeh_script.__wrapped__())
    assert as_it_lies.split() == told.split()
