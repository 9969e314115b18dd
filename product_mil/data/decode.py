"""From the bytes of one picture to RGB pixels of the size that the model takes."""

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

# 64 megapixels: larger than any product photo, and 200 MB once decoded.
MAX_PIXELS = 64_000_000
MAX_BYTES = 64 * 1024 * 1024
# What shops and dumps hold. Pillow knows many more; among them are parsers that start programs.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
# `_check_pixels` does it, with one message and no warning printed on the way.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)  # of the photo nothing is lost
_ORIENTATION = 0x0112  # EXIF's tag, and what its values ask for
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
    """Why a picture cannot be decoded, in words for the list of faults."""


class _DamagedError(ImageError):
    """A JPEG that simplejpeg knows and cannot decode whole."""


def decode_into(data: bytes | memoryview, pixels: UInt8[np.ndarray, "h w 3"]) -> str | None:
    """Decode a picture into `pixels`; what is worth saying of it all the same, or None.

    JPEG is decoded by simplejpeg with its default flags, which are bit-equal to Pillow's but refuse
    data that Pillow fills up with grey; straight into place where nothing is to be resized or
    turned. Everything else (PNG, GIF, 16 bit, JPEG of rare kinds) is decoded by Pillow.
    A plain JPEG of the size of `pixels` takes a short way; what fails there takes the long one.
    It is decoded into memory that stays in cache and then copied: a copy writes to memory without
    reading it first, which the decoder's own writing, row by row, does not.

    Raises:
        ImageError: the bytes are empty, too many, no picture, damaged, or a picture of more than
            `MAX_PIXELS` (checked before decoding).
    """
    if len(data) <= MAX_BYTES and _plain_shape(data) == pixels.shape:
        cached = _cached_pixels(pixels.shape)
        try:
            simplejpeg.decode_jpeg(data, buffer=cached)
        except ValueError:
            pass  # of a rare subsampling, or damaged: below it is decoded or named
        else:
            pixels[...] = cached
            return None
    if len(data) == 0:
        raise ImageError("the picture has no bytes")
    if len(data) > MAX_BYTES:
        raise ImageError(f"the picture has {len(data)} bytes, more than {MAX_BYTES}")
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
    with _faults_told(data):
        decode_opened(Image.open(io.BytesIO(data), formats=_formats()), pixels)
    return None


def decode_opened(image: Image.Image, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
    """Put an image that Pillow has opened into `pixels`, as `decode_into` does with its file.

    Raises:
        ImageError: it is damaged, of more than `MAX_PIXELS`, or has pixels of 32 bits.
    """
    with _faults_told(b""):
        _check_pixels(*image.size)
        image.load()
        _place(_eight_bit(image), _orientation(lambda: image), pixels)


def decode_images(
    found: Iterable[bytes | Unread], targets: Iterable[UInt8[np.ndarray, "h w 3"]]
) -> dict[int, str]:
    """Decode each image into its target.

    Returns, by number in `found`, why images could not be used; what the targets of those hold
    means nothing. Remarks on images that are used (`is_remark`) are among the reasons.
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
    """Whether what is said of a picture is no fault: it is used."""
    return reason.startswith(_USED)


def _cached_pixels(shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w 3"]:
    """The same memory each time that a thread asks for this shape."""
    pixels = getattr(_of_thread, "pixels", None)
    if pixels is None or pixels.shape != shape:
        pixels = _of_thread.pixels = np.empty(shape, np.uint8)
    return pixels


def _plain_shape(data: bytes | memoryview) -> tuple[int, int, int] | None:
    """Shape of the pixels, for a JPEG that simplejpeg decodes to the right colours as it stands.

    Found by walking from segment to segment, as decoders do. None for any other picture, and where
    EXIF may ask for a rotation.
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
    except struct.error:  # the data ends before
        return None
    # Four components are ink, which simplejpeg would take for light without a word.
    plain = data[:2] == b"\xff\xd8" and marker in _FRAMES and bits == 8 and components in (1, 3)
    return (height, width, 3) if plain else None


def _decode_jpeg(data: bytes | memoryview, pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether simplejpeg can read this kind of JPEG, which is then decoded."""
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
        with _faults_told(data):
            image = Image.fromarray(decoded) if not has_ink else _inked(decoded)
            opened = partial(Image.open, io.BytesIO(data), formats=("JPEG",))  # the header alone
            _place(image, _orientation(opened) if has_exif else 1, pixels)
    return True


def _inked(decoded: UInt8[np.ndarray, "h w 4"]) -> Image.Image:
    """CMYK as Adobe's programs store it, and all others after them: inverted."""
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
def _faults_told(data: bytes | memoryview) -> Iterator[None]:
    """Whatever goes wrong inside is an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"not a readable picture: {_what_it_is(data)}") from None
    except Exception as error:
        # Pillow's plugins raise whatever their parser stumbles on (struct.error, SyntaxError,
        # zlib.error, ...); a bad picture never stops a run.
        raise ImageError(f"not a readable picture: {error}".replace("\n", " ")[:200]) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those that are read; AVIF where Pillow was built with it."""
    has_avif = "avif" in features.modules and features.check("avif")
    return (*_FORMATS, "AVIF") if has_avif else _FORMATS


def _what_it_is(data: bytes | memoryview) -> str:
    """The kind of content that no format of ours is, as far as its first bytes tell."""
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
    """EXIF's number for how the picture is to be turned; 1, not at all, where that is damaged."""
    try:
        return int(opened().getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1  # whatever is wrong with it, the pixels are not concerned


def _place(image: Image.Image, orientation: int, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
    """Turn the picture, lay it on white where it is transparent, resize it into `pixels`."""
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
    """Refuse a pixel bomb; only the header has been read."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"the picture is {width}x{height}, more than {MAX_PIXELS} pixels")


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit greyscale scaled to 8; Pillow's own conversion would clip it to white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        values = np.asarray(image, np.float64) / 257.0
        return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError("the picture has 32-bit pixels, of which none says what is white")
    return image
