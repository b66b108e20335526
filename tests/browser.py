"""A headless Chromium for tests of pages, where the machine has one; a test that asks for it skips elsewhere."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
)
# Calls back once a frame that was due has been painted.
PAINTED = (
    "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0)))"
)
NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser that keeps its profile in `folder` and has no network: every name and address leads nowhere."""
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with its chromedriver is installed")
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed", exc_type=ImportError)
    from selenium.webdriver.chrome.service import Service

    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = selenium.Chrome(options=options, service=Service(driver, env={**os.environ, "HOME": str(folder)}))
    try:
        yield Browser(opened)
    finally:
        opened.quit()


class Browser:
    """What tests of the report do with one."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1280, height: int = 900) -> None:
        """Opens a file and waits until its figures are drawn."""
        self.resize(width, height)
        self.driver.get(page.as_uri())
        self.wait("document.documentElement.dataset.ready === 'yes'")

    def resize(self, width: int, height: int) -> None:
        """Also to widths that a window cannot have, such as a phone's."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def theme(self, name: str) -> None:
        """That people prefer a `dark` or a `light` page, from now on."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def promised(self, expression: str) -> Any:
        """What an expression of JavaScript, or the promise that it is, comes to."""
        script = "const done = arguments[0]; Promise.resolve(%s).then(done, (error) => done(String(error)))"
        return self.driver.execute_async_script(script % expression)

    def press(self, key: str) -> None:
        """A key, as WebDriver names it, to whatever has the focus."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(key).perform()

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Until this expression of JavaScript is true, and what was changed has been painted."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(lambda _: self.run(f"return {condition}"))
        self.driver.execute_async_script(PAINTED)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def console(self) -> list[str]:
        """Warnings and errors since the last call."""
        said: list[dict[str, Any]] = self.driver.get_log("browser")
        return [entry["message"] for entry in said if entry["level"] in ("WARNING", "SEVERE")]

    def pdf(self) -> bytes:
        """The page as it is printed, on the paper that it asks for."""
        printed = self.driver.execute_cdp_cmd(
            "Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True}
        )
        return base64.b64decode(printed["data"])
