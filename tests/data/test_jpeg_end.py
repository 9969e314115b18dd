"""JPEGs that lack no more than their end, and those that are cut."""

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from product_mil.data.decode import ImageError, decode_into
from tests.data.images import SIZE_PX, decoded, encoded, photo

KINDS: dict[str, dict[str, Any]] = {
    "baseline": {"quality": 90},
    "4:4:4": {"quality": 90, "subsampling": 0},
    "4:2:0": {"quality": 50, "subsampling": 2},
    "progressive": {"quality": 90, "progressive": True},
    "restarts": {"quality": 90, "restart_marker_blocks": 2},
    "noise": {"quality": 100},
}


def kind_of_jpeg(kind: str, size_px: int = SIZE_PX) -> bytes:
    image = Image.fromarray(photo(size_px, size_px))
    if kind == "noise":
        noise = np.random.default_rng(3).integers(0, 256, (size_px, size_px, 3))
        image = Image.fromarray(noise.astype(np.uint8))
    if kind == "grey":
        return encoded(image.convert("L"), quality=90)
    if kind == "CMYK":
        return encoded(image.convert("CMYK"), quality=90)
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        return encoded(image, quality=90, exif=exif)
    return encoded(image, **KINDS[kind])


ALL_KINDS = [*KINDS, "grey", "CMYK", "turned"]


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("size_px", [SIZE_PX, 75])
def test_a_jpeg_without_its_end_marker_is_used(kind: str, size_px: int) -> None:
    """Whole to the last bit, and with a remark; half a marker and zeros behind are no more."""
    data = kind_of_jpeg(kind, size_px)
    whole = decoded(data)
    for end in (b"", b"\xff", b"\xff\xff", bytes(1), bytes(4096)):
        pixels = np.full((SIZE_PX, SIZE_PX, 3), 77, np.uint8)
        remark = decode_into(memoryview(data[:-2] + end), pixels)
        assert remark == "used although its end marker is missing: the JPEG is whole up to there"
        np.testing.assert_array_equal(pixels, whole)
    assert decode_into(data, pixels) is None
    assert decode_into(data + b"junk behind it", pixels) is None


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_jpeg_that_is_cut_anywhere_else_is_a_fault(kind: str) -> None:
    """Also between its scans, where a decoder sees nothing wrong, and filled up with zeros."""
    data = kind_of_jpeg(kind)
    pixels = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8)
    for stop in range(2, len(data) - 2):
        for filled in (b"", bytes(len(data) - stop)):
            with pytest.raises(ImageError):
                decode_into(data[:stop] + filled, pixels)


def test_a_jpeg_of_one_scan_for_each_component() -> None:
    """Cut behind the scan of its lightness, it would be shown in grey."""
    data = one_scan_each()
    whole = decoded(data)
    assert len(np.unique(whole.reshape(-1, 3), axis=0)) > 100
    pixels = np.empty_like(whole)
    assert decode_into(data[:-2], pixels) is not None
    np.testing.assert_array_equal(pixels, whole)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) == 3
    for stop in scans[1:]:
        with pytest.raises(ImageError, match="Premature end of JPEG file"):
            decode_into(data[:stop], pixels)


def test_a_scan_that_ends_in_a_zero_byte() -> None:
    """Of a picture of one block, whose last bits are zeros, as one in 256 has them."""
    rng = np.random.default_rng(0)
    every = (
        encoded(Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)), quality=95)
        for _ in range(4000)
    )
    data = next(data for data in every if data[-3] == 0 and data[-4] != 0xFF)
    pixels = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8)
    assert decode_into(data[:-2], pixels) is not None
    np.testing.assert_array_equal(pixels, decoded(data))


def one_scan_each() -> bytes:
    """Three grey JPEGs of one size as the components of one picture."""
    channels = [encoded(Image.fromarray(photo()[..., k]), quality=90) for k in range(3)]
    at = channels[0].index(b"\xff\xc0")
    frame = channels[0][at : at + 9] + b"\x03" + b"".join(b"%c\x11\0" % k for k in (1, 2, 3))
    frame = frame[:2] + struct.pack(">H", len(frame) - 2) + frame[4:]
    parts = [channels[0][:at], frame]
    for number, channel in enumerate(channels, 1):
        scan = bytearray(channel[channel.index(b"\xff\xc0") + 13 : -2])
        scan[scan.index(b"\xff\xda") + 5] = number
        parts.append(bytes(scan))
    return b"".join(parts) + b"\xff\xd9"


def test_damage_in_the_middle_stays_a_fault_without_the_end() -> None:
    data = bytearray(kind_of_jpeg("noise")[:-2])
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    with pytest.raises(ImageError, match="damaged JPEG"):
        decoded(bytes(data))
