"""The screenshots of docs/guide/serving.md, of a server that runs.

python -m tests.serve.page.screenshots http://127.0.0.1:8000 --sample 12 --off 2
"""

import argparse
import base64
import io
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.chromium import show_as, start

GUIDE = Path(__file__).parents[3] / "docs" / "guide"


def shoot(browser: Any, path: Path) -> None:
    """Write what the screen shows, with few colours: a tenth of the bytes."""
    time.sleep(0.5)  # what fades has faded
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    with Image.open(io.BytesIO(base64.b64decode(shot["data"]))) as image:
        image.convert("RGB").quantize(256).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="of the server")
    parser.add_argument("--sample", type=int, default=1, help="number of the sample to show")
    parser.add_argument("--off", type=int, help="number of an image to switch off")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile:
        browser = start(Path(profile))

        def wait(condition: Any) -> None:
            WebDriverWait(browser, 60).until(condition)

        def all_of(selector: str) -> list[Any]:
            return browser.find_elements(By.CSS_SELECTOR, selector)

        show_as(browser, 1200, 2000)
        browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        browser.get(args.address)
        wait(lambda _: all_of(".sample"))
        all_of(".sample")[args.sample - 1].click()
        wait(lambda _: all_of("article"))
        if args.off:
            all_of("#strip input")[args.off - 1].click()
            wait(lambda _: all_of(".change"))
        browser.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
        height = browser.execute_script("return document.documentElement.offsetHeight")
        show_as(browser, 1200, height)
        shoot(browser, GUIDE / "serving.png")
        show_as(browser, 360, 780, dark=True, scale=1.5)
        browser.execute_script("document.getElementById('product').scrollIntoView()")
        shoot(browser, GUIDE / "serving-phone.png")
        browser.quit()


if __name__ == "__main__":
    main()
