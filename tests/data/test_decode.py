import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from product_mil.data import decode as images
from product_mil.data.decode import ImageError, num_pixels
from tests.data.images import SIZE_PX, by_pillow, decoded, encoded, outcome, photo


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 75},
        {"quality": 95, "subsampling": 0},
        {"quality": 30, "subsampling": 2},
        {"quality": 85, "progressive": True, "optimize": True},
    ],
)
def test_jpeg_is_bit_equal_to_pillow(options: dict) -> None:
    for seed in range(5):
        data = encoded(photo(seed=seed), **options)
        np.testing.assert_array_equal(decoded(data), by_pillow(data))


def test_sample_jpegs_are_bit_equal_to_pillow() -> None:
    data = simplejpeg.encode_jpeg(photo(180, 180), quality=85)
    np.testing.assert_array_equal(decoded(data, 180), by_pillow(data))


def test_grey_jpeg() -> None:
    data = encoded(Image.fromarray(photo()).convert("L"))
    np.testing.assert_array_equal(decoded(data), by_pillow(data))


def test_cmyk_jpeg() -> None:
    data = encoded(Image.fromarray(photo()).convert("CMYK"), quality=95)
    np.testing.assert_array_equal(decoded(data), by_pillow(data))
    assert np.abs(decoded(data).astype(int) - photo()).mean() < 6


def test_lossless_kinds_keep_their_pixels() -> None:
    for kind in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(decoded(encoded(photo(), kind)), photo())


def test_gif_first_frame() -> None:
    frames = [Image.fromarray(photo(seed=s)).quantize(32) for s in (0, 9)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decoded(data), np.asarray(frames[0].convert("RGB")))


def test_transparency_lies_on_white() -> None:
    rgba = np.dstack([photo(), np.zeros((SIZE_PX, SIZE_PX), np.uint8)])
    rgba[:8, :, 3] = 255
    pixels = decoded(encoded(rgba, "PNG"))
    np.testing.assert_array_equal(pixels[:8], photo()[:8])
    assert (pixels[8:] == 255).all()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.tile(np.linspace(0, 65535, SIZE_PX).astype(np.uint16), (SIZE_PX, 1))
    pixels = decoded(encoded(Image.fromarray(ramp), "PNG"))
    np.testing.assert_allclose(pixels[0, :, 0], np.linspace(0, 255, SIZE_PX), atol=1)
    assert (pixels == pixels[..., :1]).all()


def test_one_bit_image() -> None:
    bits = Image.fromarray(photo()).convert("1")
    np.testing.assert_array_equal(decoded(encoded(bits, "PNG")), np.asarray(bits.convert("RGB")))


def test_other_sizes_are_resized() -> None:
    for kind, size in (("JPEG", (96, 96)), ("PNG", (30, 70)), ("JPEG", (200, 20))):
        data = encoded(photo(*size), kind)
        wanted = Image.open(io.BytesIO(data)).convert("RGB")
        wanted = wanted.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(decoded(data), np.asarray(wanted))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), exif=exif, quality=95)
    upright = by_pillow(data)  # as stored: Pillow does not turn by itself
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, -1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright),
    }[orientation]
    np.testing.assert_array_equal(decoded(data), turned)


def test_exif_after_a_comment_still_turns() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encoded(photo(), exif=exif, quality=95)
    at = data.index(b"\xff\xe1")
    comment = b"\xff\xfe" + struct.pack(">H", 7) + b"hello"
    np.testing.assert_array_equal(decoded(data[:at] + comment + data[at:]), decoded(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_truncated(kind: str) -> None:
    data = encoded(photo(), kind)
    for stop in (1, 2, 10, len(data) // 2, len(data) - 100):
        with pytest.raises(ImageError):
            decoded(data[:stop])


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"no picture at all", bytes(1000)])
def test_no_picture(data: bytes) -> None:
    with pytest.raises(ImageError):
        decoded(data)


DAMAGE = {
    "scan cut short": lambda data: data[: len(data) // 2] + data[-2:],
    "scan overwritten": lambda data: data[: len(data) // 2] + bytes(len(data) // 3) + data[-2:],
    "header of another size": lambda data: data.replace(
        struct.pack(">HH", 96, 96), struct.pack(">HH", 1500, 1500), 1
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["plain", "turned", "CMYK"])
def test_a_damaged_jpeg_of_another_size_is_not_filled_with_grey(damage: str, kind: str) -> None:
    """As strictly as one of just the right size: Pillow would decode it without a word."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(photo(96, 96))
    options: dict[str, Any] = {"exif": exif} if kind == "turned" else {}
    data = encoded(image.convert("CMYK") if kind == "CMYK" else image, quality=90, **options)
    decoded(data)
    bad = DAMAGE[damage](data)
    assert bad != data
    Image.open(io.BytesIO(bad)).convert("RGB")
    with pytest.raises(ImageError, match="damaged JPEG"):
        decoded(bad)


def test_cmyk_of_another_size_is_resized() -> None:
    data = encoded(Image.fromarray(photo(96, 60)).convert("CMYK"), quality=95)
    wanted = Image.open(io.BytesIO(data)).convert("RGB")
    wanted = wanted.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(decoded(data), np.asarray(wanted))


def test_damaged_exif_leaves_the_picture() -> None:
    data = encoded(photo(), quality=95)
    body = b"Exif\0\0II*\0\xff\xff\xff\x7f\0\0\0\0"
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    np.testing.assert_array_equal(decoded(data[:2] + segment + data[2:]), by_pillow(data))


@pytest.mark.parametrize("type_", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused(type_: type) -> None:
    data = encoded(Image.fromarray(photo()[..., 0].astype(type_)), "TIFF")
    with pytest.raises(ImageError, match="32-bit pixels"):
        decoded(data)


def test_palettes_with_transparency_and_sixteen_bit_colours() -> None:
    palette = Image.fromarray(photo()).quantize(16)
    opaque = np.asarray(palette.convert("RGB"))
    seen = decoded(encoded(palette, "PNG", transparency=3))
    clear = np.asarray(palette) == 3
    assert clear.any()
    assert (seen[clear] == 255).all()
    np.testing.assert_array_equal(seen[~clear], opaque[~clear])
    deep = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in photo())
    np.testing.assert_array_equal(decoded(png(SIZE_PX, SIZE_PX, 16, deep)), photo())


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    data = encoded(Image.new("RGB", size, (9, 200, 3)))
    assert np.abs(decoded(data).astype(int) - [9, 200, 3]).max() <= 2


def test_compressed_text_is_not_unpacked_without_limit() -> None:
    chunk = b"a\0\0" + zlib.compress(bytes(100_000_000))
    with pytest.raises(ImageError, match="too large"):
        decoded(png(SIZE_PX, SIZE_PX, 8, bytes(SIZE_PX * (3 * SIZE_PX + 1)), (b"zTXt", chunk)))


def png(width: int, height: int, bits: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG in RGB of these filtered rows, written by hand."""
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that claims to be huge."""
    return png(width, height, 8, bytes(1000))


@pytest.mark.parametrize("size", [(8001, 8000), (12_000, 12_000), (60_000, 60_000)])
def test_pixel_bombs_are_refused_before_decoding(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    with pytest.raises(ImageError, match=r"pixels"):
        decoded(bomb(*size))


def test_jpeg_bomb_is_refused() -> None:
    data = bytearray(encoded(photo()))
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, 65_000, 65_000)
    with pytest.raises(ImageError, match="pixels"):
        decoded(bytes(data))


def test_fuzz_raises_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit flips, cuts and noise in every kind of file: the long way's pixels or ImageError."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = [
        encoded(photo()),
        encoded(photo(), exif=exif),
        encoded(photo(), progressive=True),
        encoded(Image.fromarray(photo()).convert("CMYK")),
        encoded(photo(), "PNG"),
        encoded(photo(), "GIF"),
        encoded(photo(), "BMP"),
        encoded(photo(), "TIFF"),
        encoded(photo(), "WEBP"),
    ]
    outcomes = {True: 0, False: 0}
    for trial in range(1200):
        data = bytearray(seeds[trial % len(seeds)])
        for _ in range(rng.integers(1, 12)):
            # Half of the damage in the first bytes, where the headers are.
            limit = len(data) if rng.random() < 0.5 else min(len(data), 200)
            data[rng.integers(limit)] = rng.integers(256)
        if rng.random() < 0.2:
            del data[rng.integers(1, len(data)) :]
        found = outcome(bytes(data))
        outcomes[isinstance(found, bytes)] += 1
        with monkeypatch.context() as patch:
            patch.setattr("product_mil.data.decode._plain_shape", lambda _: None)
            assert found == outcome(bytes(data))
    for _ in range(300):
        try:
            decoded(b"\xff\xd8\xff" + rng.bytes(int(rng.integers(200))))
        except ImageError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 100


def avif(size: tuple[int, int] = (SIZE_PX, SIZE_PX), **options: Any) -> bytes:
    if "AVIF" not in images._formats():
        pytest.skip("Pillow was built without AVIF")
    return encoded(Image.fromarray(photo(*size)), "AVIF", quality=100, **options)


def test_avif_is_read() -> None:
    data = avif((60, 80))
    wanted = Image.open(io.BytesIO(data)).convert("RGB")
    wanted = wanted.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(decoded(data), np.asarray(wanted))
    assert np.abs(decoded(avif()).astype(int) - photo()).mean() < 6
    rgba = np.dstack([photo(), np.zeros((SIZE_PX, SIZE_PX), np.uint8)])
    assert (decoded(encoded(rgba, "AVIF")) == 255).all()  # clear, so white
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.rot90(photo().astype(int), -1)
    assert np.abs(decoded(avif(exif=exif)).astype(int) - turned).mean() < 6


def test_avif_that_is_cut_or_too_large_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    data = avif()
    for stop in (13, 40, len(data) // 2, len(data) - 9):
        with pytest.raises(ImageError, match="not a readable image"):
            decoded(data[:stop])
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)

    def never(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    with pytest.raises(ImageError, match="48x48, more than 1000 pixels"):
        decoded(data)


def box(*brands: bytes) -> bytes:
    body = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", len(body) + 4) + body + bytes(100)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (box(b"heic", b"mif1"), "it is an HEIC image"),
        (b"\xff\x0a" + bytes(50) + b"x", "it is a JPEG XL image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "it is a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), "it is a JPEG 2000 image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "it is an SVG drawing"),
        (b'<?xml version="1.0"?><svg/>', "it is an SVG drawing"),
        (b"%PDF-1.4\n", "it is a PDF document"),
        (b"8BPS\0\1" + bytes(50), "it is a Photoshop image"),
        (box(b"isom"), "it is a video or another ISO media file"),
        (b"<html><body>404", "it is an HTML page"),
        (b'{"error": "not found"}', "it is JSON"),
        (b"https://shop.example/1.jpg", r"it is an address \(URL\)"),
        (b"data:image/jpeg;base64,/9j/", r"it is an address \(URL\)"),
        (b"\x1f\x8b\x08\0" + bytes(40), "it is compressed by gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
        (bytes(1000), "nothing but zeros"),
        (b"\x89PNG\r\n\x1a\n", "it begins as a PNG image, and is damaged"),
        (b"\x99\x98\x97" * 20, "no format that is known"),
    ],
)
def test_what_is_not_read_is_named(data: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=f"^not a readable image: {name}"):
        decoded(data)


def test_avif_is_named_where_pillow_does_not_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_formats", lambda: images._FORMATS)
    with pytest.raises(ImageError, match=r"it is an AVIF image, which needs Pillow 11\.3 or newer"):
        decoded(box(b"avif", b"mif1"))


def test_the_number_of_pixels_by_the_header() -> None:
    image = photo(5, 7)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        assert num_pixels(encoded(image, kind)) == 35
    assert num_pixels(b"") == num_pixels(b"\xff\xd8 no JPEG") == num_pixels(b"text") == 0
