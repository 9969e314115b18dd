"""Products that a program passes in memory: the forms of their images, and the bytes of these."""

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from product_mil.data.decode import MAX_BYTES, ImageError, decode_opened

# The bytes of an image file, the path of one, an image of Pillow, or an array uint8[h, w, 3].
GivenImage: TypeAlias = (
    bytes | bytearray | memoryview | str | os.PathLike[str] | Image.Image | np.ndarray
)
GivenProduct: TypeAlias = Sequence[GivenImage]

_BYTES = (bytes, bytearray, memoryview)
_IMAGE = (*_BYTES, str, os.PathLike, Image.Image, np.ndarray)
_PRODUCT = (
    "a product is a list of images, and an image is the bytes of its file, a path, a PIL image or "
    "an array uint8[h, w, 3]"
)


def checked_products(products: object) -> list[GivenProduct]:
    """The products as a list, after a check that each one is a list of images.

    Raises:
        TypeError: they are something else; the message says what a product is.
    """
    if isinstance(products, (*_IMAGE, Mapping)) or not isinstance(products, Iterable):
        raise TypeError(f"products is {_of_type(products)}: give a list of products; {_PRODUCT}")
    found = list(products)
    for number, product in enumerate(found):
        if isinstance(product, _IMAGE) or not isinstance(product, Sequence):
            raise TypeError(f"product {number} is {_of_type(product)}: {_PRODUCT}")
        for index, image in enumerate(product):
            if not isinstance(image, _IMAGE):
                raise TypeError(
                    f"image {index} of product {number} is {_of_type(image)}: {_PRODUCT}"
                )
    return found


class ReadProducts(NamedTuple):
    """The bytes of all images, product by product, and the errors of images without bytes."""

    images: list[list[bytes]]
    errors: dict[tuple[int, int], str]  # by product and image; the bytes of these are empty


def read_products(products: Sequence[GivenProduct], image_size_px: int) -> ReadProducts:
    """Read each image. A net of this image size gets the same pixels as from a file."""
    read: list[list[bytes]] = []
    errors: dict[tuple[int, int], str] = {}
    for number, product in enumerate(products):
        read.append([])
        for index, image in enumerate(product):
            try:
                data = image_bytes(image, image_size_px)
            except ImageError as error:
                data, errors[number, index] = b"", str(error)
            read[-1].append(data)
    return ReadProducts(read, errors)


def image_bytes(image: GivenImage, image_size_px: int) -> bytes:
    """The bytes of an image file: those given, or of a BMP file with the pixels for the net.

    Raises:
        ImageError: the file cannot be read or is too large, or the argument is not an image.
    """
    if isinstance(image, _BYTES):
        _refuse_too_many(memoryview(image).nbytes)
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return _file_bytes(Path(image))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            shape = ", ".join(map(str, image.shape))
            raise ImageError(f"the array is {image.dtype}[{shape}], and not uint8[h, w, 3]")
        image = Image.fromarray(np.ascontiguousarray(image))
    pixels = np.empty((image_size_px, image_size_px, 3), np.uint8)
    decode_opened(image, pixels)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    return file.getvalue()


def _file_bytes(path: Path) -> bytes:
    if not path.is_file():
        there = path.exists()
        raise ImageError(f"{path}: {'this is no file' if there else 'there is no such file'}")
    try:
        _refuse_too_many(path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error


def _refuse_too_many(num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise ImageError(f"the image has {num_bytes} bytes, more than {MAX_BYTES}")


def _of_type(value: object) -> str:
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"of type {module}{kind.__qualname__}"
