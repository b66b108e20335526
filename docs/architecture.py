"""Draws `architecture.svg` from the import contract in pyproject.toml, which `tox -e lint` holds the code to: what
is drawn is what may be imported. A test holds the file to this program.

    python docs/architecture.py
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FILE = Path(__file__).with_name("architecture.svg")
WIDTH, LEFT, ROOM, FLOOR, GAP, TOP = 860, 64, 560, 40, 8, 16
"""the drawing's width, where rooms begin, how wide a floor is, how high, between floors, and above them"""
BACKENDS = LEFT + ROOM + 40
"""where the column of backends begins"""
PACKAGE = "headstart."

WORDS = {
    "__main__": "python -m headstart",
    "testing": "conformance suite",
    "errors": "what a user catches",
    "cli": "the command line",
    "training": "fit, sweep, advise, plan, compare, exports",
    "report": "the page of a comparison",
    "cache": "what headstart cache does",
    "features": "extraction, sets of features",
    "models": "the zoo, weights, wrapping, ONNX",
    "contract": "the protocols",
    "store": "keys, shards, upkeep",
    "data": "sources, decoding, splits",
    "graph": "ops, graphs, cuts, folding",
    "common": "errors, log, whole files, the machine",
}
"""what a room is, for every room of the contract"""

STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; fill: #1b1f24; }
.name { font-weight: 600; } .words { fill: #57606a; font-size: 12px; } .tag { fill: #0b62b8; font-size: 12px; }
rect { fill: #f6f8fa; stroke: #8c959f; } .known { stroke: #0b62b8; stroke-width: 2; } .backend { fill: #ffffff; }
path { fill: none; stroke: #57606a; stroke-width: 1.5; } .tip { fill: #57606a; stroke: none; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e8ec; } .words { fill: #9ea7b1; } .tag { fill: #6cb2f7; }
  rect { fill: #1d2228; stroke: #6e7681; } .known { stroke: #6cb2f7; } .backend { fill: #14171b; }
  path { stroke: #9ea7b1; } .tip { fill: #9ea7b1; }
}"""


@dataclass(frozen=True)
class Contract:
    """What pyproject.toml allows."""

    floors: tuple[tuple[str, ...], ...]
    """rooms, the highest floor first; a room may import those on floors below"""
    backends: tuple[str, ...]
    """that know no sibling"""
    known: frozenset[str]
    """the rooms that backends may import"""


def contract(pyproject: Path = ROOT / "pyproject.toml") -> Contract:
    """Read from the section of import-linter."""
    settings = tomllib.loads(pyproject.read_text("utf-8"))["tool"]["importlinter"]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for each in settings["contracts"]:
        by_kind.setdefault(each["type"], []).append(each)
    (layers,), (siblings,) = by_kind["layers"], by_kind["independence"]
    (of_backends,) = (each for each in by_kind["forbidden"] if each["source_modules"] == [f"{PACKAGE}backends"])
    floors = tuple(tuple(room.strip() for room in floor.split("|")) for floor in layers["layers"])
    backends = tuple(module.removeprefix(f"{PACKAGE}backends.") for module in siblings["modules"])
    forbidden = {module.removeprefix(PACKAGE) for module in of_backends["forbidden_modules"]}
    rooms = {room for floor in floors for room in floor}
    return Contract(floors, backends, frozenset(rooms - forbidden))


def drawing(allowed: Contract) -> str:
    """The whole file."""
    height = TOP + len(allowed.floors) * (FLOOR + GAP) + 44
    parts = [_floor(floor, number, allowed.known) for number, floor in enumerate(allowed.floors)]
    bottom = _y(len(allowed.floors)) - GAP
    arrow = f'<path d="M32 {TOP + 4}V{bottom - 10}"/><path class="tip" d="M26 {bottom - 12}h12l-6 10z"/>'
    side = (
        f'<text class="words" transform="translate(22 {(TOP + bottom) / 2:g}) rotate(-90)" text-anchor="middle">'
    )
    legend = "A room may import any room on a floor below it, and none beside it. Blue: what backends may import."
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-labelledby="title about">',
        '<title id="title">The rooms of headstart, and which may import which</title>',
        f'<desc id="about">{escape(_in_words(allowed))}</desc>',
        f"<style>{STYLE}\n</style>",
        f"{side}may import</text>{arrow}",
        *parts,
        _backends(allowed),
        f'<text class="words" x="{LEFT}" y="{height - 16}">{legend}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _y(floor: int) -> int:
    return TOP + floor * (FLOOR + GAP)


def _floor(rooms: tuple[str, ...], number: int, known: frozenset[str]) -> str:
    """Rooms side by side."""
    width = (ROOM - GAP * (len(rooms) - 1)) // len(rooms)
    return "\n".join(
        _room(room, LEFT + place * (width + GAP), _y(number), width, room in known)
        for place, room in enumerate(rooms)
    )


def _room(room: str, x: int, y: int, width: int, known: bool) -> str:
    middle, kind = y + FLOOR // 2 + 5, "known" if known else "other"
    tag = f'<text class="tag" x="{x + width - 12}" y="{middle}" text-anchor="end">backends</text>' if known else ""
    name = f'<tspan class="name">{escape(room)}</tspan><tspan class="words" dx="10">{escape(WORDS[room])}</tspan>'
    return (
        f'<g id="{room}"><rect class="{kind}" x="{x}" y="{y}" '
        f'width="{width}" height="{FLOOR}" rx="6"/><text x="{x + 12}" y="{middle}">{name}</text>{tag}</g>'
    )


def _backends(allowed: Contract) -> str:
    """A column beside the floors that they know, the contract's among them."""
    numbers = [n for n, floor in enumerate(allowed.floors) if allowed.known.intersection(floor)]
    top, bottom = _y(min(numbers)), _y(max(numbers)) + FLOOR
    count, width = len(allowed.backends), WIDTH - BACKENDS - 12
    step = (bottom - top - 64) // count
    boxes = [
        f'<rect class="backend" x="{BACKENDS + 12}" y="{top + 64 + k * step}" width="{width - 24}" '
        f'height="{step - 12}" rx="6"/><text class="name" x="{BACKENDS + 24}" '
        f'y="{top + 64 + k * step + step // 2}">{escape(name)}</text>'
        for k, name in enumerate(allowed.backends)
    ]
    return (
        f'<g id="backends"><rect class="known" x="{BACKENDS}" y="{top}" width="{width}" height="{bottom - top}" '
        f'rx="6"/><text class="name" x="{BACKENDS + 12}" y="{top + 24}">backends</text>'
        f'<text class="words" x="{BACKENDS + 12}" y="{top + 46}">found, never imported</text>{"".join(boxes)}</g>'
    )


def _in_words(allowed: Contract) -> str:
    floors = ", ".join(" and ".join(floor) for floor in allowed.floors)
    known = ", ".join(room for floor in allowed.floors for room in floor if room in allowed.known)
    return (
        f"Floors from the highest to the lowest: {floors}. A room may import rooms on floors below it, and none "
        f"beside it. The backends {', '.join(allowed.backends)} know no other backend, and of the rooms {known}; "
        "no room imports a backend."
    )


if __name__ == "__main__":
    FILE.write_text(drawing(contract()), "utf-8")
