"""Images of a person and of samples: what is sent, shown, refused."""

import threading
from pathlib import Path

import pytest

from tests.serve.page.fake import Fake, image
from tests.serve.page.screen import EVIL, NAMES, ONE, PRODUCT, SHOE, Page, files, with_samples


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


def test_images_that_are_too_much_together_are_not_sent(page: Page, tmp_path: Path) -> None:
    """The server would refuse all of them, and only after they were sent."""
    page.open(Fake(NAMES, max_request_bytes=15_000))
    large = [ONE[0][:-2] + bytes(5000) + ONE[0][-2:]] * 2
    page.give(*files(tmp_path, large[0], *large, ONE[0]))
    page.complained("All images may have 15 kB together: 1 left out.")
    page.said("joint says APPLE, with 100 %.")
    (images, _) = page.server.fake.asked[0]
    assert [len(image) > 5000 for image in images] == [True, True, False]
    page.give(*files(tmp_path, large[0]))
    page.complained("All images may have 15 kB together: 1 left out.")
    assert len(page.all("#strip li")) == 3
