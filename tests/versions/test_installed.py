"""`tox -e versions`: an environment that is said to have the oldest versions has them, so what passes beside this
test passes with them."""

from __future__ import annotations

import os
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
LIFTED = {"jax": {"numpy", "ml_dtypes", "scipy"}, "torch": {"ml_dtypes"}}
"""what the oldest release of a framework, or its exporter, wants newer than headstart does"""


@pytest.mark.skipif(os.environ.get("HEADSTART_VERSIONS") != "oldest", reason="any versions may be installed here")
def test_each_requirement_is_at_its_lowest(backend: str) -> None:
    requirements = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][backend]]
    newer = {}
    for requirement in map(Requirement, requirements):
        (floor,) = (Version(part.version).release for part in requirement.specifier)
        # a floor of two numbers is a series: not each has a release that ends in 0
        if Version(version(requirement.name)).release[: len(floor)] != floor:
            newer[requirement.name] = version(requirement.name)
    lifted = LIFTED.get(backend, set())
    assert newer.keys() <= lifted, (
        f"newer than the oldest that pyproject.toml allows: {newer}; tox needs tox-uv here"
    )
    assert lifted <= newer.keys(), f"no longer lifted: {lifted - newer.keys()}"
