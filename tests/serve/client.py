"""What tests ask a server."""

import base64
import time
from collections.abc import Sequence
from typing import Any

from fastapi.testclient import TestClient

BROKEN = b"no image"


def when_ready(client: TestClient) -> None:
    until = time.monotonic() + 120
    while client.get("/health").status_code == 503:
        assert time.monotonic() < until
        time.sleep(0.05)


def as_json(products: Sequence[Sequence[bytes]], **options: Any) -> dict[str, Any]:
    return {
        "products": [
            {"id": str(number), "images": [base64.b64encode(image).decode() for image in images]}
            for number, images in enumerate(products)
        ],
        **options,
    }


def as_form(images: Sequence[bytes]) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("images", (f"{index}.jpg", image, "image/jpeg")) for index, image in enumerate(images)]
