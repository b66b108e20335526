"""The drawing of the architecture shows what pyproject.toml's import contract allows, which the lint environment
holds the code to."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.neutral

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs/architecture.svg"
SVG = "{http://www.w3.org/2000/svg}"
WIDEST = 7.5
"""pixels of a letter of the drawing's font, in the mean of a line"""


@pytest.fixture(scope="module")
def architecture() -> ModuleType:
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs/architecture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def boxes(svg: str) -> dict[str, tuple[float, float, float, bool]]:
    """Each room's x, y and width, and whether backends may import it."""
    groups = {group.get("id"): group for group in ET.fromstring(svg).iter(f"{SVG}g")}
    found = {}
    for name, group in groups.items():
        box = group.find(f"{SVG}rect")
        assert name is not None and box is not None
        x, y, width = (float(box.get(side) or 0) for side in ("x", "y", "width"))
        found[name] = (x, y, width, box.get("class") == "known")
    return found


def test_the_drawing_is_what_its_program_makes_of_the_contract(architecture: ModuleType) -> None:
    made = architecture.drawing(architecture.contract())
    assert FILE.read_text("utf-8") == made, "python docs/architecture.py draws it again"


def test_it_shows_what_the_contract_says() -> None:
    """Read here in another way than by the program."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    found = boxes(FILE.read_text("utf-8"))
    _, column, _, _ = found.pop("backends")
    floors = next(each["layers"] for each in contracts if each["type"] == "layers")
    heights = [[found[room.strip()][1] for room in floor.split("|")] for floor in floors]
    assert all(len(set(floor)) == 1 for floor in heights), "side by side"
    assert sorted(floor[0] for floor in heights) == [floor[0] for floor in heights], "the highest is above"
    assert sum(map(len, heights)) == len(found) and len({floor[0] for floor in heights}) == len(floors)
    forbidden = next(each for each in contracts if each.get("source_modules") == ["headstart.backends"])
    kept_from = {module.removeprefix("headstart.") for module in forbidden["forbidden_modules"]}
    assert {room for room, (*_, known) in found.items() if not known} == kept_from
    assert column == min(y for _, y, _, known in found.values() if known)


def test_a_changed_contract_is_another_drawing(architecture: ModuleType, tmp_path: Path) -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    swapped = text.replace('    "data",\n    "graph",\n', '    "graph",\n    "data",\n')
    allowed = text.replace('"headstart.report", "headstart.store", "headstart.testing"', '"headstart.testing"')
    for changed in (swapped, allowed):
        assert changed != text
        (tmp_path / "pyproject.toml").write_text(changed, "utf-8")
        assert architecture.drawing(architecture.contract(tmp_path / "pyproject.toml")) != FILE.read_text("utf-8")


def test_words_stay_within_their_boxes_and_name_every_room(architecture: ModuleType) -> None:
    svg = FILE.read_text("utf-8")
    for name, (x, _, width, known) in boxes(svg).items():
        if name != "backends":
            line = f"{name} {architecture.WORDS[name]}{' backends' if known else ''}"
            assert 12 + WIDEST * len(line) < width, name
            assert x + width <= architecture.WIDTH
    assert architecture.WORDS.keys() == boxes(svg).keys() - {"backends"}


def test_the_page_describes_the_rooms_that_are_drawn() -> None:
    page = (ROOT / "docs/developing.md").read_text("utf-8")
    table = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    described = {
        name.removesuffix("/").removesuffix(".py") for cell in table for name in re.findall(r"`([^`]+)`", cell)
    }
    assert described == boxes(FILE.read_text("utf-8")).keys() - {"backends", "__main__"}
    assert "](architecture.svg)" in page
