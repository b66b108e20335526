"""Whether a page can be shown here."""

from __future__ import annotations

import os
import sys
import webbrowser

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")


def browser() -> webbrowser.BaseBrowser | None:
    """The one that shows pages on this machine; None where there is none, or no display. Browsers of terminals do
    not count, as they would take over the one that a command runs in; one that BROWSER names does."""
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in DISPLAYS):
        return None
    try:
        return webbrowser.get()
    except webbrowser.Error:
        return None
