"""`headstart report`: a page of figures that are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from headstart.cli.command import command
from headstart.cli.options import argument
from headstart.cli.rendering import show
from headstart.common.errors import SettingError
from headstart.common.places import expanded


@command(
    "headstart report headstart-compare/compare.json",
    "headstart report headstart-compare/compare.json --out figures.html",
)
def report(
    figures: Annotated[Path, argument("COMPARE.JSON", "What `headstart compare` wrote, or its folder.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="File to write. (default: report.html beside it)")] = None,
) -> None:
    """Write the HTML report of a comparison again, from its figures."""
    from headstart.training.comparison import read_comparison

    figures = expanded(figures)
    if (figures / "run.json").is_file():
        raise SettingError(
            f"{figures} is a saved run; expected the compare.json of a comparison, or its folder. A run's report "
            f"is {figures / 'report.html'}, of `headstart fit --out`; hs.load(path).report(file) writes it again"
        )
    if figures.is_dir():
        figures = figures / "compare.json"
    path = read_comparison(figures).report(out or figures.parent / "report.html")
    show(f"written to {path}")
