"""A headless Firefox for tests of pages, where the machine has one. It is spoken to by WebDriver BiDi, which it
answers itself: distributions have the browser, and not always its geckodriver."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("firefox-esr", "firefox")
SECONDS = 120.0
"""that an answer may take"""
# Every name and address leads nowhere, and nobody is asked for news.
SETTINGS = {
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "app.update.enabled": False,
    "app.normandy.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "ui.systemUsesDarkTheme": 0,
    "accessibility.tabfocus": 7,
    "focusmanager.testmode": True,  # a window that nobody looks at has the focus
}


@contextmanager
def firefox(folder: Path) -> Iterator[Firefox]:
    """A browser that keeps its profile in `folder` and has no network."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Firefox is installed")
    websocket = pytest.importorskip("websocket", reason="websocket-client is not installed", exc_type=ImportError)
    profile = folder / "firefox"
    profile.mkdir()
    lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in SETTINGS.items())
    (profile / "user.js").write_text("".join(lines))
    log = folder / "firefox.log"
    with log.open("w") as words:
        process = subprocess.Popen(
            [program, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"],
            stdout=words,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HOME": str(folder), "MOZ_HEADLESS": "1"},
        )
    try:
        url = f"{_address(process, log)}/session"
        opened = Firefox(websocket.create_connection(url, timeout=SECONDS, suppress_origin=True))
        try:
            yield opened
        finally:
            opened.close()
    finally:
        process.terminate()
        process.wait(60)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens, which it says once it does."""
    for _ in range(int(SECONDS / 0.1)):
        if said := re.search(r"WebDriver BiDi listening on (ws://\S+)", log.read_text(errors="replace")):
            return said[1]
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError(f"Firefox did not start:\n{log.read_text(errors='replace')}")


class Firefox:
    """What tests of the report do with one, with the names of `browser.Browser`."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.calls = 0
        self.said: list[dict[str, Any]] = []
        self._call("session.new", capabilities={})
        self._call("session.subscribe", events=["log.entryAdded"])
        (tab,) = self._call("browsingContext.getTree")["contexts"]
        self.tab: str = tab["context"]

    def open(self, page: Path, width: int = 1280, height: int = 900) -> None:
        """Opens a file and waits until its figures are drawn; in a tab of its own, as that alone has the focus,
        which keys go to."""
        before, self.tab = self.tab, self._call("browsingContext.create", type="tab")["context"]
        self._call("browsingContext.close", context=before)
        self._call("browsingContext.setViewport", context=self.tab, viewport={"width": width, "height": height})
        self._call("browsingContext.navigate", context=self.tab, url=page.as_uri(), wait="complete")
        self.wait("document.documentElement.dataset.ready === 'yes'")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.promised(f"(function() {{ {script} }}).apply(null, {json.dumps(arguments)})")

    def promised(self, expression: str) -> Any:
        """What an expression of JavaScript, or the promise that it is, comes to; as JSON has it."""
        done = self._call(
            "script.evaluate",
            expression=f"Promise.resolve({expression}).then((value) => JSON.stringify(value ?? null))",
            target={"context": self.tab},
            awaitPromise=True,
        )
        assert done["type"] == "success", done.get("exceptionDetails")
        return json.loads(done["result"]["value"])

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Until this expression of JavaScript is true, and what was changed has been painted."""
        frame = "new Promise((next) => requestAnimationFrame(next))"
        assert self.promised(
            f"(async () => {{ const end = performance.now() + {1000 * seconds}; let there = false;"
            f"while (!there && performance.now() < end) {{ await {frame}; await {frame}; there = {condition}; }}"
            "return Boolean(there); })()"
        ), condition

    def press(self, key: str) -> None:
        """A key, as WebDriver names it, to whatever has the focus."""
        presses = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        keyboard = {"type": "key", "id": "keyboard", "actions": presses}
        self._call("input.performActions", context=self.tab, actions=[keyboard])

    def console(self) -> list[str]:
        """Warnings and errors since the last call."""
        self.run("return null")  # with its answer come all entries before it
        said, self.said = self.said, []
        return [entry["text"] for entry in said if entry["level"] in ("warn", "error")]

    def close(self) -> None:
        self._call("session.end")
        self.socket.close()

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.calls:
                assert answer["type"] == "success", answer
                result: dict[str, Any] = answer["result"]
                return result
            if answer.get("method") == "log.entryAdded":
                self.said.append(answer["params"])
