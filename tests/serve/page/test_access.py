"""The page for everybody: keyboard, screen reader, phone, contrast, calm."""

from itertools import pairwise
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.serve.page.fake import Fake, described, image
from tests.serve.page.screen import Page, files, plain, two, with_samples


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
