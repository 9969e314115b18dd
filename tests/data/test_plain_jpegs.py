"""The short way of plain JPEGs gives the pixels and faults of the long way."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from product_mil.data.decode import decode_into
from tests.data.images import SIZE_PX, by_pillow, decoded, encoded, outcome, photo


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">HH", marker, len(body) + 2) + body


def frame_of(height: int, width: int, components: int) -> bytes:
    return b"\xff\xc0\x00\x11\x08" + struct.pack(">HHB", height, width, components)


TRICKS = {
    "CMYK, the frame of a plain picture in a comment": lambda: _with(
        encoded(Image.fromarray(photo()).convert("CMYK")),
        segment(0xFFFE, frame_of(SIZE_PX, SIZE_PX, 3)),
    ),
    "another size, the frame of this one in a comment": lambda: _with(
        encoded(photo(96, 96)), segment(0xFFFE, frame_of(SIZE_PX, SIZE_PX, 3))
    ),
    "another size, a thumbnail of this one": lambda: _with(
        encoded(photo(96, 96)), segment(0xFFE0, b"JFXX\0\x10" + encoded(photo(seed=1)))
    ),
    "another size whose thumbnail is a whole picture": lambda: _with(
        encoded(photo(24, 24)), segment(0xFFEF, encoded(photo(seed=1)))
    ),
    "of this size, the frame of another in a comment": lambda: _with(
        encoded(photo()), segment(0xFFFE, frame_of(96, 96, 4))
    ),
    "rare subsampling": lambda: encoded(photo()).replace(b"\x01\x22\x00", b"\x01\x14\x00", 1),
    "sixteen bits": lambda: encoded(photo()).replace(
        b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x10"
    ),
    "a segment of length 0": lambda: _with(encoded(photo()), b"\xff\xe5\0\0"),
    "fill bytes before a marker": lambda: _with(encoded(photo()), b"\xff\xff"),
    "grey": lambda: encoded(Image.fromarray(photo()).convert("L")),
    "two frames": lambda: encoded(photo()).replace(
        b"\xff\xc0", segment(0xFFC0, bytes(frame_of(48, 48, 3)[4:] + b"\1\x11\0" * 3)) + b"\xff\xc0"
    ),
}


def _with(data: bytes, inserted: bytes) -> bytes:
    return data[:2] + inserted + data[2:]


@pytest.mark.parametrize("trick", TRICKS)
def test_the_short_way_decodes_as_the_long_one(trick: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = TRICKS[trick]()
    found = outcome(data)
    monkeypatch.setattr("product_mil.data.decode._plain_shape", lambda _: None)
    assert found == outcome(data)
    if trick.startswith(("CMYK", "another", "of this", "grey")):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        assert found == image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC).tobytes()


def test_plain_jpegs_go_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("product_mil.data.decode._decode_jpeg", None)
    for data in (
        encoded(photo()),
        encoded(photo(), progressive=True),
        encoded(Image.fromarray(photo()).convert("L")),
        _with(encoded(photo()), segment(0xFFFE, b"comment")),
    ):
        np.testing.assert_array_equal(decoded(data), by_pillow(data))


def test_plain_jpeg_is_decoded_in_place() -> None:
    pixels = np.zeros((3, SIZE_PX, SIZE_PX, 3), np.uint8)
    data = encoded(photo())
    decode_into(data, pixels[1])
    np.testing.assert_array_equal(pixels[1], by_pillow(data))
    assert not pixels[0].any()
    assert not pixels[2].any()


def test_junk_behind_a_jpeg_is_no_fault() -> None:
    data = encoded(photo())
    for junk in (b"junk", bytes(500), data):
        np.testing.assert_array_equal(decoded(data + junk), by_pillow(data))
