"""The page in a browser, against a server that answers by rule."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.page.fake import Fake, FakeServer
from tests.serve.page.screen import NAMES, Page


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer(Fake(NAMES)) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def page(browser: Any, server: FakeServer) -> Iterator[Page]:
    browser.get_log("browser")
    opened = Page(browser, server)
    yield opened
    assert opened.errors() == []
