"""Pages for people who use a keyboard, a screen reader or another browser: axe-core finds nothing in any kind of
page, dark or light; every control is reached by the tabulator and shows it; Firefox does what Chromium does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser
from firefox import Firefox, firefox
from report_pages import GAPS, advice, content, of_labels, of_numbers, row

from headstart import report
from headstart.report.advice import advice_page

pytestmark = [pytest.mark.neutral, pytest.mark.of("torch")]  # a browser knows no framework: once is enough

BROWSERS = {"chromium": browser, "firefox": firefox}
STANDARDS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")
COLOURS = ("color-contrast", "link-in-text-block")
CONTROLS_AT_LEAST = {"modes": 40, "advice": 2}
"""pages with every kind of control, and how many controls they have more than"""
IN_FIREFOX = ("modes", "labels", "many-classes", "advice")
# An element of each violation, and what is wrong with it.
# Of what is right it need not say where: a fifth of its time.
AXE = """axe.run(document, { resultTypes: ["violations"], runOnly: arguments_ })
  .then(({ violations }) => violations.map(({ id, nodes }) =>
  `${id}: ${nodes[0].html.slice(0, 150)}: ${nodes[0].failureSummary}`))"""
# Rules of style at the end of the page's own, instead of those before.
STYLED = """document.querySelector("style.planted")?.remove();
const style = document.body.appendChild(document.createElement("style"));
style.className = "planted"; style.textContent = arguments[0]"""
TAB, LEFT, SPACE_BAR = "\ue004", "\ue012", " "


def of_shares() -> dict[str, Any]:
    """A confusion matrix with every share of right and wrong that has a colour of its own."""
    made = row("torch", "full")
    made["validation"]["confusion"] = [
        [t, p, 10 - t if t == p else t] for t in range(11) for p in {t, (t + 1) % 11}
    ]
    classes = [f"c{i}" for i in range(11)]
    return content([made], data={"name": "shares", "train": 80, "val": 110, "classes": classes, "skipped": []})


def of_folds() -> dict[str, Any]:
    figures = {"values": [0.5, 1.0], "losses": [1.0, 0.5], "best_epochs": [1, 2], "sizes": [10, 10]}
    folds = {"score": "accuracy", "mean": 0.75, "interval": [0.5, 1.0], **figures}
    return content([row("torch", "cached", folds=folds)])


PAGES: dict[str, Callable[[], str]] = {
    "modes": lambda: report.page(content()),
    "labels": lambda: report.page(of_labels()),
    "numbers": lambda: report.page(of_numbers()),
    "shares": lambda: report.page(of_shares()),
    "folds": lambda: report.page(of_folds()),
    **{
        name: lambda name=name: report.page(GAPS[name]())  # type: ignore[misc]
        for name in ("no-validation", "diverged", "all-failed", "many-classes")
    },
    "advice": lambda: advice_page(advice()),
}


@pytest.fixture(scope="module", params=BROWSERS)
def view(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser | Firefox]:
    with BROWSERS[request.param](tmp_path_factory.mktemp("browser")) as opened:  # type: ignore[operator]
        yield opened


def opened(view: Browser | Firefox, page: str, folder: Path, width: int = 1280) -> None:
    """With all that can be unfolded unfolded."""
    path = folder / "report.html"
    path.write_text(page, "utf-8")
    view.open(path, width=width)
    view.run("for (const details of document.querySelectorAll('details')) details.open = true")


def axe() -> str:
    """Axe-core's script, which a package for other drivers ships."""
    package = find_spec("axe_playwright_python")
    if package is None or not package.submodule_search_locations:
        pytest.skip("axe-playwright-python, which ships axe-core, is not installed")
    return Path(package.submodule_search_locations[0], "axe.min.js").read_text("utf-8")


def violations(view: Browser | Firefox) -> list[str]:
    """In the light, and in the dark where a browser can be told of it: of colours, as nothing else is another."""
    view.run(axe())
    found: list[str] = view.promised(AXE.replace("arguments_", str(list(STANDARDS))))
    if isinstance(view, Browser):
        view.theme("dark")
        found += view.promised(AXE.replace("arguments_", str(list(COLOURS))))
        view.theme("light")
    return found


# All that a click does something to, also in the figures' shadow trees; of radio buttons the one that is chosen.
CONTROLS = """const CONTROL = "button, summary, input:not([type=radio]:not(:checked)), [tabindex='0']";
const within = (root) => Array.from(root.querySelectorAll("*")).flatMap((e) => [
  ...(e.checkVisibility() && e.matches(CONTROL) ? [e] : []),
  ...(e.shadowRoot === null ? [] : within(e.shadowRoot))]);
window.controls = new Set(within(document)); return controls.size"""
# What has the focus: whether it is new, and how it shows it. None at the page's end.
FOCUSED = """let e = document.activeElement;
while (e?.shadowRoot?.activeElement) e = e.shadowRoot.activeElement;
if (e === null || e === document.body || e === document.documentElement) return null;
const style = getComputedStyle(e);
controls.delete(e);
return [style.outlineStyle, parseFloat(style.outlineWidth), style.outlineColor]"""
LINK = """const probe = document.body.appendChild(document.createElement("p"));
probe.style.color = "var(--link)"; const { color } = getComputedStyle(probe); probe.remove(); return color"""


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_and_keys_reach_everything(view: Browser | Firefox, name: str, tmp_path: Path) -> None:
    """On one page after the other, each of which is drawn once."""
    if isinstance(view, Firefox) and name not in IN_FIREFOX:
        pytest.skip("looked at in Chromium: another browser shows the same elements")
    opened(view, PAGES[name](), tmp_path)
    assert violations(view) == []
    if name in CONTROLS_AT_LEAST:
        check_every_control_is_reached_and_shows_it(view, CONTROLS_AT_LEAST[name])
    assert view.console() == []


def check_every_control_is_reached_and_shows_it(view: Browser | Firefox, least: int) -> None:
    """By the tabulator, from the page's beginning to its end."""
    count, link = view.run(CONTROLS), view.run(LINK)
    assert count > least
    if isinstance(view, Browser):
        view.press(TAB)
        view.theme("dark")
        assert view.run(FOCUSED) == ["solid", 2, view.run(LINK)] != ["solid", 2, link]
        view.theme("light")
    for _ in range(count + 5):
        view.press(TAB)
        shown = view.run(FOCUSED)
        if shown is None:
            break
        assert shown == ["solid", 2, link]
    assert view.run("return Array.from(controls, (e) => e.outerHTML.slice(0, 100))") == []


def test_axe_finds_nothing_on_a_phone_with_runs_hidden(view: Browser | Firefox, tmp_path: Path) -> None:
    opened(view, PAGES["modes"](), tmp_path, width=390)
    view.run("document.querySelector('.key').click(); document.querySelector('.axis input[value=linear]').click()")
    view.wait("document.querySelector('.key').getAttribute('aria-pressed') === 'false'")
    assert violations(view) == []


def test_axe_would_find_what_is_wrong(view: Browser | Firefox, tmp_path: Path) -> None:
    """In the light, and in the dark alone where a browser can be told of it."""
    opened(view, PAGES["no-validation"](), tmp_path)
    view.run(STYLED, ".note { color: #808080; opacity: 0.5 }")
    view.run("document.documentElement.removeAttribute('lang')")
    assert {found.partition(":")[0] for found in violations(view)} == {"color-contrast", "html-has-lang"}
    if isinstance(view, Browser):
        view.run("document.documentElement.lang = 'en'")
        view.run(STYLED, "@media (prefers-color-scheme: dark) { .note { color: #333 } }")
        assert {found.partition(":")[0] for found in violations(view)} == {"color-contrast"}


FIRST = "return document.querySelector('#runs tbody th').textContent"
FIGURES = """return Bokeh.documents.map((d) => d.roots()[0]).filter((plot) => plot.name.endsWith(" seconds"))
  .map((plot) => [plot.x_scale.type, plot.renderers.find((r) => r.name === "validation").view.filter.booleans])"""


def test_tables_legends_and_axes_work(view: Browser | Firefox, tmp_path: Path) -> None:
    rows = [row("torch", "full", 0.9), row("torch", "cached", 0.8)]
    opened(view, report.page(content(rows)), tmp_path)
    assert view.run("return performance.getEntriesByType('resource').length") == 0
    assert view.run(FIRST) == "torch full"
    assert view.run(FIGURES) == [["LogScale", [True, True]]] * 2
    view.run("document.querySelector('#runs th:nth-child(5) button').focus()")
    view.press(SPACE_BAR)
    assert view.run(FIRST) == "torch cached"
    view.run("document.querySelector('.key').focus()")
    view.press(SPACE_BAR)
    assert view.run(FIGURES) == [["LogScale", [False, True]]] * 2
    view.run("document.querySelector('.axis input[value=log]').focus()")
    view.press(LEFT)
    view.wait("Bokeh.documents.length === 5 && Bokeh.documents.every((d) => d.roots().length && d.is_idle)")
    assert view.run(FIGURES) == [["LinearScale", [False, True]]] * 2
    assert view.console() == []
