"""Which colour and marker a run has, in every figure the same.

Where runs are the modes of backends, the colour says the mode and the marker the backend; otherwise each run has a
colour of its own. The colours are Okabe and Ito's, which people who see colours differently can tell apart, those
of them that are legible on white and on black.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headstart.report.series import Entry

ORANGE, GREEN, BLUE, VERMILION, PURPLE, SKY, GREY = (
    "#d98e00",
    "#009e73",
    "#1f7fc4",
    "#d55e00",
    "#c06a9b",
    "#56b4e9",
    "#8a8a8a",
)
COLOURS = (BLUE, GREEN, VERMILION, PURPLE, ORANGE, SKY, GREY)
OF_MODE = {"scratch": VERMILION, "full": PURPLE, "frozen": BLUE, "cached": GREEN, "staged": ORANGE}
MARKERS = ("circle", "triangle", "square", "diamond", "inverted_triangle", "hex")


@dataclass(frozen=True)
class Look:
    colour: str
    marker: str


def looks(entries: Sequence[Entry]) -> list[Look]:
    pairs = [(str(entry.get("backend")), str(entry.get("mode"))) for entry in entries]
    if len(set(pairs)) == len(pairs) and len({mode for _, mode in pairs}) > 1:
        backends = list(dict.fromkeys(backend for backend, _ in pairs))
        further = [mode for mode in dict.fromkeys(mode for _, mode in pairs) if mode not in OF_MODE]
        colours = OF_MODE | {mode: (SKY, GREY)[i % 2] for i, mode in enumerate(further)}
        return [Look(colours[mode], MARKERS[backends.index(name) % len(MARKERS)]) for name, mode in pairs]
    n = len(COLOURS)
    return [Look(COLOURS[i % n], MARKERS[i // n % len(MARKERS)]) for i in range(len(entries))]
