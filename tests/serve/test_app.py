"""What a server says of itself, and what holds for all its answers."""

import builtins
import contextlib
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from product_mil.api import Classifier
from product_mil.serve.app import create_app
from product_mil.serve.examples import COUNT, choose_examples, examples_of
from product_mil.serve.limits import Limits
from product_mil.serve.service import Service
from product_mil.sources.memory import catalogue_of
from product_mil.sources.sample.draw import SampleFiles
from tests.scripts import call_tool
from tests.serve.client import BROKEN, as_form, when_ready


def test_the_models(client: TestClient, classifier: Classifier, trained: Path) -> None:
    model = {
        "name": trained.name,
        "summary": f"gated_attention over small_cnn, {len(classifier.names)} categories",
        "pooling": "gated_attention",
        "backbone": "small_cnn",
        "calibrated": True,
        "sums_over_images": True,
    }
    assert client.get("/v1/model").json() == {
        "model": model,
        "beside": model,
        "max_images": 4,
        "max_images_accepted": 8,
        "max_products": 64,
        "max_image_bytes": 20_000_000,
        "max_request_bytes": 64_000_000,
        "image_size_px": 48,
        "num_categories": len(classifier.names),
        "levels": 3,
    }


def test_the_categories(client: TestClient, classifier: Classifier) -> None:
    known = [
        {"category_id": category_id, "names": list(names)}
        for category_id, names in zip(
            classifier.category_ids.tolist(), classifier.names, strict=True
        )
    ]

    def found(**query: Any) -> dict[str, Any]:
        return client.get("/v1/categories", params=query).json()

    assert found() == {"categories": known, "total": len(known)}
    assert found(offset=3, limit=2) == {"categories": known[3:5], "total": len(known)}
    assert found(offset=10**6) == {"categories": [], "total": len(known)}
    path = " > ".join(known[2]["names"])
    assert known[2] in found(query=path.swapcase())["categories"]
    assert found(query=known[2]["category_id"]) == {"categories": [known[2]], "total": 1}
    assert found(query="no such") == {"categories": [], "total": 0}


def test_the_examples(client: TestClient, classifier: Classifier) -> None:
    examples = client.get("/v1/examples").json()["examples"]
    assert len(examples) == COUNT
    products = classifier.validation_products()
    assert products is not None
    catalogue = products.catalogue
    counts = [len(example["images"]) for example in examples]
    assert sorted(counts, key=lambda count: count < 2) == counts  # several images first
    assert max(counts) > 1
    for number, example in enumerate(examples):
        row = int(np.flatnonzero(catalogue.product_id == int(example["id"]))[0])
        assert row in products.product_rows
        assert example["number"] == number
        category_id = catalogue.category_id[row]
        of_category = np.flatnonzero(classifier.category_ids == category_id)[0]
        assert example["names"] == list(classifier.names[of_category])
        first = int(catalogue.first_image[row])
        stored = list(catalogue.read(np.arange(first, first + len(example["images"]))))
        for index, (path, data) in enumerate(zip(example["images"], stored, strict=True)):
            assert path == f"/v1/examples/{number}/{index}.jpg"
            reply = client.get(path)
            assert reply.content == data
            assert reply.headers["content-type"] == "image/jpeg"
    again = examples_of(classifier, None, Limits())
    assert [example["id"] for example in examples] == [product.id for product in again]


def test_examples_of_other_data(
    classifier: Classifier, sample: SampleFiles, products: Sequence[Sequence[bytes]]
) -> None:
    found = examples_of(classifier, str(sample.train), Limits())
    assert len(found) == COUNT
    image = products[0][0]
    catalogue = catalogue_of(
        [[image], [image, image], [image, BROKEN], [], [image] * 9],
        product_id=["one", "two", "broken", "none", "many"],
        category_id=[None, "another category", None, None, None],
    )
    found = choose_examples(catalogue, np.arange(5), {}, Limits())
    assert [(each.id, each.names, len(each.images)) for each in found] == [
        ("two", None, 2), ("one", None, 1),
    ]  # fmt: skip


def test_it_says_when_it_is_ready(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    may_compile = threading.Event()
    monkeypatch.setattr(Classifier, "compile", lambda _: may_compile.wait(30))
    with TestClient(create_app(Service([classifier]))) as client:
        starting = {"detail": "the model is being compiled; try again in a few seconds"}
        for path in ("/health", "/v1/model"):
            reply = client.get(path)
            assert (reply.status_code, reply.json()) == (503, starting)
            assert reply.headers["retry-after"] == "1"
        reply = client.post("/v1/predict", files=as_form([BROKEN]))
        assert (reply.status_code, reply.json()) == (503, starting)
        assert client.get("/v1/examples").json() == {"examples": []}
        may_compile.set()
        when_ready(client)
        assert client.get("/health").json() == {"status": "ready"}
        assert client.get("/v1/model").json()["beside"] is None


def test_the_metrics(classifier: Classifier, products: list[list[bytes]]) -> None:
    service = Service([classifier])
    with TestClient(create_app(service)) as client:
        when_ready(client)
        images = [BROKEN, *products[0][:2]]
        assert client.post("/v1/predict", files=as_form(images)).status_code == 200
        assert client.post("/v1/predict", files=[]).status_code == 415
        assert client.get("/nowhere").status_code == 404
        lines = set(client.get("/metrics").text.splitlines())
    assert {
        'product_mil_requests_total{path="/v1/predict",status="200"} 1.0',
        'product_mil_requests_total{path="/v1/predict",status="415"} 1.0',
        'product_mil_requests_total{path="other",status="404"} 1.0',
        'product_mil_request_seconds_count{path="/v1/predict"} 2.0',
        f'product_mil_images_total{{model="model"}} {len(images)}.0',
        'product_mil_unreadable_images_total{model="model"} 1.0',
        f'product_mil_batch_images_sum{{model="model"}} {len(images)}.0',
        'product_mil_waiting_images{model="model"} 0.0',
    } <= lines


def test_a_mistake_of_the_server(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    app = create_app(Service([classifier]))
    with TestClient(app) as client:
        when_ready(client)
        monkeypatch.setattr(Classifier, "answers", fail)
        caplog.set_level(logging.INFO, "product_mil.serve")
        reply = client.post("/v1/predict", files=as_form([BROKEN]))
    assert reply.status_code == 500
    assert reply.json() == {"detail": "a mistake in the server; its log says more"}
    assert reply.headers["x-content-type-options"] == "nosniff"
    said = [record.getMessage() for record in caplog.records if "product_mil" in record.name]
    assert "in fail\n" in said[0]
    assert said[0].endswith("ZeroDivisionError: secret\n")
    assert said[1].startswith("POST /v1/predict 500 ")


def test_every_answer_keeps_browsers_within_the_server(client: TestClient) -> None:
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    assert client.head("/").status_code == 200
    for path in ("/", "/page/page.js", "/v1/model", "/v1/examples/0/0.jpg", "/nowhere", "/metrics"):
        headers = client.get(path).headers
        assert headers["cache-control"] == "no-cache"
        assert headers["content-security-policy"] == policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert client.get("/v1/examples/0/0.jpg", headers={"host": "["}).status_code == 200
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404


def test_openapi_has_examples_and_every_refusal(client: TestClient) -> None:
    found = client.get("/openapi.json").json()
    predict = found["paths"]["/v1/predict"]["post"]
    assert predict["responses"].keys() == {
        "200", "400", "408", "413", "415", "422", "429", "503",
    }  # fmt: skip
    content = predict["requestBody"]["content"]
    assert content.keys() == {"application/json", "multipart/form-data"}
    (example,) = content["application/json"]["schema"]["examples"]
    reply = client.post("/v1/predict", json=example)
    assert reply.status_code == 200
    assert reply.json()["products"][0]["id"] == "sku 7"
    product = content["application/json"]["schema"]["$defs"]["AskedProduct"]["properties"]
    kinds = {"integer", "string", "null"}
    assert {kind["type"] for kind in product["id"]["anyOf"]} == kinds
    answered = found["components"]["schemas"]["Product"]["properties"]
    assert {kind["type"] for kind in answered["id"]["anyOf"]} == kinds
    assert "id" in content["multipart/form-data"]["schema"]["properties"]
    category = found["components"]["schemas"]["LikelyCategory"]["properties"]
    assert category["probability"]["description"] == "the model's own, not calibrated"


def test_without_the_extra(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import_it = builtins.__import__

    def without(name: str, *others: Any) -> Any:
        if name == "product_mil.serve.server":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return import_it(name, *others)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SystemExit) as ended:
        call_tool("serve", "--model", trained)
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: serve needs uvicorn, which is not installed: pip install 'product_mil[serve]'\n"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "localhost"])
def test_who_can_reach_it(host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):  # there is no such model
        call_tool("serve", "--model", tmp_path / "nowhere", "--host", host, "--port", 0)
    warning = f"--host {host}: others can reach this server, and it asks nobody for a password\n"
    assert capsys.readouterr().err.startswith(warning) == (host == "0.0.0.0")
