"""What a program may hand over as products, and what an image of each kind becomes."""

import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from product_mil.data.decode import MAX_BYTES, ImageError, decode_into
from product_mil.data.given import checked_products, image_bytes, read_products

SIZE_PX = 40
RNG = np.random.default_rng(0)
ARRAY = RNG.integers(0, 256, (70, 90, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (70, 90, 4), np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seen(image: Any, size_px: int = SIZE_PX) -> np.ndarray:
    """What the net is shown."""
    pixels = np.empty((size_px, size_px, 3), np.uint8)
    assert decode_into(image_bytes(image, size_px), pixels) is None
    return pixels


def turned(image: Image.Image) -> Image.Image:
    image.getexif()[0x0112] = 6
    return image


@pytest.mark.parametrize("size_px", [SIZE_PX, 70, 200])
def test_an_array_is_seen_as_a_png_of_it(size_px: int) -> None:
    png = encoded(Image.fromarray(ARRAY))
    np.testing.assert_array_equal(seen(ARRAY, size_px), seen(png, size_px))
    flipped = ARRAY[::-1, ::-1]  # not contiguous
    np.testing.assert_array_equal(
        seen(flipped, size_px), seen(encoded(Image.fromarray(flipped.copy())), size_px)
    )
    square = ARRAY[:size_px, :size_px]
    if len(square) == size_px:
        np.testing.assert_array_equal(seen(square, size_px), square)


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(ARRAY)),
        encoded(Image.fromarray(ARRAY), "JPEG", quality=80),
        encoded(Image.fromarray(ARRAY), "JPEG", exif=turned(Image.new("RGB", (1, 1))).getexif()),
        encoded(Image.fromarray(ALPHA)),
        encoded(Image.fromarray(ARRAY).convert("P")),
        encoded(Image.fromarray(ARRAY).convert("L")),
        encoded(Image.fromarray(ARRAY[..., 0].astype(np.uint16) * 257)),
        encoded(Image.fromarray(ARRAY).convert("CMYK"), "JPEG"),
        encoded(Image.fromarray(ARRAY), "GIF"),
    ],
    ids=["png", "jpeg", "exif", "alpha", "palette", "grey", "16 bit", "cmyk", "gif"],
)
def test_an_image_of_pillow_is_seen_as_its_file(data: bytes, tmp_path: Path) -> None:
    wanted = seen(data)
    np.testing.assert_array_equal(seen(Image.open(io.BytesIO(data))), wanted)
    np.testing.assert_array_equal(seen(bytearray(data)), wanted)
    np.testing.assert_array_equal(seen(memoryview(data)), wanted)
    path = tmp_path / "image"
    path.write_bytes(data)
    np.testing.assert_array_equal(seen(path), wanted)
    np.testing.assert_array_equal(seen(str(path)), wanted)


def test_bytes_stay_as_they_are() -> None:
    assert image_bytes(b"no image", SIZE_PX) == b"no image"  # the decoder says what it is


@pytest.mark.parametrize(
    ("image", "error"),
    [
        ("nowhere/1.jpg", "nowhere/1.jpg: there is no such file"),
        ("a\0b", "there is no such file"),
        (Path.cwd(), "this is no file"),
        (ARRAY[..., 0], r"the array is uint8\[70, 90\], and not uint8\[h, w, 3\]"),
        (ARRAY[..., :1], r"uint8\[70, 90, 1\]"),
        (ARRAY.transpose(2, 0, 1), r"uint8\[3, 70, 90\]"),
        (ARRAY[:0], r"uint8\[0, 90, 3\]"),
        (ARRAY / 255, r"the array is float64\[70, 90, 3\]"),
        (np.zeros((), np.uint8), r"uint8\[\]"),
        (Image.fromarray(np.zeros((4, 4), np.float32)), "32-bit pixels"),
        (Image.new("RGB", (0, 5)), "the image has no pixels"),
        (Image.new("1", (8001, 8000)), "8001x8000, more than 64000000 pixels"),
        (np.broadcast_to(ARRAY[:1, :1], (8000, 8001, 3)), "8001x8000, more than 64000000 pixels"),
        (bytes(MAX_BYTES + 1), f"{MAX_BYTES + 1} bytes, more than {MAX_BYTES}"),
    ],
)
def test_no_image(image: Any, error: str) -> None:
    with pytest.raises(ImageError, match=error):
        image_bytes(image, SIZE_PX)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ImageError, match=f"{MAX_BYTES + 1} bytes, more than {MAX_BYTES}"):
        image_bytes(tmp_path / "large.jpg", SIZE_PX)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "a.jpg").touch()
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(ImageError, match=r"a\.jpg: Permission denied"):
        image_bytes(tmp_path / "a.jpg", SIZE_PX)


def test_an_image_that_pillow_reads_late_and_finds_cut_off() -> None:
    opened = Image.open(io.BytesIO(encoded(Image.fromarray(ARRAY), "JPEG")[:900]))
    with pytest.raises(ImageError, match="truncated"):
        image_bytes(opened, SIZE_PX)


def test_what_cannot_be_read_keeps_its_place() -> None:
    read = read_products([["nowhere.jpg", b"a"], [], [b"b", ARRAY[0]]], SIZE_PX)
    assert read.images == [[b"", b"a"], [], [b"b", b""]]
    assert list(read.errors) == [(0, 0), (2, 1)]
    assert read.errors[0, 0] == "nowhere.jpg: there is no such file"


@pytest.mark.parametrize(
    ("products", "error"),
    [
        (b"bytes", "products is of type bytes: give a list of products"),
        ("a.jpg", "products is of type str"),
        (ARRAY, "products is of type numpy.ndarray"),
        (Image.fromarray(ARRAY), "products is of type PIL.Image.Image"),
        ({1: [b"a"]}, "products is of type dict"),
        (None, "products is of type NoneType"),
        ([b"bytes"], "product 0 is of type bytes: a product is a list of images"),
        ([[b"a"], "a.jpg"], "product 1 is of type str: a product is a list of images"),
        ([ARRAY], "product 0 is of type numpy.ndarray: a product is a list of images"),
        ([iter([b"a"])], "product 0 is of type list_iterator"),
        ([[b"a", None]], "image 1 of product 0 is of type NoneType: .*, a path, a PIL image or"),
        ([[[b"a"]]], "image 0 of product 0 is of type list"),
    ],
)
def test_no_products(products: Any, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        checked_products(products)


def test_products_are_lists_of_any_kind() -> None:
    first, second = (b"a", Path("b")), [ARRAY]
    assert checked_products(iter([first, second])) == [first, second]
    assert checked_products([]) == []
    assert checked_products([[]]) == [[]]
