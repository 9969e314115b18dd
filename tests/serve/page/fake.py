"""A server that answers as `product-mil serve` does, but what its images say, and at once.

An image says its category and its weight by two bytes behind its pixels. `joint` weights by them,
`averaged` gives each image the same; a category's probability is its share of the weight.
"""

import io
import json
import threading
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

import product_mil

PAGE = Path(product_mil.__file__).parent / "serve" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'"
)
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
MAX_IMAGES = 4


def image(category: int, weight: int, colour: str = "teal", size: int = 32) -> bytes:
    """A PNG; with weight 0 the server can't read it."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, "PNG")
    return file.getvalue() + bytes([category, weight])


def described(name: str, **values: Any) -> dict[str, Any]:
    """A model as `/v1/model` describes it."""
    known = {
        "name": name,
        "summary": f"the {name} model of a test",
        "pooling": name,
        "backbone": "small",
        "calibrated": True,
        "sums_over_images": name == "joint",
    }
    return known | values


@dataclass
class Fake:
    """What the server says, which tests change, and what it was asked."""

    names: list[list[str]]  # the path of each category
    beside: dict[str, Any] | None = None
    model: dict[str, Any] = field(default_factory=lambda: described("joint"))
    examples: list[tuple[list[str] | None, list[bytes]]] = field(default_factory=list)
    refusal: tuple[int, Any] | None = None  # status and body of every answer to images
    held: threading.Event | None = None  # the next answer waits for it
    asked: list[tuple[list[bytes], dict[str, str]]] = field(default_factory=list)
    file_names: list[str] = field(default_factory=list)  # of the last request
    max_image_bytes: int = 100_000
    max_request_bytes: int = 1_000_000

    def about(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "beside": self.beside,
            "max_images": MAX_IMAGES,
            "max_images_accepted": 8,
            "image_size_px": 180,
            "max_image_bytes": self.max_image_bytes,
            "max_request_bytes": self.max_request_bytes,
            "num_categories": len(self.names),
            "levels": 3,
        }

    def answer(self, model: dict[str, Any], images: list[bytes], fields: dict[str, str]) -> Any:
        wanted = float(fields["min_confidence"]) if "min_confidence" in fields else None
        used = [data[-1] > 0 and place < MAX_IMAGES for place, data in enumerate(images)]
        weights = [
            (data[-1] if model["name"] == "joint" else 1) if fine else 0
            for data, fine in zip(images, used, strict=True)
        ]
        total = sum(weights)
        shares = [0.0] * len(self.names)
        for data, weight in zip(images, weights, strict=True):
            shares[data[-2]] += weight / total if total else 0
        order = sorted(range(len(shares)), key=lambda number: -shares[number])
        first = order[0]
        sure = None
        if wanted is not None:
            level = 3 if shares[first] >= wanted else 2 if shares[first] >= 0.5 else 0
            names = self.names[first][:level]
            sure = self.category(first, shares[first]) | {"level": level, "names": names}
        return {
            "id": None,
            "categories": [
                self.category(number, shares[number]) for number in order[: int(fields["topk"])]
            ],
            "confidence": shares[first] * 0.9 if model["calibrated"] else None,
            "sure": sure,
            "images": [
                {
                    "attention": weight / total,
                    "category_id": 100 + data[-2],
                    "names": self.names[data[-2]],
                    "contribution": (weight if data[-2] == first else -weight) / 10
                    if model["sums_over_images"]
                    else None,
                    "error": None,
                }
                if fine
                else {
                    "attention": 0,
                    "category_id": None,
                    "names": None,
                    "contribution": None,
                    "error": "it is no image that can be read"
                    if data[-1] == 0
                    else f"not used: the model takes the first {MAX_IMAGES} images",
                }
                for data, weight, fine in zip(images, weights, used, strict=True)
            ],
            "from_prior": total == 0,
        }

    def category(self, number: int, probability: float) -> dict[str, Any]:
        return {
            "category_id": 100 + number,
            "names": self.names[number],
            "probability": probability,
        }


class Handler(BaseHTTPRequestHandler):
    """Answers for the `fake` of its server."""

    server: "FakeServer"  # pyright: ignore[reportIncompatibleVariableOverride]

    def send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, status: int, value: Any) -> None:
        self.send(status, "application/json", json.dumps(value).encode())

    def do_GET(self) -> None:
        fake = self.server.fake
        match self.path.split("/")[1:]:
            case [""]:
                self.send(200, TYPES["html"], (PAGE / "index.html").read_bytes())
            case ["page", name] if (PAGE / name).is_file():
                self.send(200, TYPES[name.split(".")[-1]], (PAGE / name).read_bytes())
            case ["v1", "model"]:
                self.send_json(200, fake.about())
            case ["v1", "examples"]:
                examples = [
                    {
                        "number": number,
                        "id": str(number),
                        "names": names,
                        "images": [f"/v1/examples/{number}/{i}.png" for i in range(len(images))],
                    }
                    for number, (names, images) in enumerate(fake.examples)
                ]
                self.send_json(200, {"examples": examples})
            case ["v1", "examples", number, name]:
                data = fake.examples[int(number)][1][int(name.split(".")[0])]
                self.send(200, "image/png", data)
            case _:
                self.send_json(404, {"detail": "there is no such page"})

    def do_POST(self) -> None:
        fake = self.server.fake
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(head + body)
        assert isinstance(message, EmailMessage)
        images: list[bytes] = []
        fields: dict[str, str] = {}
        fake.file_names = []
        for part in message.iter_parts():
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            name = part.get_param("name", header="content-disposition")
            if name == "images":
                images.append(content)
                fake.file_names.append(part.get_filename() or "")
            else:
                fields[str(name)] = content.decode()
        fake.asked.append((images, fields))
        held, fake.held = fake.held, None
        if held is not None:
            held.wait(10)
        if fake.refusal is not None:
            self.send_json(*fake.refusal)
            return
        beside = [fake.answer(fake.beside, images, fields)] if fake.beside else None
        answer = {"products": [fake.answer(fake.model, images, fields)], "beside": beside}
        self.send_json(200, answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""


class FakeServer(ThreadingHTTPServer):
    """Serves a fake on a free port of this machine."""

    daemon_threads = True

    def __init__(self, fake: Fake) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fake = fake

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that no longer waits is no error."""
