"""The page and its server: one that refuses, is gone, starts, answers late; and a real one."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from selenium.webdriver.support.wait import WebDriverWait

from product_mil.api import Classifier
from product_mil.serve.app import create_app
from product_mil.serve.server import address_of, bind
from product_mil.serve.service import Service
from tests.chromium import show_as
from tests.serve.page.fake import FakeServer
from tests.serve.page.screen import EVIL, Page, two, with_samples


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


@pytest.mark.slow
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


@pytest.mark.slow
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
