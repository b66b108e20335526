"""What shows a page here: asked by what opens one, and by the doctor, so that both say the same."""

from __future__ import annotations

import os
import shutil
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
NAMED = "BROWSER"
INSTALLED = ("chromium", "chromium-browser", "google-chrome", "firefox", "firefox-esr", "epiphany", "konqueror")
OF_TERMINALS = ("www-browser", "links", "elinks", "lynx", "w3m")


@dataclass(frozen=True)
class Browser:
    """What there is to open pages with."""

    program: webbrowser.BaseBrowser | None
    """None where no page can be shown"""
    words: str
    """what it is called, or why there is none"""


def browser() -> Browser:
    """The one that shows pages on this machine, if there is one and a display. Browsers of terminals do not count,
    as they would take over the one that a command runs in; one that BROWSER names does."""
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in (*DISPLAYS, NAMED)):
        there = next(filter(shutil.which, INSTALLED), None)
        what = f"{there} is installed, but there is" if there else "there is"
        return Browser(None, f"{what} no display ({', '.join(DISPLAYS)} and {NAMED} are not set)")
    try:
        program = webbrowser.get()
    except webbrowser.Error:
        return Browser(None, "none is installed")
    name = Path(getattr(program, "name", "")).name or "the system's browser"
    if isinstance(program, webbrowser.GenericBrowser) and shutil.which(program.name) is None:
        return Browser(None, f"{NAMED} names {name}, which is no program here")
    if name in OF_TERMINALS and not os.environ.get(NAMED):
        return Browser(None, f"only {name} is installed, which shows pages in a terminal")
    return Browser(program, name)
