"""A headless Chromium, for tests of pages and for the screenshots in the docs."""

import shutil
from pathlib import Path
from typing import Any

from selenium import webdriver

_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1200,900",
)


def is_installed() -> bool:
    """Whether there are Chromium and its driver."""
    return None not in (shutil.which("chromium"), shutil.which("chromedriver"))


def start(profile: Path) -> Any:
    """A browser that logs every error and request; its state lies in `profile`."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def show_as(browser: Any, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
    """Give the page a screen of this size, that of a phone if it is narrow, in light or dark."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    phone = width < 500
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone},
    )
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
