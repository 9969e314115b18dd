"""Answers over HTTP are those of `Classifier.predict`, and in the form that OpenAPI describes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient

from product_mil.api import Classifier
from product_mil.prediction import Prediction
from product_mil.serve.schema import PredictAnswer
from tests.serve.client import BROKEN, as_form, as_json


def check(answers: Sequence[dict[str, Any]], wanted: Sequence[Prediction]) -> None:
    """The numbers are the same within 1e-6, and everything else exactly."""
    for answer, prediction in zip(answers, wanted, strict=True):
        found = [one["category_id"] for one in answer["categories"]]
        assert found == list(prediction.category_ids)
        assert [tuple(one["names"]) for one in answer["categories"]] == list(prediction.names)
        probabilities = [one["probability"] for one in answer["categories"]]
        assert probabilities == pytest.approx(prediction.probabilities, abs=1e-6)
        assert answer["confidence"] == pytest.approx(prediction.confidence, abs=1e-6)
        assert answer["from_prior"] == prediction.from_prior
        assert (answer["sure"] is None) == (prediction.sure is None)
        if prediction.sure is not None:
            sure = dataclasses.asdict(prediction.sure)
            assert answer["sure"].pop("probability") == pytest.approx(sure.pop("probability"))
            assert answer["sure"] == {**sure, "names": list(sure["names"])}
        for image, said in zip(answer["images"], prediction.images, strict=True):
            assert image["attention"] == pytest.approx(said.attention, abs=1e-6)
            assert image["category_id"] == said.category_id
            assert (image["names"] is None) == (said.category_id is None)
            assert image["contribution"] == pytest.approx(said.contribution, abs=1e-5)
            assert image["error"] == said.error


def test_products_as_json(
    client: TestClient, classifier: Classifier, products: list[list[bytes]]
) -> None:
    products = [[BROKEN, *products[0]], [BROKEN], *products[1:10]]
    reply = client.post("/v1/predict", json=as_json(products, topk=3, min_confidence=0.7))
    assert reply.status_code == 200
    answer = reply.json()
    PredictAnswer.model_validate_json(reply.content, strict=True)
    assert answer["beside"] is None
    assert [one["id"] for one in answer["products"]] == [str(n) for n in range(len(products))]
    wanted = classifier.predict(products, topk=3, min_confidence=0.7)
    check(answer["products"], wanted)
    assert wanted[0].sure is not None
    assert answer["products"][0]["images"][0]["error"].startswith("not a readable image")
    assert answer["products"][1]["from_prior"]


def test_ids_come_back_as_they_came(client: TestClient) -> None:
    ids = [7, "7", " sku 7 ", -(10**30), None]
    asked = as_json([[BROKEN]] * len(ids))
    for product, product_id in zip(asked["products"], ids, strict=True):
        product["id"] = product_id
    found = client.post("/v1/predict", json=asked).json()["products"]
    assert [product["id"] for product in found] == ids
    reply = client.post("/v1/predict", files=as_form([BROKEN]), data={"id": " sku 7 "})
    assert [product["id"] for product in reply.json()["products"]] == [" sku 7 "]


def test_a_product_as_a_form(
    client: TestClient, classifier: Classifier, products: list[list[bytes]]
) -> None:
    images = [*products[0], *products[1], *products[2], *products[3]][:6]  # two more than are used
    options = {"topk": "2", "min_confidence": "", "beside": "true"}
    reply = client.post("/v1/predict", files=as_form(images), data=options)
    assert reply.status_code == 200
    answer = reply.json()
    PredictAnswer.model_validate_json(reply.content, strict=True)
    wanted = classifier.predict([images], topk=2)
    check(answer["products"], wanted)
    check(answer["beside"], wanted)
    assert answer["products"][0]["id"] is None
    assert answer["products"][0]["images"][5]["error"].startswith("not used: the model takes")
