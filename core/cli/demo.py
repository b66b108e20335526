"""`headstart demo`: a first comparison, and its report in the browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from headstart.cli.browsers import browser
from headstart.cli.command import command
from headstart.cli.compare import tell_comparison
from headstart.cli.options import Json, parameter
from headstart.cli.rendering import Live, show
from headstart.cli.results import keep_figures
from headstart.common.text import say

MODES = ("frozen", "cached")
SEEN = (
    "Both rows train the same head on the same frozen trunk: `frozen` runs the trunk in every epoch, `cached` has "
    "run it once, and reads the features. Compare their scores, which agree, with their seconds."
)


@command("headstart demo", "headstart demo --no-open", "headstart demo --backend torch --out demo/")
def demo(
    *,
    backend: Annotated[str | None, parameter("backend")] = None,
    epochs: Annotated[int, parameter("epochs", unset=False)] = 3,
    out: Annotated[Path, Parameter(help="Folder for compare.json and report.html.")] = Path("headstart-demo"),
    open_page: Annotated[
        bool, Parameter(name="--open", negative="--no-open", help="Open the report in the browser.")
    ] = True,
    json_file: Json = None,
) -> int | None:
    """Train a head on the bundled digits with and without a cache, and open the report.

    The quickest that `headstart compare` does: a frozen trunk that runs in every epoch, beside one whose features
    are computed once. Nothing is downloaded. Without a browser the report's address is printed.
    """
    from headstart.contract import registry
    from headstart.training.compare import compare

    unnamed = backend is None and not os.environ.get(registry.VARIABLE)
    first = next(iter(registry.installed()), None) if unnamed else None
    name = first or registry.choose(backend)
    with Live() as live:
        comparison = compare("digits", out=out, listener=live.listen, backends=(name,), modes=MODES, epochs=epochs)
    keep_figures(json_file, comparison)
    code = tell_comparison(comparison, out)
    page = (out / "report.html").absolute()
    if code is None and page.is_file():
        show(SEEN)
        show_page(page, open_page)
    return code


def show_page(page: Path, open_page: bool) -> None:
    """Open a page in the browser; print its address where there is none, or none is to open. `page`: a path from
    the root."""
    program = browser().program if open_page else None
    if program is None or not program.open(page.as_uri()):
        say(f"the report: {page.as_uri()}")  # not wrapped, as a table's line would be
