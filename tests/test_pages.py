"""What is written for users and contributors is true of what is there: links lead somewhere, Python uses public
names, commands have the options that they are shown with, and what recipes name exists."""

from __future__ import annotations

import ast
import configparser
import re
import shlex
from collections.abc import Iterator
from functools import cache, reduce
from inspect import Parameter, signature
from pathlib import Path
from urllib.parse import unquote

import pytest
from commands import headstart

import headstart as hs
from headstart.cli.app import FAMILIES

pytestmark = pytest.mark.neutral

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
README_LINES = 200
HOW_LINES = 80
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
OPTION = re.compile(r"--[a-z][a-z0-9-]*")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of a page's blocks of code; "" for one that is indented."""
    language: str | None = None
    lines: list[str] = []
    for line in [*page.read_text().splitlines(), ""]:
        if line.startswith("```"):
            if language is None:
                language, lines = line.removeprefix("```").strip(), []
            else:
                yield language, "\n".join(lines)
                language, lines = None, []
        elif language is not None:
            lines.append(line)
        elif line.startswith("    "):
            yield "", line.strip()


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """Of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_first_page_is_short_and_leads_to_all_others() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= README_LINES
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in LINK.findall(prose(readme))}
    assert [named(page) for page in ROOT.glob("docs/**/*.md") if page.resolve() not in linked] == []


def test_a_page_a_question_is_short_and_ends_with_where_to_read_on() -> None:
    pages = {named(page): page.read_text() for page in ROOT.glob("docs/how/*.md")}
    assert len(pages) >= 11
    assert [name for name, text in pages.items() if len(text.splitlines()) > HOW_LINES] == []
    assert [name for name, text in pages.items() if "\n## What goes wrong\n" not in text] == []
    assert [name for name, text in pages.items() if "\nRead on: " not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in LINK.findall(prose(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


def chain(node: ast.expr) -> list[str] | None:
    """`hs.data.folder` as its names; None for what is none."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [*reversed(names)] if isinstance(node, ast.Name) and node.id == "hs" else None


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_is_python_and_its_names_are_public(page: Path) -> None:
    unknown = []
    for language, text in blocks(page):
        if language not in ("python", "py"):
            continue
        for node in ast.walk(ast.parse(text, named(page))):
            if isinstance(node, ast.Attribute) and (names := chain(node)):
                if names[0] not in hs.__all__:
                    unknown.append(names[0])
                    continue
                value = hs
                for name in names:
                    if not hasattr(value, name):
                        unknown.append(".".join(names))
                        break
                    value = getattr(value, name)
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_functions_have_the_arguments_that_they_are_shown_with(page: Path) -> None:
    unknown = []
    for language, text in blocks(page):
        for node in ast.walk(ast.parse(text if language in ("python", "py") else "", named(page))):
            if isinstance(node, ast.Call) and (names := chain(node.func)):
                parameters = signature(reduce(getattr, names, hs)).parameters
                if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
                    continue
                unknown += [
                    f"{'.'.join(names)}({keyword.arg}=)"
                    for keyword in node.keywords
                    if keyword.arg is not None and keyword.arg not in parameters
                ]
    assert unknown == []


@cache
def help_of(words: tuple[str, ...]) -> str:
    """ "" where there is no such command."""
    said = headstart(*words, "--help")
    return said.out if said.code == 0 else ""


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each `headstart ...` that a page shows, in its sentences too."""
    for code in CODE.findall(prose(page).replace("\n", " ")):
        if match := re.fullmatch(r"headstart +(?=[a-z-])(.*)", code):
            yield [word for word in shlex.split(match[1]) if word != "..."]
    for language, text in blocks(page):
        if language not in ("", "bash", "sh", "shell", "console"):
            continue
        for line in text.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|(?!\|)|;", line.partition(" #")[0]):
                if match := re.search(r"(?:^|\s)headstart +(?=[a-z-])(.*)", part):
                    yield shlex.split(match[1])


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_have_the_options_that_they_are_shown_with(page: Path) -> None:
    wrong = []
    for words in commands(page):
        plain = [word for word in words if not word.startswith("-")]
        text = help_of(tuple(plain[:2])) if plain and plain[0] in FAMILIES else ""
        text = text or help_of(tuple(plain[:1]))
        options = [option for word in words if (option := OPTION.match(word))]
        wrong += [words[0]] if not text else []
        wrong += [
            f"{' '.join(plain[:2])} {o[0]}"
            for o in options
            if text and o[0] != "--help" and not re.search(rf"{o[0]}\b", text)
        ]
    assert wrong == []


def test_what_the_recipes_name_is_there() -> None:
    """Files, and names in them where a recipe says which."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    paths = [
        code for code in CODE.findall(text) if re.fullmatch(r"\.?[\w/.]+/[\w.]*", code) and "NAME" not in code
    ]
    assert len(paths) > 20
    assert [code for code in paths if not (ROOT / code).exists()] == []
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
