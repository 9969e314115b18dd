"""What the page says of answers: one model or two, with all images or without some."""

from pathlib import Path
from typing import Any

from selenium.webdriver.support.select import Select

from tests.serve.page.fake import Fake, described, image
from tests.serve.page.screen import (
    EVIL,
    NAMES,
    ONE,
    PRODUCT,
    Page,
    called,
    files,
    two,
    with_samples,
)


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
