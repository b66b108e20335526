"""The figures of losses and scores. No run is in them, so they are the same in every report: they are shipped as
Bokeh has drawn them, since to import it and to draw them takes longer than the rest of a short training.

Invariant: what comes out is what the Bokeh that is installed draws. Of another version than the shipped figures'
it is asked itself; `python -m headstart.report.curves` writes them anew.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

AXES = ("epoch", "seconds", "seconds log")
"""over what losses and scores are drawn"""
SHIPPED = Path(__file__).with_name("curves.json")
MEASURE, LABEL = "{measure}", "{label}"
"""stand in the shipped figures for the names that are in the figures"""


def curves(measure: str, label: str, axis: str) -> dict[str, Any]:
    """See `headstart.report.plots.curves`."""
    text = _shipped().get(shipped_name(measure, axis))
    if text is None:
        from headstart.report import plots

        return plots.curves(measure, label, axis)
    for place, name in ((MEASURE, measure), (LABEL, label)):
        text = text.replace(place, json.dumps(name)[1:-1])
    figure: dict[str, Any] = json.loads(text)
    return figure


def shipped_name(measure: str, axis: str) -> str:
    """Scores are drawn alike."""
    return f"{measure if measure == 'loss' else 'score'} {axis}"


@cache
def _shipped() -> dict[str, str]:
    """name -> figure as JSON; none where another Bokeh drew them than the one that is installed."""
    content = json.loads(SHIPPED.read_text("utf-8"))
    if content["bokeh"] != version("bokeh"):
        return {}
    return {name: json.dumps(figure) for name, figure in content["figures"].items()}


@cache
def script() -> str:
    """Bokeh's script without its parts for widgets, tables, formulas and WebGL, as it lies in the package, which
    itself takes ten times as long to tell it."""
    found = find_spec("bokeh")  # imports nothing
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder, "server", "static", "js", "bokeh.min.js")
        if path.is_file():
            return path.read_text("utf-8") + '\nBokeh.set_log_level("info");'
    from bokeh.resources import Resources

    return "\n".join(Resources(mode="inline", components=["bokeh"], minified=True).js_raw)


def drawn() -> dict[str, Any]:
    """What is shipped: a loss and a score over each axis, with places for their names."""
    from headstart.report import plots

    figures = {
        shipped_name(measure, axis): plots.curves(measure, LABEL, axis)
        for measure, axis in product(("loss", MEASURE), AXES)
    }
    return {"bokeh": version("bokeh"), "figures": figures}


if __name__ == "__main__":
    SHIPPED.write_text(json.dumps(drawn(), separators=(",", ":")) + "\n", "utf-8")
