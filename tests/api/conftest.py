"""Products of the sample as a program has them, with faults among them."""

from pathlib import Path
from typing import Any

import bson
import pytest

import product_mil
from product_mil.api import Classifier
from product_mil.sources.sample.draw import SampleFiles

BROKEN = b"no image"


@pytest.fixture(scope="module")
def classifier(trained: Path) -> Classifier:
    return product_mil.load(trained)


@pytest.fixture(scope="module")
def records(sample: SampleFiles) -> list[dict[str, Any]]:
    """Of the sample: with unreadable images, without images, with more than are used."""
    found = bson.decode_all(sample.train.read_bytes())[:50]
    for number in (3, 8):
        found[number]["imgs"][0] = {"picture": BROKEN}
    found[4]["imgs"] = [{"picture": BROKEN}]
    found[5]["imgs"] = []
    found[6]["imgs"] = [image for record in found[10:20] for image in record["imgs"]][:7]
    return found


@pytest.fixture(scope="module")
def products(records: list[dict[str, Any]]) -> list[list[bytes]]:
    return [[image["picture"] for image in record["imgs"]] for record in records]
