"""Parse many records of mongodump's usual layout at once, by NumPy."""

import numpy as np
from jaxtyping import Int64, UInt8

from product_mil.sources.bson.document import ARRAY, BINARY, DOCUMENT, INT32, INT64, OLD_BINARY
from product_mil.sources.ids import NO_CATEGORY


def _little(text: bytes) -> int:
    return int.from_bytes(text, "little")


_ID, _CATEGORY, _PICTURE = _little(b"_id\0"), _little(b"category"), _little(b"picture\0")
# A JPEG without its end marker may have lost bytes, and contain the next record instead.
_JPEG_BEGIN, _JPEG_END = _little(b"\xff\xd8"), _little(b"\xff\xd9")
_IMGS = _little(bytes([ARRAY]) + b"imgs\0")


def parse_lanes(
    buffer: UInt8[np.ndarray, " bytes"],
    start: Int64[np.ndarray, " N"],
    stop: Int64[np.ndarray, " N"],
) -> tuple[
    Int64[np.ndarray, " N"],
    Int64[np.ndarray, " N"],
    Int64[np.ndarray, " N"],
    list[tuple[np.ndarray, np.ndarray, np.ndarray]],
]:
    """Ids, categories, numbers of images, and places of images of records in the usual layout.

    A record in any other layout gets 0 images, and its other values mean nothing. Element k of the
    list has (row, position, length) of image k of every record that fits the layout up to there.
    """
    u1, u2, i4, u4, i8, u8 = (
        np.ndarray(len(buffer) - 7, dtype, buffer, strides=(1,))  # element j begins at byte j
        for dtype in ("u1", "<u2", "<i4", "<u4", "<i8", "<u8")
    )
    kind = u1[start + 4]
    wide = kind == INT64
    ok = (wide | (kind == INT32)) & (u4[start + 5] == _ID) & (u1[stop - 1] == 0)
    product_id = np.where(wide, i8[start + 9], i4[start + 9])
    at = start + 13 + 4 * wide
    given = (u8[at + 1] == _CATEGORY) & (u4[at + 9] == _ID)
    kind = u1[at]
    wide = given & (kind == INT64)
    ok &= ~given | wide | (kind == INT32)
    category_id = np.where(given, np.where(wide, i8[at + 13], i4[at + 13]), NO_CATEGORY)
    at += np.where(given, 17 + 4 * wide, 0)
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
