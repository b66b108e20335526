"""`headstart report`: a page of figures that are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from headstart.cli.command import command
from headstart.cli.options import argument
from headstart.cli.rendering import show


@command(
    "headstart report headstart-compare/compare.json",
    "headstart report headstart-compare/compare.json --out figures.html",
)
def report(
    figures: Annotated[Path, argument("COMPARE.JSON", "What `headstart compare` wrote.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="File to write. (default: report.html beside it)")] = None,
) -> None:
    """Write the HTML report of a comparison again, from its figures."""
    from headstart.training.comparison import read_comparison

    path = read_comparison(figures).report(out or figures.parent / "report.html")
    show(f"written to {path}")
