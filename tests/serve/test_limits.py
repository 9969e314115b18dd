"""Requests that are wrong or too large are refused with one line, before an image is decoded."""

import asyncio
import base64
import io
import json
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.types import ASGIApp, Message

from product_mil.api import Classifier
from product_mil.data.decode import num_pixels
from product_mil.serve.app import create_app
from product_mil.serve.limits import Limits
from product_mil.serve.service import Service
from tests.serve.client import as_form, as_json, when_ready

SMALL = Limits(images=3, products=2, image_bytes=20_000, body_bytes=100_000, pixels=1_000_000)
GIF = base64.b64decode("R0lGODlhAQABAIAAAP8AAP///yH5BAAAAAAALAAAAAABAAEAAAICRAEAOw==")
FORM = "multipart/form-data; boundary=x"


def part(headers: str, data: bytes) -> bytes:
    return b"--x\r\n" + headers.encode() + b"\r\n\r\n" + data + b"\r\n"


def png(width: int, height: int) -> bytes:
    """A black image, small as a file whatever its size."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG", optimize=False)
    return file.getvalue()


def png_of_header(width: int, height: int) -> bytes:
    """A PNG that ends where its pixels begin."""
    head = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"
    checksum = zlib.crc32(head).to_bytes(4)
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + head + checksum + b"\0\0\0\x09IDAT"


@pytest.fixture(scope="module")
def small(classifier: Classifier) -> Iterator[TestClient]:
    """A server of one model and tight limits, which never sees an exception."""
    with TestClient(create_app(Service([classifier], limits=SMALL))) as client:
        when_ready(client)
        yield client


def refusal(reply: Any, status: int) -> str:
    assert reply.status_code == status, reply.text
    assert list(reply.json()) == ["detail"]
    line = reply.json()["detail"]
    assert "\n" not in line
    assert len(line) < 400
    assert reply.headers["x-content-type-options"] == "nosniff"
    return line


ONE = as_json([[GIF]])
DEEP = '{"products": ' + "[" * 50_000
WRONG_JSON = {
    "no JSON": (b"\xff\xfe", "Invalid JSON"),
    "cut": (b'{"products": [', "Invalid JSON: EOF while parsing"),
    "deep": (DEEP.encode(), "Invalid JSON: recursion limit exceeded"),
    "a list": (b"[]", "Input should be an object"),
    "nothing asked": (b"{}", "products: Field required"),
    "no product": ({"products": []}, "0 products: send 1 to 2"),
    "many products": (as_json([[GIF]] * 3), "3 products: send 1 to 2"),
    "no image": (as_json([[GIF], []]), "product 1 has 0 images: send 1 to 3"),
    "many images": (as_json([[GIF] * 4]), "product 0 has 4 images: send 1 to 3"),
    "a large image": (
        as_json([[GIF, bytes(20_001)]]),
        "image 1 of product 0 has 20001 bytes, more than 20000: send a smaller copy",
    ),
    "no base64": (
        {"products": [{"images": ["data:image/gif;base64,R0lG"]}]},
        "image 0 of product 0 is no base64: encode the bytes of the file, without line breaks and "
        "without a prefix such as data:; the alphabet has + and /, not - and _; addresses of "
        "images are not fetched",
    ),
    "letters": ({"products": [{"images": ["é"]}]}, "image 0 of product 0 is no base64"),
    "a number": ({"products": [{"images": [1]}]}, "products.0.images.0: Input should be a valid"),
    "text": (
        {"products": [{"images": "R0lG"}]},
        "products.0.images: Input should be a valid array",
    ),
    "another field": ({**ONE, "top_k": 3}, "top_k: no such field (did you mean topk?)"),
    "images at the top": (
        {"images": ["abc"]},
        "products: Field required; images: no such field (there are topk, "
        "min_confidence, beside, products)",
    ),
    "another field of a product": (
        {"products": [{"image": []}]},
        "products.0.images: Field required; products.0.image: no such field (did you mean images?)",
    ),
    "a name of two lines": ({**ONE, "a\nb": 1}, "a b: no such field (there are "),
    "five mistakes": (
        {**ONE, "topk": 0, "beside": 7, "v" * 999: 1, "w" * 999: 2, "x": 3},
        "topk: Input should be greater than or equal to 1; beside: Input should be a valid boolean",
    ),
    "an id with a point": ({"products": [{"id": 7.0, "images": []}]}, "products.0.id"),
    "an id that is true": ({"products": [{"id": True, "images": []}]}, "products.0.id"),
    "topk 0": ({**ONE, "topk": 0}, "topk: Input should be greater than or equal to 1"),
    "a huge topk": ({**ONE, "topk": 10**400}, "topk: "),
    "a topk of text": ({**ONE, "topk": "many"}, "topk: Input should be a valid integer"),
    "NaN": (json.dumps({**ONE, "min_confidence": float("nan")}).encode(), "min_confidence: "),
    "infinite": ({**ONE, "min_confidence": 1e999}, "min_confidence: Input should be"),
    "above 1": ({**ONE, "min_confidence": 1.5}, "min_confidence: Input should be less than"),
    "one model": ({**ONE, "beside": True}, "beside: this server holds one model; leave it out"),
}


@pytest.mark.parametrize(("body", "line"), WRONG_JSON.values(), ids=WRONG_JSON)
def test_wrong_json(small: TestClient, body: bytes | dict[str, Any], line: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = small.post("/v1/predict", content=content, headers={"content-type": "application/json"})
    assert refusal(reply, 413 if "more than" in line else 422).startswith(line)


NAME = 'content-disposition: form-data; name="images"'
FILE = f'{NAME}; filename="a.gif"'
WRONG_FORMS = {
    "empty": (FORM, b"", 422, "product 0 has 0 images"),
    "no boundary": ("multipart/form-data", b"--x--\r\n", 400, "the form is damaged: Missing bound"),
    "garbage": (FORM, b"\0\1\2" * 99, 400, "the form is damaged"),
    "no name": (FORM, part("content-type: image/gif", GIF) + b"--x--", 400, "the form is damaged"),
    "text": (FORM, part(NAME, b"hello") + b"--x--", 422, "the field 'images' is text: send files"),
    "another file": (
        FORM,
        part(FILE.replace("images", "image"), GIF) + b"--x--",
        422,
        "the field 'image' is a file: send files as images",
    ),
    "a wrong option": (
        FORM,
        part(FILE, GIF) + part(NAME.replace("images", "topk"), b"NaN") + b"--x--",
        422,
        "topk: Input should be a valid integer",
    ),
    "a charset": (
        FORM + "; charset=klingon",
        part(FILE, GIF) + part(NAME.replace("images", "who"), b"me") + b"--x--",
        422,
        "who: no such field (there are topk, min_confidence, beside, id, images)",
    ),
    "another name": (
        FORM,
        part(FILE, GIF) + part(NAME.replace("images", "top_k"), b"3") + b"--x--",
        422,
        "top_k: no such field (did you mean topk?)",
    ),
    "many images": (FORM, part(FILE, GIF) * 4 + b"--x--", 422, "product 0 has 4 images"),
}


@pytest.mark.parametrize(("kind", "body", "status", "line"), WRONG_FORMS.values(), ids=WRONG_FORMS)
def test_wrong_forms(small: TestClient, kind: str, body: bytes, status: int, line: str) -> None:
    reply = small.post("/v1/predict", content=body, headers={"content-type": kind})
    assert refusal(reply, status).startswith(line)


def test_how_many_mistakes_are_not_said(small: TestClient) -> None:
    unknown = {f"field {number}": 1 for number in range(5)}
    said = refusal(small.post("/v1/predict", json={**ONE, **unknown}), 422)
    assert said.count("no such field") == 3
    assert said.endswith(" (and 2 more)")


def test_other_kinds_of_requests(small: TestClient) -> None:
    send = "send application/json or multipart/form-data"
    for headers, line in (
        ({}, f"content-type is missing: {send}"),
        ({"content-type": "image/gif"}, f"content-type is image/gif: {send}"),
        (
            {"content-type": "application/json", "content-encoding": "gzip"},
            "content-encoding is gzip: send the request uncompressed",
        ),
    ):
        reply = small.post("/v1/predict", content=GIF, headers=headers)
        assert refusal(reply, 415) == line
    assert refusal(small.get("/v1/predict"), 405) == "GET is not answered: use POST"
    assert small.get("/v1/predict").headers["allow"] == "POST"
    assert refusal(small.put("/"), 405) == "PUT is not answered: use GET or HEAD"
    assert refusal(small.post("/page/page.js"), 405) == "POST is not answered: use GET or HEAD"
    assert refusal(small.get("/nowhere"), 404)
    assert refusal(small.get("/v1/categories?limit=-1"), 422).startswith("query.limit: Input")
    assert refusal(small.get("/v1/examples/0/0.jpg"), 404)


def test_pixels_are_counted_before_they_are_decoded(small: TestClient) -> None:
    many = png(800, 800)
    assert num_pixels(many) == 640_000
    line = "the images have 1 megapixels together, more than 1: send fewer at a time, or smaller"
    reply = small.post("/v1/predict", files=as_form([many, many]))
    assert refusal(reply, 413).startswith(line)
    (image,) = small.post("/v1/predict", files=as_form([many])).json()["products"][0]["images"]
    assert image["error"] is None
    # An image of so many pixels is never decoded, and costs itself alone.
    huge = png_of_header(20_000, 20_000)
    assert num_pixels(huge) == 400_000_000
    reply = small.post("/v1/predict", files=as_form([huge, GIF]))
    first, second = reply.json()["products"][0]["images"]
    assert "400" in first["error"]
    assert second["error"] is None


async def exchange(
    app: ASGIApp, chunks: AsyncIterator[bytes], **headers: str
) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Send the chunks as a request; its status, headers and answer."""
    sent: list[Message] = []

    async def receive() -> Message:
        chunk = await anext(chunks, None)
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    all_headers = {"content-type": "application/json", **headers}
    scope = {
        "type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict",
        "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
        "headers": [(name.replace("_", "-").encode(), value.encode())
                    for name, value in all_headers.items()],
    }  # fmt: skip
    await app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, json.loads(sent[1]["body"])


def test_a_body_is_refused_while_it_arrives(small: TestClient) -> None:
    pulled = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal pulled
        while True:
            pulled += 10_000
            yield b" " * 10_000

    line = "the request has more than 100000 bytes: send fewer images at a time"
    for headers in ({}, {"content_type": FORM}):
        pulled = 0
        status, _, answer = asyncio.run(exchange(small.app, endless(), **headers))
        assert (status, answer["detail"]) == (413, line)
        assert pulled == 2 * 110_000  # the second half for clients that look when all is sent
    for headers, at_most in (({}, 110_000), ({"expect": "100-continue"}, 0)):
        for length in ("100001", "9" * 400):
            pulled = 0
            reply = exchange(small.app, endless(), content_length=length, **headers)
            status, _, answer = asyncio.run(reply)
            assert (status, answer["detail"], pulled) == (413, line, at_most)


def test_a_client_that_is_slow_or_gone(classifier: Classifier) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async def gone() -> AsyncIterator[bytes]:
        yield b"{"

    with TestClient(create_app(Service([classifier], limits=Limits(read_s=0.05)))) as client:
        when_ready(client)
        status, _, answer = asyncio.run(exchange(client.app, slow()))
        assert (status, answer["detail"]) == (408, "the request did not arrive within 0.05 s")
        status, _, answer = asyncio.run(exchange(client.app, gone()))
        assert (status, answer["detail"]) == (400, "the client went away")


def test_the_bytes_of_all_requests_together(classifier: Classifier) -> None:
    service = Service([classifier], limits=replace(SMALL, body_bytes=50_000, bodies=1))

    async def some(arrived: asyncio.Event, go_on: asyncio.Event) -> AsyncIterator[bytes]:
        yield b" " * 30_000
        arrived.set()
        await go_on.wait()
        yield b" " * 10_000

    async def both(app: ASGIApp) -> None:
        arrived, go_on = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(exchange(app, some(arrived, go_on)))
        await arrived.wait()
        status, headers, answer = await exchange(app, some(asyncio.Event(), go_on))
        assert status == 429
        assert answer["detail"] == "too many requests at once; try again later"
        assert headers["retry-after"] == "1"
        go_on.set()
        status, _, answer = await first
        assert (status, answer["detail"]) == (400, "the client went away")

    with TestClient(create_app(service)) as client:
        when_ready(client)
        for _ in range(3):  # what was held is given back
            asyncio.run(both(client.app))
        assert client.post("/v1/predict", files=as_form([GIF])).status_code == 200


@given(st.data())
def test_damaged_requests_are_never_a_mistake_of_the_server(
    small: TestClient, data: st.DataObject
) -> None:
    body = part(FILE, GIF) + part(NAME.replace("images", "topk"), b"3") + b"--x--\r\n"
    kind, body = data.draw(
        st.sampled_from([(FORM, body), ("application/json", json.dumps(ONE).encode())])
    )
    at, length = data.draw(st.integers(0, len(body) - 1)), data.draw(st.integers(0, 40))
    damaged = body[:at] + data.draw(st.binary(max_size=40)) + body[at + length :]
    reply = small.post("/v1/predict", content=damaged, headers={"content-type": kind})
    if reply.status_code == 200:
        assert len(reply.json()["products"]) == 1
    else:
        assert reply.status_code in (400, 413, 422)
        refusal(reply, reply.status_code)
