"""The page as people use it, in a browser: filters, paging, pictures, and nothing from outside."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pytest
import simplejpeg
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from product_mil.compare.answers import Answers, Entry, Questions
from product_mil.compare.gather.headline import all_pairs
from product_mil.compare.page.figures import Confusion
from product_mil.compare.page.gallery import (
    BROKE,
    Detail,
    cards,
    select,
)
from product_mil.compare.page.html import page
from product_mil.compare.report import GalleryNote, Report
from product_mil.compare.statistics.comparison import compare
from product_mil.compare.statistics.differences import control
from product_mil.sources.bson.index import open_catalogue
from product_mil.sources.categories import Categories
from tests.chromium import show_as

N = 60
EVIL = "<script>document.title='taken'</script>"
NAMES = [
    [EVIL, "</script><img src=x onerror=alert(1)>", "&amp; \"quoted\" 'names' {{ 7*7 }}"],
    ["clothes", "feet", "shoe"],
    ["food", "fruit", "apple"],
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A page of 60 products, 40 of which change; the photos of one are damaged."""
    directory = tmp_path_factory.mktemp("page")
    categories = Categories.from_json(json.dumps({"ids": [1, 2, 3], "names": NAMES}))
    rng = np.random.default_rng(0)
    count = rng.integers(1, 5, N).astype(np.int32)
    asked = Questions(np.arange(N) + 2**60, rng.choice([1, 2, 3], N), count)
    other = np.where(asked.category_id == 1, 2, 1)
    number = np.arange(N)
    a = Answers(np.where(number < 30, asked.category_id, other))
    b = Answers(np.where((number >= 10) & (number < 40), other, asked.category_id))
    records = []
    for row in range(N):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(20, 0).repeat(20, 1)
        picture = b"no JPEG" if row == 13 else simplejpeg.encode_jpeg(pixels)
        images = [{"picture": picture}] * int(count[row])
        records.append(bson.encode({"_id": int(asked.product_id[row]), "imgs": images}))
    (directory / "d.bson").write_bytes(b"".join(records))
    chosen = select(asked, a, b, categories)

    def details(answers: Answers, adds: bool) -> list[Detail]:
        return [
            Detail(
                [(int(answers.guess[row]), 0.7), (3, 0.2)],
                {i: 1 / int(count[row]) for i in range(int(count[row]))},
                {i: 1 + i % 3 for i in range(int(count[row]))},
                {i: (3.14, -0.26, 0.04, 12)[i] for i in range(int(count[row]))} if adds else {},
            )
            for row in chosen.rows
        ]

    gallery = cards(
        asked,
        chosen,
        {EVIL: details(a, adds=True), "averaged": details(b, adds=False)},
        {EVIL: a, "averaged": b},
        categories,
        open_catalogue(directory / "d.bson"),
        np.arange(N),
    )
    pair = (Entry(EVIL, (a,), "mean"), Entry("averaged", (b,), "probabilities"))
    rule = Entry("averaged/vote", (Answers(other),), "each image has one vote", "averaged")
    entries = (*pair, rule)
    found = compare(asked, entries, all_pairs(entries, "averaged"), categories)
    report = Report(
        comparison=found,
        headline=(EVIL, "averaged"),
        control=control(asked, *pair, found.difference(EVIL, "averaged")),
        data="<b>d.bson</b>",
        differing_fields={},
        like_for_like=False,
        notes=[EVIL],
        warnings=[],
        gallery=GalleryNote(
            shown=len(gallery["cards"]),
            total=40,
            fixed=20,
            broke=20,
            alone_by="averaged",
            attention_by=EVIL,
            remark="",
        ),
        version="0",
        date="2026-11-25",
    )
    confused = [Confusion(true=NAMES[0], guess=NAMES[1], a=1, b=2)]
    text = page(report, plots=[], confusions=confused, gallery=gallery)
    path = directory / "index.html"
    path.write_text(text, encoding="utf-8")
    return path, gallery


def status(browser: Any) -> str:
    return browser.find_element(By.ID, "status").text


def articles(browser: Any) -> list[str]:
    return [element.text for element in browser.find_elements(By.TAG_NAME, "article")]


def choose(browser: Any, name: str, value: str) -> None:
    Select(browser.find_element(By.ID, name)).select_by_value(value)


def test_in_a_browser(browser: Any, made: tuple[Path, dict[str, Any]]) -> None:
    path, gallery = made
    browser.get("about:blank")
    browser.get_log("performance")  # requests of other tests' pages
    browser.get(path.resolve().as_uri())
    assert status(browser) == "1 to 12 of 40 products, page 1 of 4"
    # Thumbnails are there and whole, and one image is said to be damaged.
    assert len(articles(browser)) == 12
    shown = browser.execute_script(
        "return [...document.images].filter(i => { i.loading = 'eager'; return i.alt; })"
        ".map(i => i.decode().then(() => i.naturalWidth))"
        ".reduce((all, one) => all.then(ws => one.then(w => [...ws, w])), Promise.resolve([]))"
    )
    expected = sum(n is not None for card in gallery["cards"][:12] for n in card["pictures"])
    assert shown == [112] * expected
    assert "not readable" in browser.find_element(By.ID, "cards").text
    # An id beyond what a JavaScript number can hold.
    assert str(2**60 + 10) in articles(browser)[0]

    # Paging, with the keyboard.
    first = articles(browser)
    following = browser.find_element(By.ID, "next")
    following.send_keys(Keys.ENTER)
    assert status(browser) == "13 to 24 of 40 products, page 2 of 4"
    assert not set(articles(browser)) & set(first)
    for _ in range(2):
        following.send_keys(Keys.SPACE)
    assert status(browser) == "37 to 40 of 40 products, page 4 of 4"
    assert not following.is_enabled()
    assert len(articles(browser)) == 4
    browser.find_element(By.ID, "back2").click()
    assert status(browser) == "25 to 36 of 40 products, page 3 of 4"
    assert browser.switch_to.active_element.get_attribute("id") == "gallery"

    # Filters, alone and together.
    choose(browser, "kind", BROKE)
    assert status(browser) == "1 to 12 of 20 products, page 1 of 2"
    assert all(text.startswith(BROKE) for text in articles(browser))
    choose(browser, "category", f"={EVIL}")
    choose(browser, "count", "2")
    wanted = [
        card["id"]
        for card in gallery["cards"]
        if (card["kind"], card["true"], card["images"]) == (BROKE, 1, 2)
    ]
    assert [re.findall(r"product (\d+)", text)[0] for text in articles(browser)] == wanted
    choose(browser, "kind", "")
    choose(browser, "count", "")
    choose(browser, "category", "=food")
    assert all("food" in text for text in articles(browser))

    # Text from data stays text, nothing went wrong, and nothing was fetched.
    assert "taken" not in browser.title.split("'")[0]
    assert browser.title.startswith("<script>")
    assert EVIL in browser.find_element(By.TAG_NAME, "h1").text
    assert "<b>d.bson</b>" in browser.find_element(By.TAG_NAME, "header").text
    assert NAMES[0][2] in browser.find_element(By.ID, "categories").find_element(
        By.XPATH, ".."
    ).text  # fmt: skip
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = {
        message["params"]["request"]["url"].partition(",")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    # chrome:// and chrome-untrusted:// are the browser's own first tab.
    fetched = {url for url in requested if not url.startswith(("data:", "chrome"))}
    assert fetched == {path.resolve().as_uri()}


def test_every_pair(browser: Any, made: tuple[Path, dict[str, Any]]) -> None:
    """The better of two comes first; the pairs of one entry can be chosen."""
    browser.get(made[0].resolve().as_uri())

    def pairs() -> list[tuple[str, str, str]]:
        rows = browser.find_elements(By.CSS_SELECTOR, "#pairrows tr")
        cells = [row.find_elements(By.CSS_SELECTOR, "th, td") for row in rows if row.is_displayed()]
        return [(row[0].text, row[1].text, row[2].text.split()[0]) for row in cells]

    # Of 60 products the first is right on 30, the second on 30 and the rule on none.
    everything = pairs()
    assert everything == [
        (EVIL, "averaged", "0"),
        (EVIL, "averaged/vote", "+50.0"),
        ("averaged", "averaged/vote", "+50.0"),
    ]
    choose(browser, "one", f"={EVIL}")
    assert pairs() == everything[:2]
    choose(browser, "one", "=averaged/vote")
    assert pairs() == everything[1:]
    choose(browser, "one", "")
    assert pairs() == everything


def test_the_verdict_comes_first(browser: Any, made: tuple[Path, dict[str, Any]]) -> None:
    browser.get(made[0].resolve().as_uri())
    said = browser.find_element(By.CSS_SELECTOR, "main p").text
    assert said.startswith(f"No difference between {EVIL} and averaged is shown: ")


def test_everybody_by_number_of_images(browser: Any, made: tuple[Path, dict[str, Any]]) -> None:
    """With an interval in each cell."""
    browser.get(made[0].resolve().as_uri())
    region = browser.find_element(
        By.CSS_SELECTOR, "[aria-label='Table of all entries by number of images']"
    )
    rows = region.find_elements(By.CSS_SELECTOR, "tbody tr")
    assert [row.find_element(By.TAG_NAME, "th").text for row in rows] == ["averaged", "vote", EVIL]
    for row in rows:
        for cell in row.find_elements(By.TAG_NAME, "td"):
            assert re.fullmatch(r"[\d.]+.%\n[\d.]+ to [\d.]+.%", cell.text), cell.text


def test_each_image_tells_what_it_adds(browser: Any, made: tuple[Path, dict[str, Any]]) -> None:
    """To the category that the first run chooses, with its sign."""
    path, gallery = made
    browser.get(path.resolve().as_uri())
    choose(browser, "count", "4")
    card = next(card for card in gallery["cards"] if card["images"] == 4)
    chosen = card["runs"][EVIL]["top"][0][0]
    captions = [
        element.text
        for element in browser.find_elements(By.TAG_NAME, "article")[0].find_elements(
            By.TAG_NAME, "figcaption"
        )
    ]
    name = NAMES[chosen - 1][-1]
    for caption, value in zip(captions, ("+3.1", "\u22120.3", "0.0", "+12.0"), strict=True):
        assert f"attention 25 %\n{value} for {name}\nalone: " in caption


@pytest.mark.parametrize(("width", "dark"), [(360, False), (1200, True)])
def test_fits_the_screen(
    browser: Any, made: tuple[Path, dict[str, Any]], width: int, dark: bool
) -> None:
    """Nothing is wider than a phone; every text has contrast in both colour schemes."""
    show_as(browser, width, 800, dark=dark)
    browser.get(made[0].resolve().as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    colours = browser.execute_script(
        """const of = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
        return ["--ink", "--soft", "--accent", "--good", "--bad", "--sheet"].map(of);"""
    )
    *texts, sheet = (luminance(colour.strip()) for colour in colours)
    for text in texts:
        light, darker = max(text, sheet), min(text, sheet)
        assert (light + 0.05) / (darker + 0.05) >= 4.5  # WCAG 2.2, level AA
    assert (sheet < 0.1) == dark


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb as WCAG defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_names_for_screen_readers(browser: Any, made: tuple[Path, dict[str, Any]]) -> None:
    """Controls have names, pictures an alternative, tables headings, and the page a language."""
    browser.get(made[0].resolve().as_uri())
    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    for name in ("select", "button"):
        for element in browser.find_elements(By.TAG_NAME, name):
            assert element.accessible_name, element.get_attribute("outerHTML")
    for image in browser.find_elements(By.TAG_NAME, "img"):
        assert image.get_attribute("alt")
    for table in browser.find_elements(By.TAG_NAME, "table"):
        assert table.find_elements(By.CSS_SELECTOR, "thead th[scope=col]")
    levels = browser.execute_script(
        "return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_no_address_in_the_page(made: tuple[Path, dict[str, Any]]) -> None:
    """Without a browser too: nothing to fetch, and no markup from data."""
    text = made[0].read_text(encoding="utf-8")
    assert not re.search(r"(src|href|srcset)=\"(?!data:|#)", text)
    assert "url(" not in text
    assert EVIL not in text
    assert "onerror=alert" not in text.replace("\\u003cimg src=x onerror=alert", "").replace(
        "&lt;img src=x onerror=alert", ""
    )
