"""The page to try a model, in a browser, against a server that answers by rule."""

import json
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from product_mil.api import Classifier
from product_mil.serve.app import create_app
from product_mil.serve.server import address_of, bind
from product_mil.serve.service import Service
from tests.chromium import show_as
from tests.serve.fake import Fake, FakeServer, described, image

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


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer(Fake(NAMES)) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def plain(text: str) -> str:
    """The text on one line, with the signs of a keyboard."""
    return " ".join(text.replace("\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}", ">").split())


class Page:
    """The page as a person sees it."""

    def __init__(self, browser: Any, server: FakeServer) -> None:
        self.browser = browser
        self.server = server

    def open(self, fake: Fake, width: int = 1200, dark: bool = False) -> None:
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


@pytest.fixture
def page(browser: Any, server: FakeServer) -> Iterator[Page]:
    browser.get_log("browser")
    opened = Page(browser, server)
    yield opened
    assert opened.errors() == []


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


def test_a_sample_is_answered_at_once(page: Page) -> None:
    page.open(with_samples())
    assert page.texts(".sample") == ["SHOE", "Sample 2: 1 image"]
    page.sample(0)
    page.said("joint says SHOE, with 56 %.")
    # The very bytes of the sample, in order.
    assert page.server.fake.asked == [
        (PRODUCT, {"topk": "4", "beside": "false", "min_confidence": "0.9"})
    ]
    assert page.text("#label") == "A sample with the label CLOTHES > FEET > SHOE."
    assert page.texts("article") == [
        "joint as labelled CLOTHES > FEET > SHOE 56 % "
        "Of 100 answers like this, about 50 are right. "
        "It is at least 90 % sure of the group CLOTHES > FEET (56 %), not of the category. "
        "CLOTHES > FEET > BOOT 44 % FOOD > APPLE 0 % HOME > KITCHEN > PAN 0 %"
    ]
    assert page.texts("#rows li") == [
        "Image 1 1.jpg attention 56 % adds 1.0 to the score of SHOE "
        "alone: CLOTHES > FEET > SHOE agrees",
        "Image 2 2.jpg attention 33 % takes 0.6 from the score of SHOE "
        "alone: CLOTHES > FEET > BOOT differs",
        "Image 3 3.jpg attention 11 % takes 0.2 from the score of SHOE "
        "alone: CLOTHES > FEET > BOOT differs",
    ]
    # The bars are as long as the numbers beside them say.
    shares = page.browser.execute_script(
        "return [...document.querySelectorAll('.bar')].map(b => "
        "b.firstChild.getBoundingClientRect().width / b.getBoundingClientRect().width)"
    )
    expected = [10 / 18, 8 / 18, 0, 0, 10 / 18, 6 / 18, 2 / 18]
    assert shares == pytest.approx(expected, abs=0.01)
    # Without one of its images it is no longer the product with this label.
    page.all(".remove")[2].click()
    page.said("joint says SHOE, with 63 %.")
    assert page.text("#label") == ""
    assert page.texts("article h3") == ["joint"]
    assert page.one("#hint").is_displayed()
    # Another sample takes its place.
    page.sample(0)
    page.said("joint says SHOE, with 56 %.")
    page.sample(1)
    page.said("joint says APPLE, with 100 %.")
    assert page.text("#label") == ""
    assert page.texts("article h3") == ["joint"]
    assert len(page.all("#strip li")) == 1
    assert not page.one("#hint").is_displayed()


def test_files_of_a_person(page: Page, tmp_path: Path) -> None:
    """Sent as they are, shown at once, and named as they are named."""
    page.open(Fake(NAMES))
    assert not page.one("#samples").is_displayed()
    release = page.server.fake.held = threading.Event()
    first = tmp_path / f"{EVIL}.png"
    first.write_bytes(PRODUCT[0])
    page.give(first, *files(tmp_path, PRODUCT[1]))
    # The answer is still awaited.
    widths = page.until(
        lambda: page.browser.execute_script(
            "const all = [...document.querySelectorAll('#strip img')].map(i => i.naturalWidth);"
            "return all.every(Boolean) && all"
        )
    )
    assert widths == [32, 32]
    assert page.texts("#said p") == []
    release.set()
    page.said("joint says SHOE, with 63 %.")
    assert page.server.fake.asked[0][0] == PRODUCT[:2]
    assert page.server.fake.file_names == [first.name, "0.png"]
    assert page.texts("#rows h3") == [f"Image 1 {first.name}", "Image 2 0.png"]
    # More are added, one is removed, and all are.
    page.give(*files(tmp_path / "more", ONE[0]))
    page.said("joint says SHOE, with 48 %.")
    page.all(".remove")[0].click()
    page.said("joint says BOOT, with 55 %.")
    page.one("#over").click()
    assert page.all("#strip li") == []
    assert page.one("#intro").is_displayed()
    assert not page.one("#result").is_displayed()
    # The same file can be chosen again.
    page.give(tmp_path / "more" / "0.png")
    page.said("joint says APPLE, with 100 %.")


def test_a_file_that_changes(page: Page, tmp_path: Path) -> None:
    """The browser no longer reads it; it is not the server that is to blame."""
    page.open(Fake(NAMES))
    (chosen,) = files(tmp_path, ONE[0])
    page.give(chosen)
    page.said("joint says APPLE, with 100 %.")
    chosen.write_bytes(PRODUCT[0] + bytes(100))
    page.give(*files(tmp_path / "more", ONE[0]))
    page.complained("0.png can't be read any more. Remove it, or choose it again.")
    page.all(".remove")[0].click()
    page.said("joint says APPLE, with 100 %.")


DISPATCH = """
const [kind, content] = arguments;
const data = new DataTransfer();
data.items.add(new File([new Uint8Array(content)], 'a.png', {type: 'image/png'}));
const event = kind === 'paste'
  ? new ClipboardEvent(kind, {clipboardData: data, bubbles: true})
  : new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true});
document.querySelector('footer').dispatchEvent(event);
return [event.defaultPrevented, document.body.className];
"""


def test_dropped_anywhere(page: Page) -> None:
    """The browser would show the image instead of the page."""
    page.open(Fake(NAMES))
    content = list(ONE[0])
    assert page.browser.execute_script(DISPATCH, "dragover", content) == [True, "dragging"]
    assert page.browser.execute_script(DISPATCH, "dragleave", content) == [False, ""]
    assert page.browser.execute_script(DISPATCH, "dragover", content) == [True, "dragging"]
    assert page.browser.execute_script(DISPATCH, "drop", content) == [True, ""]
    page.said("joint says APPLE, with 100 %.")
    assert page.server.fake.asked[0][0] == ONE


def test_pasted(page: Page) -> None:
    page.open(Fake(NAMES))
    page.browser.execute_script(DISPATCH, "paste", list(ONE[0]))
    page.said("joint says APPLE, with 100 %.")
    assert page.server.fake.asked[0][0] == ONE
    # Text is no image, and takes no complaint away.
    page.server.fake.refusal = (429, {"detail": "Too busy."})
    page.browser.execute_script(DISPATCH, "paste", list(PRODUCT[0]))
    page.complained("Too busy.")
    page.browser.execute_script(
        "document.body.dispatchEvent(new ClipboardEvent('paste', "
        "{clipboardData: new DataTransfer(), bubbles: true}))"
    )
    page.complained("Too busy.")
    assert len(page.errors()) == 1


def test_a_camera_where_there_is_a_touch_screen(page: Page, tmp_path: Path) -> None:
    page.open(Fake(NAMES))
    assert not page.one("#use-camera").is_displayed()
    page.open(Fake(NAMES), width=360)
    assert page.one("#use-camera").is_displayed()
    assert page.one("#camera").get_attribute("capture") == "environment"
    page.one("#camera").send_keys(str(*files(tmp_path, ONE[0])))
    page.said("joint says APPLE, with 100 %.")


def test_what_an_image_changes(page: Page) -> None:
    page.open(with_samples())
    page.sample(0)
    page.said("joint says SHOE, with 56 %.")
    page.switch(3)
    page.said(
        "joint says SHOE, with 63 %.",
        "Without image 3: joint still says SHOE, with 63 % instead of 56 %.",
    )
    assert page.server.fake.asked[-1][0] == PRODUCT[:2]
    assert page.all("article.flipped, .flip") == []
    page.switch(1)
    page.said(
        "joint says BOOT, with 100 %.",
        "Without images 1 and 3: joint changes its answer to BOOT (100 %); "
        "SHOE has 0 % instead of 56 %.",
    )
    assert page.texts("article.flipped h3") == ["joint changed not as labelled"]
    assert page.texts(".flip") == page.texts(".change")
    assert page.texts("#rows h3") == ["Image 2 2.jpg"]
    page.switch(2)
    page.said("All images are switched off.")
    assert page.texts("#columns, #rows") == []
    # What was asked once is not asked again.
    asked = len(page.server.fake.asked)
    assert asked == 3
    for number in (1, 2, 3):
        page.switch(number)
    page.said("joint says SHOE, with 56 %.")
    assert [len(images) for images, _ in page.server.fake.asked[asked:]] == [1]


def test_an_image_that_comes_while_another_is_off(page: Page, tmp_path: Path) -> None:
    """The answer to all images is asked for too, to compare with."""
    page.open(Fake(NAMES))
    page.give(*files(tmp_path, *PRODUCT[:2]))
    page.said("joint says SHOE, with 63 %.")
    page.switch(1)
    page.until(lambda: len(page.texts("#said p")) == 2)
    page.give(*files(tmp_path / "more", ONE[0]))
    page.said(
        "joint says BOOT, with 55 %.",
        "Without image 1: joint changes its answer to BOOT (55 %); SHOE has 0 % instead of 48 %.",
    )


def test_two_models_side_by_side(page: Page) -> None:
    page.open(two())
    page.sample(0)
    page.said("They disagree: joint says SHOE (56 %), averaged says BOOT (67 %).")
    assert page.server.fake.asked[0][1]["beside"] == "true"
    assert page.texts("article h3") == ["joint as labelled", "averaged not as labelled"]
    left, right = (article.rect for article in page.all("article"))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    assert page.texts("#rows li")[1] == (
        "Image 2 2.jpg joint attention 33 % takes 0.6 from the score of SHOE "
        "alone: CLOTHES > FEET > BOOT differs "
        "averaged attention 33 % alone: CLOTHES > FEET > BOOT agrees"
    )
    page.switch(1)
    page.said(
        "Both say BOOT: joint with 100 %, averaged with 100 %.",
        "Without image 1: joint changes its answer to BOOT (100 %); SHOE has 0 % instead of 56 %.",
        "Without image 1: averaged still says BOOT, with 100 % instead of 67 %.",
    )
    assert page.texts("article.flipped h3") == ["joint changed not as labelled"]


def test_how_sure_it_has_to_be(page: Page) -> None:
    page.open(with_samples())
    page.sample(0)
    page.said("joint says SHOE, with 56 %.")
    Select(page.one("#min-confidence")).select_by_value("0.5")
    wanted = "It is at least 50 % sure of the category."
    page.until(lambda: page.texts("article .trust")[1] == wanted)
    assert [fields["min_confidence"] for _, fields in page.server.fake.asked] == ["0.9", "0.5"]


def test_a_model_that_is_not_calibrated(page: Page) -> None:
    """It can't say how sure it is, so it is not asked; nor is one beside it."""
    page.open(with_samples(beside=described("averaged", calibrated=False)))
    page.sample(0)
    page.until(lambda: page.texts("#said p"))
    assert "min_confidence" not in page.server.fake.asked[0][1]
    assert not page.one("#min-confidence").is_displayed()
    assert page.texts("article .trust") == [
        "Of 100 answers like this, about 50 are right.",
        "This model is not calibrated: its probabilities may be too high or too low.",
    ]


def test_images_that_are_not_used(page: Page, tmp_path: Path) -> None:
    page.open(Fake(NAMES))
    unreadable = image(SHOE, 0)
    page.give(*files(tmp_path, unreadable))
    page.until(lambda: page.texts(".trust"))
    assert page.texts("#said p")[1:] == ["Image 1: it is no image that can be read"]
    assert page.texts(".trust")[0] == (
        "No image could be used, so these are the most frequent categories of the training data."
    )
    page.give(*files(tmp_path / "more", ONE[0], ONE[0], ONE[0], PRODUCT[0], PRODUCT[1]))
    page.said(
        "joint says APPLE, with 100 %.",
        "Image 1: it is no image that can be read",
        "Images 5 and 6: not used: the model takes the first 4 images",
    )
    assert page.texts("#rows li")[4:] == [
        "Image 5 3.png not used: the model takes the first 4 images",
        "Image 6 4.png not used: the model takes the first 4 images",
    ]


def test_what_is_refused_before_it_is_sent(page: Page, tmp_path: Path) -> None:
    page.open(Fake(NAMES, max_image_bytes=2000))
    notes = tmp_path / "notes.txt"
    notes.write_text("no image")
    big = tmp_path / "big.png"
    big.write_bytes(ONE[0] + bytes(3000))
    page.give(notes, big)
    kilobytes = round(big.stat().st_size / 1000)
    page.complained(
        "notes.txt is not an image.", f"big.png has {kilobytes} kB; an image may have 2 kB."
    )
    assert page.server.fake.asked == []
    page.give(*files(tmp_path, *[ONE[0]] * 10))
    page.complained("A product may have 8 images: 2 left out.")
    page.said(
        "joint says APPLE, with 100 %.",
        "Images 5, 6, 7 and 8: not used: the model takes the first 4 images",
    )
    assert len(page.server.fake.asked[0][0]) == 8


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (
            429,
            {"detail": f"Too busy {EVIL}: try again in 2 s."},
            f"Too busy {EVIL}: try again in 2 s.",
        ),
        (502, ["of something before the server"], "The server answered with the error 502."),
    ],
)
def test_what_the_server_refuses(page: Page, status: int, body: Any, sentence: str) -> None:
    page.open(with_samples())
    page.sample(1)
    page.said("joint says APPLE, with 100 %.")
    page.server.fake.refusal = (status, body)
    page.sample(0)
    page.complained(sentence)
    assert page.texts("#said p, #columns, #rows") == []  # no answer of other images
    assert len(page.all("#strip li")) == 3
    page.server.fake.refusal = None
    page.one("#again").click()
    page.said("joint says SHOE, with 56 %.")
    assert page.texts("[role=alert] p") == []
    assert not page.one("#again").is_displayed()
    assert [str(status) in error["message"] for error in page.errors()] == [True]


def test_a_server_that_is_gone(page: Page) -> None:
    page.open(with_samples())

    def offline(value: bool) -> None:
        page.browser.execute_cdp_cmd("Network.enable", {})
        conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        page.browser.execute_cdp_cmd(
            "Network.emulateNetworkConditions", {"offline": value} | conditions
        )

    offline(True)
    page.sample(0)
    page.complained("The server does not answer. See whether it still runs, then try again.")
    offline(False)
    page.one("#again").click()
    page.said("joint says SHOE, with 56 %.")
    assert page.errors()  # the browser's own lines of the lost requests


def test_a_server_that_starts(page: Page) -> None:
    """The page waits for it."""
    page.open(with_samples())
    page.server.fake.refusal = (503, {"detail": "The model is being compiled."})
    page.sample(0)
    page.complained("The model is being compiled.")
    page.server.fake.refusal = None
    page.said("joint says SHOE, with 56 %.")
    assert page.texts("[role=alert] p") == []
    assert len(page.errors()) == 1


def test_a_late_answer_does_not_overwrite_a_newer_one(page: Page) -> None:
    page.open(with_samples())
    release = page.server.fake.held = threading.Event()
    page.sample(0)
    page.until(lambda: page.server.fake.asked)
    assert page.one("#answer").get_attribute("aria-busy") == "true"
    page.sample(1)
    page.said("joint says APPLE, with 100 %.")
    release.set()
    # An answer that comes after the late one.
    page.switch(1)
    page.said("All images are switched off.")
    page.switch(1)
    page.said("joint says APPLE, with 100 %.")
    assert page.one("#answer").get_attribute("aria-busy") is None
    assert page.texts("[role=alert] p") == []


def test_text_stays_text(page: Page) -> None:
    """Names of categories and models, labels and reasons are no markup."""
    names = [[EVIL, EVIL], ["<b>x</b>", f"<script>document.title='taken'</script>{EVIL}"]]
    fake = Fake(
        names,
        model=described("joint", summary=EVIL),
        beside=described(f"averaged{EVIL}", summary="&lt;i&gt;"),
        examples=[(names[0], [image(0, 1), image(1, 2)])],
    )
    page.open(fake)
    page.sample(0)
    script = names[1][1]
    page.said(
        f"They disagree: joint says {script} (67 %), averaged{EVIL} says {EVIL} (50 %).",
    )
    page.switch(1)
    page.until(lambda: len(page.texts("#said p")) == 3)
    assert page.texts("#models p") == [f"joint {EVIL}", f"averaged{EVIL} &lt;i&gt;"]
    assert page.browser.title == "What product is this?"
    assert page.all("[onerror], body script, #said *:not(p)") == []


def test_the_keyboard_alone(page: Page) -> None:
    """From the address bar to an answer without an image, and back to nothing."""
    page.open(two())

    def press(*keys: str) -> None:
        for key in keys:
            page.browser.switch_to.active_element.send_keys(key)

    def focus() -> str:
        element = page.browser.switch_to.active_element
        # What has the focus is seen to have it.
        outline = element.value_of_css_property("outline-style")
        assert outline == "solid" or element.get_attribute("tabindex") == "-1"
        return element.get_attribute("id") or plain(element.accessible_name)

    press(Keys.TAB)
    assert focus() == "Skip to the product and its answer"
    press(Keys.TAB)
    assert focus() == "choose"
    press(Keys.TAB)
    assert focus() == "Sample 1: 3 images, label CLOTHES > FEET > SHOE"
    press(Keys.ENTER)
    page.said("They disagree: joint says SHOE (56 %), averaged says BOOT (67 %).")
    assert focus() == "product-title"
    press(Keys.TAB)
    assert focus() == "over"
    press(Keys.TAB)
    assert focus() == "Use image 1, 1.jpg"
    press(Keys.SPACE)
    page.until(lambda: len(page.texts("#said p")) == 3)
    assert focus() == "Use image 1, 1.jpg"
    press(Keys.TAB)
    assert focus() == "Remove image 1, 1.jpg"
    press(Keys.ENTER)
    page.said("Both say BOOT: joint with 100 %, averaged with 100 %.")
    assert focus() == "Remove image 1, 2.jpg"
    press(Keys.TAB, Keys.TAB)
    assert focus() == "Remove image 2, 3.jpg"
    press(Keys.TAB)
    assert focus() == "min-confidence"
    press(Keys.SHIFT + Keys.TAB)
    press(Keys.ENTER)
    page.until(lambda: len(page.all("#strip li")) == 1)
    assert focus() == "Remove image 1, 2.jpg"
    press(Keys.SPACE)
    assert focus() == "choose"
    assert page.one("#intro").is_displayed()


def test_the_skip_link(page: Page) -> None:
    page.open(with_samples())
    page.sample(1)
    page.said("joint says APPLE, with 100 %.")
    page.browser.execute_script("document.querySelector('.skip').focus()")
    page.one(".skip").send_keys(Keys.ENTER)
    page.browser.switch_to.active_element.send_keys(Keys.TAB)
    assert page.browser.switch_to.active_element.get_attribute("id") == "over"


def test_names_for_screen_readers(page: Page) -> None:
    page.open(two())
    page.sample(0)
    page.said("They disagree: joint says SHOE (56 %), averaged says BOOT (67 %).")
    assert page.one("html").get_attribute("lang") == "en"
    for element in page.all("button, select, input[type=checkbox], section, article ol"):
        if element.is_displayed():
            assert element.accessible_name, element.get_attribute("outerHTML")
    assert [img.get_attribute("alt") for img in page.all("#strip img, #rows img")] == [
        "Image 1: 1.jpg",
        "Image 2: 2.jpg",
        "Image 3: 3.jpg",
    ] * 2
    # What is said is announced; an error at once, an answer when there is time.
    assert page.one("#said").aria_role == "status"
    assert page.one("#sentences").aria_role == "alert"
    # A region that is busy keeps quiet: what is said must not be in one.
    assert page.all("#answer #said, #answer #sentences") == []
    for bar in page.all(".bar"):
        assert bar.get_attribute("aria-hidden") == "true"
    levels = page.browser.execute_script(
        "return [...document.querySelectorAll('h1,h2,h3,h4')]"
        ".filter(h => h.checkVisibility()).map(h => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert len(levels) == 17  # of the page, two models, and three images with both
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(len(page.all(landmark)) == 1 for landmark in ("header", "main", "footer"))


def test_nothing_from_elsewhere(page: Page) -> None:
    page.browser.get_log("performance")
    page.open(two())
    page.sample(0)
    page.until(lambda: page.texts("article"))
    messages = [
        json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")
    ]
    requested = {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert page.server.address + "v1/predict" in requested
    own = (page.server.address, "data:", f"blob:{page.server.address}", "chrome")
    assert [url for url in requested if not url.startswith(own)] == []


LONG = [["HOME", "KITCHEN", "A-NAME-OF-A-CATEGORY-THAT-IS-LONGER-THAN-A-PHONE-IS-WIDE"]] * 2


def test_a_phone(page: Page, tmp_path: Path) -> None:
    """Nothing is wider than the screen, columns stand below each other, and buttons can be hit."""
    many = [image(number % 2, 1) for number in range(8)]
    page.open(
        Fake(LONG, examples=[(LONG[0], many)] * 5, beside=described("averaged" * 6)), width=360
    )

    def width() -> int:
        return page.browser.execute_script("return document.documentElement.scrollWidth")

    def top_of_the_product() -> float:
        return page.browser.execute_script(
            "return document.getElementById('product').getBoundingClientRect().top"
        )

    assert width() == 360
    page.sample(0)
    page.until(lambda: page.texts("article"))
    assert top_of_the_product() == pytest.approx(0, abs=1)  # scrolled to where it is seen
    page.all(".remove")[0].click()
    page.browser.execute_script("scrollTo(0, 0)")
    page.give(*files(tmp_path, many[0]))
    page.until(lambda: abs(top_of_the_product()) < 1)
    page.switch(1)
    page.until(lambda: page.texts(".change"))
    assert width() == 360
    above, below = (article.rect for article in page.all("article"))
    assert above["x"] == below["x"]
    assert above["y"] + above["height"] < below["y"]
    # WCAG 2.2, target size (minimum): 24 px.
    for element in page.all("button, select, #strip label"):
        if element.is_displayed():
            assert min(element.rect["width"], element.rect["height"]) >= 24


CONTRASTS = """
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const luminance = (colour) => {
  const [r, g, b] = parts(colour).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const background = (element) => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (parts(colour)[3] !== 0) return colour;
  }
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
  const pair = [getComputedStyle(element).color, background(element)].map(luminance);
  const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  found.push([walker.currentNode.data, ratio]);
}
return [luminance(getComputedStyle(document.body).backgroundColor), found];
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_has_contrast(page: Page, dark: bool) -> None:
    page.open(two(), dark=dark)
    page.sample(0)
    page.until(lambda: page.texts("article"))
    page.switch(1)
    page.until(lambda: page.texts("article.flipped"))
    page.browser.execute_script(
        "for (const kind of ['fault', 'change']) {"
        "  const p = document.createElement('p');"
        "  [p.className, p.textContent] = [kind, kind];"
        "  document.getElementById('sentences').append(p);"
        "}"
    )
    luminance, found = page.browser.execute_script(CONTRASTS)
    assert (luminance < 0.1) == dark
    assert {"SHOE", "changed", "fault", "agrees", "56\u00a0%", "Try again"} & {
        text for text, _ in found
    } >= {"SHOE", "changed", "fault", "agrees"}
    assert [text for text, ratio in found if ratio < 4.5] == []  # WCAG 2.2, level AA


def test_calm_where_motion_is_reduced(page: Page) -> None:
    page.open(with_samples())

    def duration() -> str:
        return page.browser.execute_script(
            "const answer = document.getElementById('answer');"
            "answer.setAttribute('aria-busy', 'true');"
            "return getComputedStyle(answer).transitionDuration"
        )

    assert duration() == "0.15s"
    reduced = {"name": "prefers-reduced-motion", "value": "reduce"}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [reduced]})
    assert duration() == "0s"


def called(page: Page, function: str, *arguments: Any) -> str:
    """What a function of words.js returns."""
    returned = page.browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "import('/page/words.js').then((words) => done(words[arguments[0]](...arguments[1])))",
        function,
        arguments,
    )
    return plain(returned)


def test_numbers_are_written_alike(page: Page) -> None:
    page.open(Fake(NAMES))
    wanted = {
        0: "0 %",
        0.0004: "< 0.1 %",
        0.0123: "1.2 %",
        0.0994: "9.9 %",
        0.0996: "10 %",
        0.5: "50 %",
        0.99: "99 %",
        0.993: "99.3 %",
        0.9995: "> 99.9 %",
        1: "100 %",
    }
    assert {share: called(page, "percent", share) for share in wanted} == wanted


def test_a_former_answer_beyond_the_list(page: Page) -> None:
    """Of thousands of categories the server lists a hundred: the others have less."""
    names = [["GROUP", f"CATEGORY-{number}"] for number in range(150)]
    page.open(Fake(names, examples=[(None, [image(0, 9), image(1, 5)])]))
    page.sample(0)
    page.said("joint says CATEGORY-0, with 64 %.")
    assert page.server.fake.asked[0][1]["topk"] == "100"
    assert page.texts("article li .leaf") == [f"CATEGORY-{number}" for number in range(1, 5)]

    def category(number: int, probability: float) -> dict[str, Any]:
        return {"category_id": number, "names": names[number], "probability": probability}

    whole = {"categories": [category(0, 0.9), category(1, 0.05)]}
    now = {"categories": [category(2, 0.8), category(3, 0.01)]}
    assert called(page, "change", "joint", whole, now) == (
        "joint changes its answer to CATEGORY-2 (80 %); "
        "CATEGORY-0 has less than 1.0 % instead of 90 %."
    )
    assert called(page, "change", "joint", whole, whole) == (
        "joint still says CATEGORY-0, with 90 % as before."
    )


def test_which_categories_are_the_same(page: Page) -> None:
    """Names recur in a tree, and JavaScript rounds large ids."""
    page.open(Fake(NAMES))

    def verdict(*categories: tuple[int, str]) -> str:
        answers = [
            {"categories": [{"category_id": number, "names": ["X", name], "probability": 0.5}]}
            for number, name in categories
        ]
        return called(page, "verdict", [{"name": "a"}, {"name": "b"}], answers)

    assert verdict((1, "SHOE"), (1, "SHOE")) == "Both say SHOE: a with 50 %, b with 50 %."
    disagree = "They disagree: a says SHOE (50 %), b says {} (50 %)."
    assert verdict((1, "SHOE"), (2, "SHOE")) == disagree.format("SHOE")
    assert verdict((2**60, "SHOE"), (2**60 + 1, "BOOT")) == disagree.format("BOOT")


@pytest.fixture
def real(service: Service) -> Iterator[str]:
    """The address of the service, in a thread of its own."""
    bound = bind("127.0.0.1", 0)
    running = uvicorn.Server(uvicorn.Config(create_app(service), log_config=None))
    thread = threading.Thread(target=running.run, args=([bound],))
    thread.start()
    yield address_of(bound)
    running.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


def test_with_a_real_model(
    browser: Any, server: FakeServer, real: str, service: Service, classifier: Classifier
) -> None:
    """From the service's own files, headers and answers to what a person reads."""
    page = Page(browser, server)
    show_as(browser, 1200, 800)
    browser.get(real)
    # Until the model is compiled the page waits, and says so.
    WebDriverWait(browser, 120).until(lambda _: page.all(".sample"))
    page.errors()
    page.sample(0)
    page.until(lambda: page.texts("article"))
    images = [image.data for image in service.examples[0].images]
    (first,) = classifier.predict([images], min_confidence=0.9)
    assert page.texts("article .leaf")[:5] == [names[-1] for names in first.names]
    shares = [float(text.strip("<> %")) for text in page.texts("article .number")[:5]]
    assert shares == pytest.approx([100 * p for p in first.probabilities], abs=0.51)
    said = page.texts("#rows li")
    assert len(said) == len(images)
    assert said[0].count(f"attention {round(100 * first.images[0].attention)} %") == 2
    (without,) = classifier.predict([images[1:]])
    page.switch(1)
    page.until(lambda: page.texts(".change"))
    assert page.text("article .leaf") == without.names[0][-1]
    assert page.errors() == []
