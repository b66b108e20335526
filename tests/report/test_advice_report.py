"""The page of advice: what it holds, that nothing in it is markup from elsewhere, and how it behaves in a
browser."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
from browser import browser
from report_pages import advice as content

from headstart.report.advice import advice_page

pytestmark = pytest.mark.neutral

HOSTILE = "</script><b onclick=x>{{7*7}}"


OVER = """const point = document.querySelector('[data-point="4"]');
point.dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))"""


def test_it_says_everything_and_fetches_nothing() -> None:
    page = advice_page(content())
    for text in (
        "Train the classifier of things.",
        "headstart fit --data",
        "from a cut (layer3)",
        "10: 60.0%, 20: 70.0%",
    ):
        assert text in page
    assert "the likeliest of its own 1,000 classes 31% in the mean" in page
    assert page.count("<circle data-point") == 30 and "4 other classes" in page  # six have a colour of their own
    assert not re.search(r"(src|href)=\"?(https?:)?//", page)
    assert page.count('class="ring"') == 1 and page.count('<g class="over">') == 1
    without = advice_page(content() | {"map": None})
    assert "A map of the features" not in without


def test_better_is_higher_quicker_is_further_left_and_the_line_goes_through_the_front() -> None:
    page = advice_page(content())
    places = [(float(x), float(y)) for x, y in re.findall(r'transform="translate\(([\d.]+) ([\d.]+)\)"', page)]
    by = dict(zip(("staged", "full", "cut", "linear", "scratch"), places, strict=True))
    assert [name for name, _ in sorted(by.items(), key=lambda of: of[1][0])] == [
        "linear",
        "cut",
        "staged",
        "full",
        "scratch",
    ]
    assert [name for name, _ in sorted(by.items(), key=lambda of: of[1][1])] == [
        "staged",
        "full",
        "cut",
        "linear",
        "scratch",
    ]
    front = re.search(r'class="front" points="([^"]*)"', page)
    assert front is not None
    assert front[1] == " ".join(f"{x},{y}" for x, y in (by["linear"], by["cut"], by["staged"]))


def test_cuts_have_no_column_without_a_value() -> None:
    """Data of numbers have no silhouette."""
    of_classes = content()
    for trunk in of_classes["trunks"]:
        for cut in trunk["cuts"]:
            cut["silhouette"] = 0.25
    of_numbers = copy.deepcopy(of_classes)
    for trunk in of_numbers["trunks"]:
        for cut in trunk["cuts"]:
            cut["silhouette"] = None
    heading, beside = '<th scope="col">silhouette</th>', '<th scope="col">LogME</th>'
    assert heading in advice_page(of_classes) and beside in advice_page(of_classes)
    assert heading not in advice_page(of_numbers) and beside in advice_page(of_numbers)


def test_what_comes_from_data_is_text() -> None:
    page = advice_page(content(HOSTILE + "\u202e"))
    assert "\u202e" not in page and "\\u202e" in page  # a mark that turns the direction of writing
    assert HOSTILE not in page and "onclick=x>" not in page.replace("&lt;b onclick=x&gt;", "")
    assert page.count("<script") == 2


def test_errors_in_units_are_no_percentages() -> None:
    page = advice_page(content(score="mae"))
    assert "mean absolute error, less is better" in page and "0.9" in page
    assert "standardised" not in page
    page = advice_page(content(score="standardised_mae"))
    assert page.count("standardised mean absolute error, less is better") == 2  # figure and column


def test_ticks_tell_each_other_apart() -> None:
    """Also where scores are close to each other, or large."""
    for least, most, score, one in (0.9990, 0.9992, "accuracy", "99.910 %"), (23_450, 23_460, "mae", "23,452"):
        known = content(score=score)
        for k, row in enumerate(known["rows"]):
            row |= {"score": least + k * (most - least) / 10, "interval": [least, most]}
        ticks = re.findall(r'text-anchor="end">([^<]*)<', advice_page(known))
        assert len(set(ticks)) == len(ticks) > 3 and one in ticks, ticks


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_points_show_their_pictures(tmp_path: Path) -> None:
    path = tmp_path / "advice.html"
    path.write_text(advice_page(content()), "utf-8")
    with browser(tmp_path) as chromium:
        chromium.open(path, width=400)
        assert chromium.run("return document.documentElement.scrollWidth") == 400
        assert chromium.run("return performance.getEntriesByType('resource').length") == 0
        chromium.run(OVER)
        assert chromium.run("return document.getElementById('shown').innerText") == "things 4"
        chromium.find("#as-pictures").click()
        assert chromium.run("return document.querySelectorAll('#map image').length") == 29
        assert chromium.console() == []
