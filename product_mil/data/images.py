"""From the bytes of one picture to RGB pixels of the size that the model takes."""

import io
import struct

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

# 64 megapixels: larger than any product photo, and 200 MB once decoded.
MAX_PIXELS = 64_000_000
MAX_BYTES = 64 * 1024 * 1024
# What shops and dumps hold. Pillow knows many more; among them are parsers that start programs.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
# `_check_pixels` does it, with one message and no warning printed on the way.
Image.MAX_IMAGE_PIXELS = None
_LEADING = (*range(0xE0, 0xF0), 0xFE)  # JPEG markers: application segments, comments


class ImageError(Exception):
    """Why a picture cannot be decoded, in words for the list of faults."""


def decode_into(data: bytes | memoryview, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
    """Decode a picture into `pixels`.

    A JPEG of the right size is decoded straight into place by simplejpeg with its default flags,
    which are bit-equal to Pillow's. Everything else (PNG, GIF, CMYK, 16 bit, EXIF rotation, other
    sizes) goes through Pillow and is resized.

    Raises:
        ImageError: the bytes are empty, too many, no picture, damaged, or a picture of more than
            `MAX_PIXELS` (checked before decoding).
    """
    if len(data) == 0:
        raise ImageError("the picture has no bytes")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the picture has {len(data)} bytes, more than {MAX_BYTES}")
    if not _decode_jpeg_in_place(data, pixels):
        _decode_any(data, pixels)


def _decode_jpeg_in_place(data: bytes | memoryview, pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether `data` was a JPEG of just this size without a rotation, now decoded."""
    if bytes(data[:2]) != b"\xff\xd8" or _has_exif(data):
        return False
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width) != pixels.shape[:2] or colorspace in ("CMYK", "YCCK"):
            return False
        simplejpeg.decode_jpeg(data, "RGB", buffer=pixels)
    except ValueError as error:
        raise ImageError(f"damaged JPEG: {error}") from error
    return True


def _has_exif(data: bytes | memoryview) -> bool:
    """Whether the JPEG's leading segments hold EXIF, which may ask for a rotation."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF and data[at + 1] in _LEADING:
        if data[at + 1] == 0xE1 and bytes(data[at + 4 : at + 8]) == b"Exif":
            return True
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return False


def _decode_any(data: bytes | memoryview, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
    height, width = pixels.shape[:2]
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        _check_pixels(image)
        image = ImageOps.exif_transpose(_eight_bit(image))
        if "A" in image.getbands() or "transparency" in image.info:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        image = image.convert("RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not a readable picture: no format that is known") from None
    except Exception as error:
        # Pillow's plugins raise whatever their parser stumbles on (struct.error, SyntaxError,
        # zlib.error, ...); a bad picture never stops a run.
        raise ImageError(f"not a readable picture: {error}".replace("\n", " ")[:200]) from error
    pixels[...] = np.asarray(image)


def _check_pixels(image: Image.Image) -> None:
    """Refuse a pixel bomb; only the header has been read."""
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise ImageError(f"the picture is {size}, more than {MAX_PIXELS} pixels")


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit greyscale scaled to 8; Pillow's own conversion would clip it to white."""
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image, np.float64) / 257.0
        return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    return image
