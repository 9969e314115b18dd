"""Images to decode, and what decoding them gives."""

import io
from typing import Any

import numpy as np
from PIL import Image

from product_mil.data.decode import ImageError, decode_into

SIZE_PX = 48


def photo(height: int = SIZE_PX, width: int = SIZE_PX, seed: int = 0) -> np.ndarray:
    """Smooth colours with an edge, so that a rotation or a swapped channel shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 / width, y * 255 / height, 255 * (x > y)], -1)
    return np.clip(rgb + rng.normal(0, 3, rgb.shape), 0, 255).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes, size_px: int = SIZE_PX) -> np.ndarray:
    pixels = np.full((size_px, size_px, 3), 77, np.uint8)
    decode_into(data, pixels)
    return pixels


def outcome(data: bytes) -> bytes | str:
    try:
        return decoded(data).tobytes()
    except ImageError as error:
        return str(error)


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
