"""The report in a browser, where there is one: no error on the console, lines that hide by a click, a table that
sorts, a phone, paper, a notebook."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser
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
from headstart.common.text import plain_text, share_text
from headstart.report.looks import looks

pytestmark = pytest.mark.neutral


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def saved(given: dict[str, Any], folder: Path) -> Path:
    path = folder / "report.html"
    path.write_text(report.page(given), "utf-8")
    return path


# The numbers of the rows that each of the four curves shows: lines of training, of validation, and markers.
SHOWN = """const kept = (r) => r.data_source.data.row.filter((_, i) => r.view.filter.booleans[i]);
const rows = (r) => [...new Set(kept(r))].sort();
const plots = Bokeh.documents.map((d) => d.roots()[0]).filter((plot) => / (epoch|seconds)$/.test(plot.name));
return plots.map((plot) => plot.renderers.map(rows))"""
# How many pixels of each of the four curves have about this colour.
PIXELS = """const [r, g, b] = arguments[0];
const count = (root) => Array.from(root.querySelectorAll("*")).reduce((sum, e) => {
  if (e.shadowRoot) sum += count(e.shadowRoot);
  if (e.tagName === "CANVAS") {
    const d = e.getContext("2d").getImageData(0, 0, e.width, e.height).data;
    for (let i = 0; i < d.length; i += 4) {
      sum += d[i + 3] > 200 && Math.abs(d[i] - r) + Math.abs(d[i + 1] - g) + Math.abs(d[i + 2] - b) < 12;
    }
  }
  return sum;
}, 0);
return Array.from(document.querySelectorAll(".pairs .plot")).map(count)"""


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_a_click_in_the_legend_hides_a_run_in_all_four_figures(chromium: Browser, tmp_path: Path) -> None:
    rows = [
        row("torch", "full", 0.9),
        row("torch", "frozen", 0.8),
        row("jax", "full", 0.7),
        row("jax", "staged", 0.6),
    ]
    given = content(rows)
    for one in rows[1]["history"]:  # not where another run is
        one.update(loss=0.9, val_loss=0.95, accuracy=0.5, val_accuracy=0.4)
    chromium.open(saved(given, tmp_path))

    def shown() -> list[int]:
        """The rows in every line, marker and ring of all four figures."""
        (rows,) = {tuple(rows) for figure in chromium.run(SHOWN) for rows in figure}
        return list(rows)

    assert chromium.run("return performance.getEntriesByType('resource').length") == 0
    assert chromium.run("return document.title") == "headstart on things"
    assert [len(figure) for figure in chromium.run(SHOWN)] == [4, 4, 5, 5]  # scores have intervals
    assert shown() == [0, 1, 2, 3]
    colour = [int(looks(rows)[1].colour[i : i + 2], 16) for i in (1, 3, 5)]
    assert min(chromium.run(PIXELS, colour)) > 50
    key = chromium.find(".key[data-row='1']")
    key.click()
    chromium.wait("true")
    assert shown() == [0, 2, 3]
    assert chromium.run(PIXELS, colour) == [0] * 4
    assert key.get_attribute("aria-pressed") == "false"
    key.click()
    chromium.wait("true")
    assert shown() == [0, 1, 2, 3]
    assert min(chromium.run(PIXELS, colour)) > 50
    backend = chromium.find(".legend .group")
    backend.click()
    assert shown() == [2, 3]
    backend.click()
    assert shown() == [0, 1, 2, 3]
    assert [line for line in chromium.console() if "willReadFrequently" not in line] == []  # what PIXELS does


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_the_table_sorts_by_click_and_by_keyboard(chromium: Browser, tmp_path: Path) -> None:
    # As texts, 100 would come before 9; what is missing comes last either way.
    rows = [row("torch", "full", 0.8, total_seconds=9.0), row("torch", "cached", 0.9, total_seconds=None)]
    rows.append(row("torch", "staged", None, total_seconds=100.0))
    chromium.open(saved(content(rows), tmp_path))

    def order() -> list[str]:
        found: list[str] = chromium.run(
            "return Array.from(document.querySelectorAll('#runs tbody th'), (e) => e.textContent)"
        )
        return [label.removeprefix("torch ") for label in found]

    def sorted_by() -> dict[str, str]:
        found: dict[str, str] = chromium.run(
            "return Object.fromEntries(Array.from(document.querySelectorAll('#runs [aria-sort]'),"
            " (e) => [e.textContent, e.getAttribute('aria-sort')]))"
        )
        return found

    assert (order(), sorted_by()) == (["cached", "full", "staged"], {"val accuracy": "descending"})
    total = chromium.find("#runs th:nth-child(12) button")
    total.click()
    assert (order(), sorted_by()) == (["staged", "full", "cached"], {"total, s": "descending"})
    total.click()
    assert (order(), sorted_by()) == (["full", "staged", "cached"], {"total, s": "ascending"})
    mode = chromium.find("#runs th:nth-child(3) button")
    mode.send_keys("\ue007")  # Enter
    assert (order(), sorted_by()) == (["cached", "full", "staged"], {"mode": "ascending"})
    mode.send_keys(" ")
    assert (order(), sorted_by()) == (["staged", "full", "cached"], {"mode": "descending"})


# Where the rings of the plot of this name are, and what is said of the points in them.
RINGS = """const plot = Bokeh.documents.map((d) => d.roots()[0]).find((plot) => plot.name === arguments[0]);
const of = (name) => plot.renderers.find((r) => r.name === name).data_source.data;
const [rings, points] = [of("kept"), of("points")];
return Array.from(rings.x, (x, i) => [rings.row[i], x, rings.y[i], points.when.find(
  (_, k) => points.row[k] === rings.row[i] && points.x[k] === x && points.y[k] === rings.y[i])])"""


# Of the plot of this name: the class of its scale, where the last run's points are, its axis, its intervals.
OF_TIME = """const plot = Bokeh.documents.map((d) => d.roots()[0]).find((plot) => plot.name === arguments[0]);
const of = (name) => plot.renderers.find((r) => r.name === name)?.data_source.data;
return [plot.x_scale.type, Array.from(of("validation").xs.at(-1)), [plot.x_range.start, plot.x_range.end],
  of("interval") && of("interval").row.map((row, i) => [row, of("interval").low[i], of("interval").high[i]])]"""
DRAWN = "Bokeh.documents.length === 5 && Bokeh.documents.every((d) => d.roots().length === 1 && d.is_idle)"


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_the_axis_of_time_is_chosen_by_keyboard(chromium: Browser, tmp_path: Path) -> None:
    """Of a run whose extraction takes 3 s and whose epochs take a hundredth, beside one of 2 s an epoch."""
    chromium.open(saved(content([row("torch", "full"), row("torch", "cached")]), tmp_path))
    score, scale = [0, 65, 95], "LinearScale"
    kind, xs, (low, high), intervals = chromium.run(OF_TIME, "accuracy seconds")
    assert intervals == [score, [1, *score[1:]]], "of the epochs that were kept"
    assert kind == "LogScale" and xs == pytest.approx([3.01, 3.02, 3.03]) and 1.5 < low < 2 and 6 < high < 7
    assert chromium.run(OF_TIME, "loss seconds")[3] is None
    chosen = chromium.find(".axis input[value=log]")
    chosen.send_keys("\ue012")  # the arrow to the left: the other of the group
    chromium.wait(DRAWN)
    kind, xs, (low, high), intervals = chromium.run(OF_TIME, "accuracy seconds")
    assert kind == scale and xs == pytest.approx([3.01, 3.02, 3.03]) and low < 0 and high > 6
    assert len(intervals) == 2
    chromium.find(".axis input[value=linear]").send_keys("\ue014")  # to the right
    chromium.wait(DRAWN)
    chromium.find("#counted").send_keys(" ")
    chromium.wait(DRAWN)
    _, xs, (low, _), _ = chromium.run(OF_TIME, "loss seconds")
    assert xs == pytest.approx([0.01, 0.02, 0.03]) and 0.005 < low < 0.01
    assert chromium.run(RINGS, "loss epoch")[1][3] == f"epoch 2, kept, 0.02{SPACE}s", "as the axis counts"
    # what was hidden before stays hidden in the figure that takes the place of another
    chromium.find(".key[data-row='1']").click()
    chromium.find(".axis input[value=log]").send_keys("\ue012")  # the arrow to the left
    chromium.wait(DRAWN)
    assert {tuple(rows) for figure in chromium.run(SHOWN) for rows in figure} == {(0,)}
    assert chromium.run(OF_TIME, "loss seconds")[0] == scale
    assert chromium.console() == []


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_epochs_of_a_hundredth_after_hours_of_extraction_are_told_apart(chromium: Browser, tmp_path: Path) -> None:
    slow = row("torch", "cached", extraction_seconds=12345.678)
    slow["total_seconds"] = 12346.0
    chromium.open(saved(content([slow]), tmp_path))
    assert chromium.run(OF_TIME, "loss seconds")[1] == pytest.approx([0.01, 0.02, 0.03], rel=1e-4)
    chromium.find("#counted").send_keys(" ")
    chromium.wait(DRAWN)
    chromium.find(".axis input[value=linear]").send_keys("\ue014")  # to the right: logarithmic
    chromium.wait(DRAWN)
    assert chromium.run(OF_TIME, "loss seconds")[1] == pytest.approx([12345.688, 12345.698, 12345.708], abs=1e-6)
    ticks = """const plot = Bokeh.documents.map((d) => d.roots()[0]).find((plot) => plot.name === "loss seconds");
        return [plot.x_scale.type, plot.below[0].ticker.ticks]"""
    kind, ticks = chromium.run(ticks)
    assert kind == "LogScale" and len(ticks) >= 2, "also where there is no round number of a decade"
    assert chromium.console() == []


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_the_epoch_that_was_kept_is_in_a_ring(chromium: Browser, tmp_path: Path) -> None:
    """Of each stage of a staged run, in all figures; of runs without validation data on the training's line."""
    chromium.open(saved(content([row("torch", "full"), row("torch", "staged")]), tmp_path))
    space = SPACE
    assert chromium.run(RINGS, "loss epoch") == [
        [0, 2, 0.6, f"epoch 2, kept, 4{space}s"],
        [1, 1, 2.1, f"epoch 1 (head alone), kept, 3.01{space}s"],
        [1, 4, 0.6, f"epoch 4, kept, 7.02{space}s"],
    ]
    assert [x for _, x, _, _ in chromium.run(RINGS, "accuracy seconds")] == pytest.approx([4, 3.01, 7.02])
    assert "the epoch that was kept" in chromium.find("#legend .mark").text
    chromium.open(saved(GAPS["no-validation"](), tmp_path))
    assert [ring[2] for ring in chromium.run(RINGS, "loss epoch")] == [0.5], "of three epochs, not of one"
    unmarked = [row("torch", "full", best_epoch=None)]
    chromium.open(saved(content(unmarked), tmp_path))
    assert chromium.run(RINGS, "loss epoch") == []
    assert chromium.run("return document.querySelectorAll('#legend .mark').length") == 0
    assert chromium.console() == []


# What reaches beyond the right edge, but for what scrolls in a box of its own.
BEYOND = """return Array.from(document.querySelectorAll("main *")).filter((e) => e.checkVisibility()
  && e.closest(matchMedia("print").matches ? ".none-of-them" : ".scroll, .legend") === null
  && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"""
WIDTHS = "return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_a_full_page_fits_phone_screen_and_paper(chromium: Browser, tmp_path: Path) -> None:
    given = deepcopy(full_size())
    given["rows"][0]["label"] = "an_unusually_long_name_of_a_run_" * 4
    chromium.open(saved(given, tmp_path), width=390, height=844)
    assert chromium.run(WIDTHS) == [390] * 3
    assert chromium.run(BEYOND) == []
    tops = "return Array.from(document.querySelectorAll('.pairs figure'), (e) => e.getBoundingClientRect().top)"
    assert len(set(chromium.run(tops))) == 4
    chromium.resize(1280, 900)
    chromium.wait("document.querySelector('.plot').getBoundingClientRect().width > 500")
    assert chromium.run(WIDTHS) == [1280] * 3
    assert chromium.run(BEYOND) == []
    assert len(set(chromium.run(tops))) == 2
    printed = chromium.pdf()
    assert printed.startswith(b"%PDF") and printed.rstrip().endswith(b"%%EOF")
    boxes = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)\]", printed)
    assert boxes and all((round(float(w)), round(float(h))) == (595, 842) for w, h in boxes)
    # What is printed is as wide as the paper's inside at most.
    chromium.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    chromium.resize(688, 900)
    try:
        assert chromium.run(BEYOND) == []
    finally:
        chromium.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert chromium.console() == []


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_figures_are_printed_as_copies(chromium: Browser, tmp_path: Path) -> None:
    chromium.open(saved(content(), tmp_path))
    copies = (
        "return Array.from(document.querySelectorAll('canvas.printed'), (e) => [e.width > 200, e.height > 200])"
    )
    chromium.run("dispatchEvent(new Event('beforeprint'))")
    assert chromium.run(copies) == [[True, True]] * 5
    blank = "return Array.from(document.querySelectorAll('canvas.printed'), (e) => e.getContext('2d')"
    filled = f"{blank}.getImageData(0, 0, e.width, e.height).data.some((value) => value > 0))"
    assert chromium.run(filled) == [True] * 5
    chromium.run("dispatchEvent(new Event('afterprint'))")
    assert chromium.run(copies) == []


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_hostile_texts_do_nothing(chromium: Browser, tmp_path: Path) -> None:
    chromium.open(saved(hostile(), tmp_path))
    assert chromium.run("return [typeof hacked, performance.getEntriesByType('resource').length]") == [
        "undefined",
        0,
    ]
    assert "$$x^2$$" in chromium.run("return document.title")
    assert chromium.console() == []


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_in_a_notebook_every_frame_works_and_is_as_high_as_its_page(chromium: Browser, tmp_path: Path) -> None:
    contents = [GAPS[name]() for name in ("one-epoch", "no-validation", "diverged", "all-failed", "no-epochs")]
    pages = [report.page(given) for given in contents]
    cells = tmp_path / "notebook.html"
    cells.write_text(f"<!doctype html><meta charset=utf-8><body>{''.join(map(report.frame, pages))}", "utf-8")
    elements = Parsed(cells.read_text("utf-8")).elements
    assert [attributes["srcdoc"] for tag, attributes in elements if tag == "iframe"] == pages
    chromium.resize(900, 700)
    chromium.driver.get(cells.as_uri())
    chromium.wait(
        """Array.from(document.querySelectorAll("iframe")).every((frame) => {
          const page = frame.contentDocument?.documentElement;
          const differs = () => Math.abs(page.getBoundingClientRect().height - frame.clientHeight);
          return page?.dataset.ready === "yes" && differs() < 2;
        })"""
    )
    found = chromium.run(
        """return Array.from(document.querySelectorAll("iframe"), ({ contentDocument: page, clientHeight }) =>
          [page.querySelectorAll(".pairs .plot canvas, .pairs .plot > div").length, clientHeight > 640])"""
    )
    assert found == [[4 if any(row["history"] for row in given["rows"]) else 0, True] for given in contents]
    assert chromium.console() == []


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_pages_of_other_tasks_work(chromium: Browser, tmp_path: Path) -> None:
    """Curves of the score, the least error first, and what hovering says; nothing reaches beyond a phone."""
    tooltips = """const plot = Bokeh.documents.map((d) => d.roots()[0]).find((plot) => plot.name === arguments[0]);
    const { data } = plot.renderers.find((r) => r.name === "points").data_source;
    return [data.y, data.validation[1], data.training[1], plot.y_range.start]"""
    chromium.open(saved(of_labels(), tmp_path), width=390, height=844)
    assert (chromium.run(WIDTHS), chromium.run(BEYOND)) == ([390] * 3, [])
    f1, validation, training, low = chromium.run(tooltips, "micro_f1 epoch")
    assert f1 == [25, 50, 75, 62.5] and low > 0
    assert (validation, training) == (f"loss 0.6000, micro F1 50.0{SPACE}%", "loss 0.5000")
    assert chromium.console() == []
    chromium.open(saved(of_numbers(), tmp_path), width=390, height=844)
    assert (chromium.run(WIDTHS), chromium.run(BEYOND)) == ([390] * 3, [])
    errors, validation, training, low = chromium.run(tooltips, "mae epoch")
    assert (errors, low) == ([50, 21, 40, 12.5], 0)
    assert (validation, training) == ("loss 0.6000, mean absolute error 21", "loss 0.5000")
    score = chromium.find("#runs th:nth-child(5) button")
    assert chromium.run("return arguments[0].closest('th').getAttribute('aria-sort')", score) == "ascending"
    score.click()
    first = "return document.querySelector('#runs tbody th').textContent"
    assert chromium.run(first) == "torch full"
    assert chromium.console() == []
    chromium.open(saved(content([row("torch", "full"), of_numbers()["rows"][1]]), tmp_path))
    assert chromium.run(tooltips, "mae seconds")[0] == [40, 12.5]
    assert len(chromium.run(tooltips, "loss seconds")[0]) == 5
    assert chromium.console() == []


@pytest.mark.of("torch")  # a browser knows no framework: once is enough
def test_what_hovering_says_is_what_tables_say(chromium: Browser, tmp_path: Path) -> None:
    """What is nearly 0 or 1 is neither there."""
    given = content([row("torch", "full")])
    values = [0.99998, 0.9999999, 1.0, 0.99994, 1.00002, 0.000032, 0.0]
    [one] = given["rows"]
    one["history"] = [{**one["history"][0], "epoch": k, "loss": x, "val_loss": x} for k, x in enumerate(values, 1)]
    one["history"][0] |= {"accuracy": 0.99998, "val_accuracy": 0.00002}
    chromium.open(saved(given, tmp_path))
    said = chromium.run(
        """const plot = Bokeh.documents.map((d) => d.roots()[0]).find((plot) => plot.name === "loss epoch");
        const { data } = plot.renderers.find((r) => r.name === "points").data_source;
        return [Array.from(data.validation), data.training[0]]"""
    )
    texts = [text.split(",")[0].removeprefix("loss ") for text in said[0]]
    assert list(map(float, texts)) == [float(plain_text(value)) for value in values], texts
    assert (
        texts[:5]
        == [plain_text(value) for value in values[:5]]
        == ["0.99998", "0.9999999", "1.0000", "0.9999", "1.0000"]
    )
    assert said[0][0].endswith(f"accuracy {share_text(0.00002, '')}{SPACE}%"), said[0][0]
