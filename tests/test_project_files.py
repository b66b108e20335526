"""The files that forges and indexes read: CITATION.cff by the rules of its format, and what is said in several
files is the same in each."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.neutral
ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Of the schema of Citation File Format 1.2.0.
NEEDED = {"authors", "cff-version", "message", "title"}
ALLOWED = NEEDED | {
    "abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license", "license-url",
    "preferred-citation", "references", "repository", "repository-artifact", "repository-code", "type", "url",
    "version",
}  # fmt: skip
OF_A_PERSON = {"family-names", "given-names", "name-particle", "name-suffix", "alias"}
OF_ANYBODY = {
    "address",
    "affiliation",
    "city",
    "country",
    "email",
    "fax",
    "orcid",
    "post-code",
    "region",
    "tel",
    "website",
}
OF_AN_ENTITY = {"name", "date-end", "date-start", "location"}


def citation() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    return content


def test_the_citation_is_valid() -> None:
    cited = citation()
    assert cited.keys() >= NEEDED and cited.keys() <= ALLOWED
    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
    for name in ("message", "title", "abstract", "license"):
        assert isinstance(cited[name], str) and cited[name].strip(), name
    assert cited["keywords"] and all(isinstance(word, str) for word in cited["keywords"])
    assert len(set(cited["keywords"])) == len(cited["keywords"])
    for author in cited["authors"]:
        kind = OF_AN_ENTITY if "name" in author else OF_A_PERSON
        assert author and author.keys() <= kind | OF_ANYBODY
    assert "version" in cited or "date-released" not in cited


def test_what_is_said_twice_is_the_same() -> None:
    cited, urls = citation(), PROJECT.get("urls", {})
    assert cited["license"] == PROJECT["license"]
    assert cited["title"].partition(":")[0] == PROJECT["name"]
    assert {cited[name] for name in ("url", "repository-code") if name in cited} <= set(urls.values())
    assert bool(urls) == ("repository-code" in cited), "an address that one has, the other has as well"


def test_nobody_is_sent_to_an_address_that_is_none() -> None:
    """There is no public one yet: then none may be made up, and the way to report must do without."""
    stated = {*PROJECT.get("urls", {}).values(), *re.findall(r"https?://\S+", (ROOT / "CITATION.cff").read_text())}
    security = (ROOT / "SECURITY.md").read_text()
    reporting = security.partition("## Reporting")[2].partition("\n## ")[0]
    assert "headstart --version" in reporting and "not in a public issue" in reporting
    assert set(re.findall(r"https?://[^\s)]+|\S+@\S+", reporting)) <= stated
    assert not [url for url in stated if re.search(r"example\.|localhost|TODO", url)]
