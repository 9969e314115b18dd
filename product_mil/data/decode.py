"""Decode the bytes of images to RGB pixels of the size that the model takes."""

import functools
import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError, features

from product_mil.data.jpeg_end import with_end
from product_mil.files.foreign import AVIF, kind_of_bytes
from product_mil.sources.catalogue import Unread

# 64 megapixels: larger than any image of a product, and 200 MB when decoded.
MAX_PIXELS = 64_000_000
MAX_BYTES = 64 * 1024 * 1024
# The formats of shops and dumps. Some of Pillow's other parsers start programs, which is unsafe.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
# `_check_pixels` refuses large images instead, with one message and no warnings.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)  # the pixels are intact
_ORIENTATION = 0x0112  # EXIF's tag of the orientation; `_TURNS` undoes its values
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LEADING = (*range(0xE0, 0xF0), 0xFE)  # JPEG markers: application segments, comments
_BEFORE_FRAME = frozenset(0xFF00 + marker for marker in (*_LEADING, 0xC4, 0xDB, 0xDD))  # and tables
_FRAMES = (0xFFC0, 0xFFC2)  # baseline, progressive
_segment = struct.Struct(">HH").unpack_from  # marker, length
_frame = struct.Struct(">BHHB").unpack_from  # bits, height, width, components
_of_thread = threading.local()


_USED = "used although"
NO_END = f"{_USED} its end marker is missing: the JPEG is whole up to there"


class ImageError(Exception):
    """An image cannot be decoded; the message is the reason for the list of faults."""


class _DamagedError(ImageError):
    """simplejpeg knows this kind of JPEG, but cannot decode the whole of it."""


def decode_into(data: bytes | memoryview, pixels: UInt8[np.ndarray, "h w 3"]) -> str | None:
    """Decode an image into `pixels`, and return a remark on it or None.

    simplejpeg decodes JPEGs, directly into `pixels` if the image need not be resized or turned. Its
    results are bit-equal to Pillow's, but it refuses damaged data that Pillow would fill with grey.
    Pillow decodes everything else (PNG, GIF, 16 bits, rare kinds of JPEG).

    A plain JPEG of the size of `pixels` is decoded in a shorter way: into memory that stays in the
    cache, from which it is copied. Copying is faster than decoding into other memory row by row,
    because it need not read that memory first. If this fails, the longer way is tried.

    Raises:
        ImageError: the data are empty, too long, damaged or not an image, or the image has more
            than `MAX_PIXELS` (which is checked before decoding).
    """
    if len(data) <= MAX_BYTES and _plain_shape(data) == pixels.shape:
        cached = _cached_pixels(pixels.shape)
        try:
            simplejpeg.decode_jpeg(data, buffer=cached)
        except ValueError:
            pass  # rare subsampling or damage, which the longer way below can decode or name
        else:
            pixels[...] = cached
            return None
    if len(data) == 0:
        raise ImageError("the image has no bytes")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the image has {len(data)} bytes, more than {MAX_BYTES}")
    if bytes(data[:2]) == b"\xff\xd8":
        try:
            if _decode_jpeg(data, pixels):
                return None
        except _DamagedError:
            for ended in with_end(bytes(data)):
                with suppress(_DamagedError):
                    _decode_jpeg(ended, pixels)
                    return NO_END
            raise
    with _as_image_errors(data):
        decode_opened(Image.open(io.BytesIO(data), formats=_formats()), pixels)
    return None


def decode_opened(image: Image.Image, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
    """Put an image that Pillow has opened into `pixels`, with the result of `decode_into`.

    Raises:
        ImageError: the image is damaged, has more than `MAX_PIXELS`, or has 32-bit pixels.
    """
    with _as_image_errors(b""):
        _check_pixels(*image.size)
        image.load()
        _place(_eight_bit(image), _orientation(lambda: image), pixels)


def num_pixels(data: bytes | memoryview) -> int:
    """The number of pixels of an image by its header; 0 where there is none that can be read."""
    if bytes(data[:2]) == b"\xff\xd8":
        with suppress(ValueError, KeyError):
            rows, columns, *_ = simplejpeg.decode_jpeg_header(data)
            return int(rows) * int(columns)
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            return image.width * image.height
    except Exception:  # as in `_as_image_errors`
        return 0


def decode_images(
    found: Iterable[bytes | Unread], targets: Iterable[UInt8[np.ndarray, "h w 3"]]
) -> dict[int, str]:
    """Decode each image into its target.

    Returns the reasons why images could not be used, by their number in `found`; the targets of
    these images have arbitrary pixels. The reasons include remarks on images that are used
    (`is_remark`).
    """
    reasons: dict[int, str] = {}
    for number, (data, pixels) in enumerate(zip(found, targets, strict=True)):
        if isinstance(data, Unread):
            reasons[number] = data.reason
            continue
        try:
            remark = decode_into(data, pixels)
        except ImageError as error:
            remark = str(error)
        if remark is not None:
            reasons[number] = remark
    return reasons


def is_remark(reason: str) -> bool:
    """Whether a reason is only a remark on an image, which is used nevertheless."""
    return reason.startswith(_USED)


def _cached_pixels(shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w 3"]:
    """Memory that a thread gets again each time it asks for the same shape."""
    pixels = getattr(_of_thread, "pixels", None)
    if pixels is None or pixels.shape != shape:
        pixels = _of_thread.pixels = np.empty(shape, np.uint8)
    return pixels


def _plain_shape(data: bytes | memoryview) -> tuple[int, int, int] | None:
    """The shape of a JPEG's pixels if simplejpeg alone decodes it correctly; otherwise None.

    The segments of the JPEG are read one after another, as decoders do. The result is None for
    other formats, and where EXIF may ask for a rotation.
    """
    at = 2
    try:
        marker, length = _segment(data, at)
        while marker in _BEFORE_FRAME:
            if marker == 0xFFE1 and data[at + 4 : at + 8] == b"Exif":
                return None
            at += 2 + length
            marker, length = _segment(data, at)
        bits, height, width, components = _frame(data, at + 4)
    except struct.error:  # the data are too short
        return None
    # Four components are CMYK, which simplejpeg would silently decode to wrong colours.
    plain = data[:2] == b"\xff\xd8" and marker in _FRAMES and bits == 8 and components in (1, 3)
    return (height, width, 3) if plain else None


def _decode_jpeg(data: bytes | memoryview, pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Decode a JPEG if simplejpeg can read its kind, and return whether it can."""
    try:
        rows, columns, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):  # damaged, or of a rare subsampling
        return False
    height, width = int(rows), int(columns)
    _check_pixels(width, height)
    has_exif, has_ink = _has_exif(data), colorspace in ("CMYK", "YCCK")
    in_place = (height, width) == pixels.shape[:2] and not has_exif and not has_ink
    try:
        decoded = simplejpeg.decode_jpeg(
            data, "CMYK" if has_ink else "RGB", buffer=pixels if in_place else None
        )
    except ValueError as error:
        raise _DamagedError(f"damaged JPEG: {error}") from error
    if not in_place:
        with _as_image_errors(data):
            image = Image.fromarray(decoded) if not has_ink else _inked(decoded)
            opened = partial(Image.open, io.BytesIO(data), formats=("JPEG",))  # the header alone
            _place(image, _orientation(opened) if has_exif else 1, pixels)
    return True


def _inked(decoded: UInt8[np.ndarray, "h w 4"]) -> Image.Image:
    """An image of CMYK pixels that are stored inverted, as Adobe's and other programs do."""
    height, width, _ = decoded.shape
    return Image.frombytes("CMYK", (width, height), (255 - decoded).tobytes())


def _has_exif(data: bytes | memoryview) -> bool:
    """Whether the JPEG's leading segments hold EXIF, which may ask for a rotation."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF and data[at + 1] in _LEADING:
        if data[at + 1] == 0xE1 and bytes(data[at + 4 : at + 8]) == b"Exif":
            return True
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return False


@contextmanager
def _as_image_errors(data: bytes | memoryview) -> Iterator[None]:
    """Turn every exception of the body into an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"not a readable image: {_what_it_is(data)}") from None
    except Exception as error:
        # Pillow's plugins raise whatever their parser stumbles on (struct.error, SyntaxError,
        # zlib.error, ...); a bad image never stops a run.
        raise ImageError(f"not a readable image: {error}".replace("\n", " ")[:200]) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that are read, with AVIF if Pillow was built with it."""
    has_avif = "avif" in features.modules and features.check("avif")
    return (*_FORMATS, "AVIF") if has_avif else _FORMATS


def _what_it_is(data: bytes | memoryview) -> str:
    """Words for the kind of data that are not in a known format, by their first bytes."""
    head = bytes(data[:4096])
    kind = kind_of_bytes(head)
    if not head.strip(b"\0"):
        return "nothing but zeros"
    if kind is None or kind.group == "bson":
        return "no format that is known"
    if kind.name == AVIF.name and "AVIF" not in _formats():
        return f"it is {kind.name}, which needs Pillow 11.3 or newer"
    if kind.group == "image" and kind.name.upper().split()[1:-1] in [[f] for f in _formats()]:
        return f"it begins as {kind.name}, and is damaged"
    return f"it is {kind.name}"


def _orientation(opened: Callable[[], Image.Image]) -> int:
    """EXIF's number of the orientation; 1 (upright) if EXIF is damaged."""
    try:
        return int(opened().getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1  # damage to EXIF does not affect the pixels


def _place(image: Image.Image, orientation: int, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
    """Turn the image, make transparent parts white, and resize it into `pixels`."""
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    height, width = pixels.shape[:2]
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels[...] = np.asarray(image)


def _check_pixels(width: int, height: int) -> None:
    """Refuse an image of too many pixels or of none, when only its header has been read."""
    if not width * height:
        raise ImageError("the image has no pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(f"the image is {width}x{height}, more than {MAX_PIXELS} pixels")


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image with 16-bit grey scaled to 8 bits; Pillow's own conversion clips it to white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        values = np.asarray(image, np.float64) / 257.0
        return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError("the image has 32-bit pixels, of which none says what is white")
    return image
