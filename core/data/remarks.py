"""What decoding did to pictures that a user may want to know of: counted, and said once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

FRAMES, PAGES, KEPT, BLACK, WINDOW, RANGE = "frames", "pages", "kept", "black", "window", "range"
TEXTS = {
    FRAMES: ("has several frames and gives the first", "have several frames and give the first"),
    PAGES: ("has several pages and gives the first", "have several pages and give the first"),
    KEPT: (
        "breaks off and was kept, what is missing of it grey",
        "break off and were kept, what is missing of them grey",
    ),
    BLACK: (
        "is of 16 bits and nearly black, as of a camera's 8 to 12 bits that were not scaled up to 65535",
        "are of 16 bits and nearly black, as of a camera's 8 to 12 bits that were not scaled up to 65535",
    ),
    WINDOW: (
        "is shown in the window that its DICOM file names",
        "are shown in the windows that their DICOM files name",
    ),
    RANGE: (
        "is DICOM without a window: its least value is black, its greatest white",
        "are DICOM without a window: of each the least value is black, the greatest white",
    ),
}
"""remark -> how it is said of one picture, and of several"""
GRAVE = (FRAMES, PAGES, KEPT, BLACK)
"""those after which something is missing, or hardly to be seen"""
NAMED = 3  # pictures


class Remarks:
    """What was remarked of the pictures of a source, by index. Many threads add to it."""

    def __init__(self) -> None:
        self._of: dict[str, dict[int, None]] = {}
        self._said: dict[str, int] = {}

    def add(self, index: int, remarks: Sequence[str]) -> None:
        for remark in remarks:
            self._of.setdefault(remark, {})[index] = None

    def __contains__(self, index: int) -> bool:
        return any(index in indices for indices in self._of.values())

    def lines(self, name_of: Callable[[int], str]) -> list[tuple[str, str]]:
        """(remark, line) of what was not said yet; it counts as said then. The first pictures are named."""
        lines = []
        for remark in TEXTS:
            indices = list(self._of.get(remark, ()))
            if (new := indices[self._said.get(remark, 0) :]) == []:
                continue
            more = " more" if len(new) < len(indices) else ""
            self._said[remark] = len(indices)
            names = ", ".join(name_of(i) for i in sorted(new)[:NAMED])
            rest = f" and {len(new) - NAMED:,} more" if len(new) > NAMED else ""
            one, many = TEXTS[remark]
            text = f"1{more} picture {one}" if len(new) == 1 else f"{len(new):,}{more} pictures {many}"
            lines.append((remark, f"{text} ({names}{rest})"))
        return lines
