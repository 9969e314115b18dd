"""Parse many records of mongodump's usual layout at once, by NumPy."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from product_mil.sources.bson.document import (
    ARRAY,
    BINARY,
    DOCUMENT,
    INT32,
    INT64,
    OBJECT_ID,
    OLD_BINARY,
    STRING,
)
from product_mil.sources.ids import MAX_ID_CHARACTERS, NO_CATEGORY, Ids, is_text


def _little(text: bytes) -> int:
    return int.from_bytes(text, "little")


_ID, _CATEGORY, _PICTURE = _little(b"_id\0"), _little(b"category"), _little(b"picture\0")
# A JPEG without its end marker may have lost bytes, and contain the next record instead.
_JPEG_BEGIN, _JPEG_END = _little(b"\xff\xd8"), _little(b"\xff\xd9")
_IMGS = _little(bytes([ARRAY]) + b"imgs\0")
_HEX = np.array([b"%02x" % byte for byte in range(256)])


class _Bytes:
    """A buffer read as little-endian numbers: element j of each begins at byte j."""

    def __init__(self, buffer: UInt8[np.ndarray, " bytes"]) -> None:
        self.u1, self.u2, self.i4, self.u4, self.i8, self.u8 = (
            np.ndarray(len(buffer) - 7, dtype, buffer, strides=(1,))
            for dtype in ("u1", "<u2", "<i4", "<u4", "<i8", "<u8")
        )


class _Values(NamedTuple):
    """The values of one field of many records."""

    ids: Ids[np.ndarray, " N"]
    stop: Int64[np.ndarray, " N"]
    usual: Bool[np.ndarray, " N"]  # other values mean nothing, and other stops are near the starts


def parse_lanes(
    buffer: UInt8[np.ndarray, " bytes"],
    start: Int64[np.ndarray, " N"],
    stop: Int64[np.ndarray, " N"],
) -> tuple[
    Ids[np.ndarray, " N"],
    Ids[np.ndarray, " N"],
    Int64[np.ndarray, " N"],
    list[tuple[np.ndarray, np.ndarray, np.ndarray]],
]:
    """Ids, categories, numbers of images, and places of images of records in the usual layout.

    A record in any other layout, or with ids of another type than the first record, gets 0 images,
    and its other values mean nothing. Element k of the list has (row, position, length) of image k
    of every record that fits the layout up to there.
    """
    data = _Bytes(buffer)
    u1, u2, i4, u4, u8 = data.u1, data.u2, data.i4, data.u4, data.u8
    ok = (u4[start + 5] == _ID) & (u1[stop - 1] == 0)
    product_id, at, usual = _values(data, start + 4, start + 9, stop, ok)
    ok &= usual
    given = ok & (u8[at + 1] == _CATEGORY) & (u4[at + 9] == _ID)
    category_id, after, usual = _values(data, at, at + 13, stop, given)
    ok &= usual | ~given
    at = np.where(given, after, at)
    if not is_text(category_id):
        category_id = np.where(given, category_id, NO_CATEGORY)
    ok &= (u8[at] & 0xFFFFFFFFFFFF) == _IMGS
    array_bytes = i4[at + 6]
    ok &= (array_bytes >= 5) & (at + 6 + array_bytes == stop - 1) & (u1[stop - 2] == 0)

    num_images = np.zeros(len(start), np.int64)
    row = np.flatnonzero(ok)
    at, last = at[row] + 10, stop[row] - 2  # `last` is the array's closing zero
    images = []
    for k in range(10):  # one-digit names, "0" to "9"
        name = _little(bytes([DOCUMENT]) + b"%d\0" % k)
        length = i4[at + 16].astype(np.int64)
        end = at + 21 + length  # the image document's closing zero
        right = (u4[at] & 0xFFFFFF) == name
        right &= (u1[at + 7] == BINARY) & (u8[at + 8] == _PICTURE) & (u1[at + 20] != OLD_BINARY)
        right &= (length >= 0) & (i4[at + 3] == length + 19) & (end < last)
        right &= (u2[at + 21] != _JPEG_BEGIN) | (u2[np.where(right, end - 2, 0)] == _JPEG_END)
        row, at, last, length, end = (x[right] for x in (row, at, last, length, end))
        images.append((row, at + 21, length))
        right = u1[end] == 0
        at = end + 1
        num_images[row[right & (at == last)]] = k + 1
        right &= at < last
        row, at, last = row[right], at[right], last[right]
        if not len(row):
            break
    return product_id, category_id, num_images, images


def _values(
    data: _Bytes,
    kind_at: Int64[np.ndarray, " N"],
    at: Int64[np.ndarray, " N"],
    last: Int64[np.ndarray, " N"],
    wanted: Bool[np.ndarray, " N"],
) -> _Values:
    """The ids at these positions that are of the type of the first wanted one.

    `kind_at` are the positions of their types, `last` the ends of the records.
    """
    kind = data.u1[kind_at]
    first = int(kind[wanted.argmax()]) if len(kind) else INT64
    if first == OBJECT_ID:
        usual = wanted & (kind == OBJECT_ID) & (at + 12 < last)
        parts = _HEX[data.u1[np.where(usual, at, 0)[:, None] + np.arange(12)]]
        parts[~usual] = b""
        return _Values(parts.view("S24")[:, 0].astype(np.str_), at + 12 * usual, usual)
    if first == STRING:
        return _texts(data, at, last, wanted & (kind == STRING))
    wide = kind == INT64
    usual = wanted & (wide | (kind == INT32))
    numbers = np.where(wide, data.i8[at], data.i4[at])
    return _Values(numbers, at + 4 + 4 * wide, usual & (numbers != NO_CATEGORY))


def _texts(
    data: _Bytes,
    at: Int64[np.ndarray, " N"],
    last: Int64[np.ndarray, " N"],
    usual: Bool[np.ndarray, " N"],
) -> _Values:
    """The strings at these positions that are short and ASCII, which are decoded at once."""
    length = np.where(usual, data.i4[at].astype(np.int64) - 1, 0)  # without the closing zero
    usual = usual & (length > 0) & (length <= MAX_ID_CHARACTERS) & (at + 5 + length < last)
    length = np.where(usual, length, 0)
    place = np.arange(max(length.max(initial=0), 1))
    within = place < length[:, None]
    texts = np.where(within, data.u1[np.where(within, at[:, None] + 4 + place, 0)], 0)
    usual &= ((texts > 0) & (texts < 128) | ~within).all(1) & (data.u1[at + 4 + length] == 0)
    texts[~usual] = 0
    ids = texts.view(f"S{len(place)}")[:, 0].astype(np.str_)
    return _Values(ids, at + np.where(usual, 5 + length, 0), usual)
