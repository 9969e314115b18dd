"""The page as a person sees it, and products to show on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.chromium import show_as
from tests.serve.page.fake import Fake, FakeServer, described, image

SHOE, BOOT, APPLE, PAN = range(4)
NAMES = [
    ["CLOTHES", "FEET", "SHOE"],
    ["CLOTHES", "FEET", "BOOT"],
    ["FOOD", "APPLE"],
    ["HOME", "KITCHEN", "PAN"],
]
EVIL = "<img src=x onerror=alert(1)>"
# joint: a shoe with 10/18; averaged: a boot with 2/3.
PRODUCT = [image(SHOE, 10, "teal"), image(BOOT, 6, "navy"), image(BOOT, 2, "olive")]
ONE = [image(APPLE, 5, "red")]


def plain(text: str) -> str:
    """The text on one line, with the signs of a keyboard."""
    return " ".join(text.replace("\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}", ">").split())


class Page:
    """The page as a person sees it."""

    def __init__(self, browser: Any, server: FakeServer) -> None:
        self.browser = browser
        self.server = server

    def open(self, fake: Fake, width: int = 1200, dark: bool = False) -> None:
        self.browser.get("about:blank")  # what the former page still asks for has no answer
        self.server.fake = fake
        show_as(self.browser, width, 800, dark=dark)
        self.browser.get(self.server.address)
        self.until(lambda: self.text("#models"))

    def until(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.browser, 10, 0.02).until(lambda _: condition())

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return plain(self.one(selector).text)

    def texts(self, selector: str) -> list[str]:
        """The text of each such element on one line; that of the whole list at one time."""
        found = self.browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter(e => e.checkVisibility()).map(e => e.innerText)",
            selector,
        )
        return [plain(text) for text in found]

    def said(self, *sentences: str) -> None:
        """Wait until the page says this of the product, and nothing else."""
        self.until(lambda: self.texts("#said p") == list(sentences))

    def complained(self, *sentences: str) -> None:
        self.until(lambda: self.texts("[role=alert] p") == list(sentences))

    def give(self, *files: Path) -> None:
        self.one("#files").send_keys("\n".join(map(str, files)))

    def sample(self, number: int) -> None:
        self.all(".sample")[number].click()

    def switch(self, number: int) -> None:
        self.all("#strip input")[number - 1].click()

    def errors(self) -> list[dict[str, Any]]:
        """What the browser has complained of since the last call."""
        return self.browser.get_log("browser")


def with_samples(**values: Any) -> Fake:
    return Fake(NAMES, examples=[(NAMES[SHOE], PRODUCT), (None, ONE)], **values)


def two() -> Fake:
    return with_samples(beside=described("averaged"))


def files(directory: Path, *contents: bytes) -> list[Path]:
    directory.mkdir(exist_ok=True)
    made = [directory / f"{number}.png" for number in range(len(contents))]
    for path, content in zip(made, contents, strict=True):
        path.write_bytes(content)
    return made


def called(page: Page, function: str, *arguments: Any) -> str:
    """What a function of words.js returns."""
    returned = page.browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "import('/page/words.js').then((words) => done(words[arguments[0]](...arguments[1])))",
        function,
        arguments,
    )
    return plain(returned)
