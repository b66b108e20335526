"""What the pages at the top of the tree name is there: files that links lead to, and those of the recipes."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.neutral
ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
ANCHORS = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As forges make them of a page's headings."""
    headings = ANCHORS.findall(page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_pages_are_there() -> None:
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"} <= {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text("utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_what_the_recipes_name_is_there() -> None:
    """Files, and names in them where a recipe says which."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = [
        code for code in CODE.findall(text) if re.fullmatch(r"\.?[\w/.]+/[\w.]*", code) and "NAME" not in code
    ]
    assert len(named) > 20
    assert [code for code in named if not (ROOT / code).exists()] == []
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in tests] == []


def test_the_environments_that_contributors_are_told_of_are_there() -> None:
    tox = configparser.RawConfigParser()
    tox.read(ROOT / "tox.ini")
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    lists = [part for section in tox.sections() for part in section.removeprefix("testenv:").split(", ")]
    known = {*lists, *(name.strip() for name in tox["tox"]["env_list"].split(",")), "keras-jax", "keras-torch"}
    rows = re.findall(r"^\| .+? \| (.+?) \|$", text, re.MULTILINE)[1:]
    told = {
        name
        for row in rows
        for code in CODE.findall(row)
        for name in code.removeprefix("tox -e ").split(",")
        if re.fullmatch(r"[a-z-]+", name)
    }
    assert {"torch", "parity", "release", "versions"} <= told <= known


def test_the_citation_has_the_licence_of_the_package() -> None:
    licence = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    assert f"\nlicense: {licence}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
