"""The report of a comparison: one HTML page that needs no network, no other file and no framework.

`page` is a function of the dict that `compare.json` holds and of nothing else. Three things hold for every page:
nothing in it is fetched from anywhere; what comes from data (names of classes and files, ids, messages, command
lines) is text and never markup; and what is missing or not finite leaves a gap, not an error.

Bokeh and Jinja are imported when a page is made, not with this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from headstart.report import pictures

__all__ = ["frame", "page", "pictures"]


def page(content: Mapping[str, Any]) -> str:
    """The whole report, as HTML. `content`: a comparison, or what was read from its `compare.json`."""
    from headstart.report.build import build

    return build(content)


def frame(html: str) -> str:
    """`html`, a whole page, as a notebook shows it in a cell's output: in a frame of its own, so that neither the
    page's style nor its script touch the notebook. The page fits the frame's height to its own, see page.js."""
    return (
        '<div><iframe title="headstart report" style="width:100%;height:640px;border:0" '
        f'srcdoc="{escape(html, quote=True)}"></iframe></div>'
    )
