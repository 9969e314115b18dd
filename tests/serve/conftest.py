"""A service of a tiny model, and products of the sample as a client has them."""

from collections.abc import Iterator
from pathlib import Path

import bson
import pytest
from fastapi.testclient import TestClient

import product_mil
from product_mil.api import Classifier
from product_mil.serve.app import create_app
from product_mil.serve.examples import examples_of
from product_mil.serve.limits import Limits
from product_mil.serve.service import Service
from product_mil.sources.sample.draw import SampleFiles
from tests.serve.client import when_ready


@pytest.fixture(scope="module")
def classifier(trained: Path) -> Classifier:
    return product_mil.load(trained)


@pytest.fixture(scope="module")
def products(sample: SampleFiles) -> list[list[bytes]]:
    records = bson.decode_all(sample.train.read_bytes())[:40]
    return [[image["picture"] for image in record["imgs"]] for record in records]


@pytest.fixture(scope="module")
def service(classifier: Classifier) -> Service:
    limits = Limits()
    return Service([classifier, classifier], examples_of(classifier, None, limits), limits)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(service)) as client:
        when_ready(client)
        yield client
