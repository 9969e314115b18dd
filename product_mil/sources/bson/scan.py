"""One pass over a BSON file: record boundaries, then the fields of many records at once.

mongodump writes the fields of all records of a collection in one layout, so a chunk of records is
parsed in NumPy lanes, image k of every record together; a record that deviates in any byte of
that layout goes through `parse_record`. Both ways give the same rows.
"""

import os
import struct
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from typing import NamedTuple

import numpy as np
import xxhash
from jaxtyping import Int32, Int64, UInt8, UInt64

from product_mil.sources.bson.document import (
    ARRAY,
    BINARY,
    DOCUMENT,
    INT32,
    INT64,
    OLD_BINARY,
    RecordError,
    parse_record,
)
from product_mil.sources.bson.recovery import (
    MAX_RECORD_BYTES,
    MIN_RECORD_BYTES,
    Mended,
    hides_a_record,
    mend,
    swallows_a_record,
)
from product_mil.sources.catalogue import NO_CATEGORY, Fault

_CHUNK_BYTES = 6 << 20  # parsed together
_PIECE_BYTES = 512 << 10  # read together: record lengths are followed while they are in cache
_PADDING_BYTES = 128  # lanes gather a little past the record before they know that it is short

_read_int32 = struct.Struct("<i").unpack_from


def _little(text: bytes) -> int:
    return int.from_bytes(text, "little")


_ID, _CATEGORY, _PICTURE = _little(b"_id\0"), _little(b"category"), _little(b"picture\0")
# A JPEG without its end may have lost bytes, and swallowed the next record instead.
_JPEG_BEGIN, _JPEG_END = _little(b"\xff\xd8"), _little(b"\xff\xd9")
_IMGS = _little(bytes([ARRAY]) + b"imgs\0")


class Rows(NamedTuple):
    """Products of consecutive records and their images, in file order."""

    offset_bytes: Int64[np.ndarray, " N"]
    length_bytes: Int32[np.ndarray, " N"]
    product_id: Int64[np.ndarray, " N"]
    category_id: Int64[np.ndarray, " N"]
    num_images: Int32[np.ndarray, " N"]
    image_offset_bytes: Int64[np.ndarray, " M"]
    image_length_bytes: Int32[np.ndarray, " M"]
    image_hash: UInt64[np.ndarray, "M 2"] | None
    num_bytes: int  # of the file, used up by these rows
    num_bad_records: int
    unread_bytes: int  # at the file's end, where no record can be found any more
    faults: list[Fault]


def scan(file: FileIO, size_bytes: int, *, hash_images: bool) -> Iterator[Rows]:
    """Yield the rows of a file of `size_bytes`, a few MiB of it at a time.

    Where a record's length or structure is destroyed, `mend` saves what can be read of it and finds
    the next record; only what follows the last record that can be found is left unread. A file
    that shrinks meanwhile ends the reading.
    """
    position = 0
    while True:
        for rows in _intact(file, position, size_bytes, hash_images=hash_images):
            position += rows.num_bytes
            yield rows
        if position == size_bytes or os.fstat(file.fileno()).st_size < size_bytes:
            return  # all is read, or what is missing was cut off meanwhile
        mended = mend(file.fileno(), position, size_bytes)
        yield _mended_rows(mended, position, hash_images=hash_images)
        position = mended.stop_bytes


def _intact(file: FileIO, position: int, size_bytes: int, *, hash_images: bool) -> Iterator[Rows]:
    """Rows from `position` on, up to the first record whose length or structure is broken."""
    file.seek(position)
    buffer, other = (np.empty(_CHUNK_BYTES + _PADDING_BYTES, np.uint8) for _ in range(2))
    base, filled = position, 0  # where in the file the buffer begins, how much of it is filled
    bounds = [0]  # of the records that lie in the buffer as a whole
    goal = _PIECE_BYTES  # parse when so much is filled: little is lost where a broken one follows
    with ThreadPoolExecutor(1) as reader:
        ahead: Future[int] | None = None  # fills the buffer
        while True:
            room = buffer.data[filled:-_PADDING_BYTES]
            got = file.readinto(room[:_PIECE_BYTES]) if ahead is None else ahead.result()
            ahead = None
            filled += got
            wanted = _chain(buffer, bounds, filled, size_bytes - base)
            if wanted and got and got < len(room) and filled < goal:
                continue
            doubted = _doubt_last(buffer, bounds)
            wanted += doubted if wanted else 0
            goes_on = wanted and got
            if goes_on:
                rest = buffer[bounds[-1] : filled]
                if wanted + _PADDING_BYTES > len(other):
                    other = np.empty(wanted + _PADDING_BYTES, np.uint8)
                other[: len(rest)] = rest
                goal = max(2 * goal, wanted)
                if goal >= _CHUNK_BYTES:  # no broken record so far: read while these are parsed
                    free = other.data[len(rest) : -_PADDING_BYTES]
                    ahead = reader.submit(file.readinto, free)
            rows, intact = _parse(buffer, bounds, base, hash_images=hash_images)
            yield rows
            if not (goes_on and intact):
                return
            base, filled, bounds = base + bounds[-1], filled - bounds[-1], [0]
            buffer, other = other, buffer


def _chain(buffer: UInt8[np.ndarray, " bytes"], bounds: list[int], filled: int, left: int) -> int:
    """Follow the record lengths from the last of `bounds`, and add to them.

    `left` counts the bytes of the file from the buffer's start. Returns the bytes that the next
    record takes, of which not all are in the buffer; 0 where there is no next record.
    """
    view, add = buffer.data, bounds.append
    position, last = bounds[-1], filled - 4
    while position <= last:
        (length,) = _read_int32(view, position)
        stop = position + length
        if not MIN_RECORD_BYTES <= length <= MAX_RECORD_BYTES or stop > left:
            return 0
        if stop > filled:
            return length
        add(stop)
        position = stop
    return 4 if position + 4 <= left else 0


def _doubt_last(buffer: UInt8[np.ndarray, " bytes"], bounds: list[int]) -> int:
    """Take the last records back as long as they hide the next one's head; their bytes."""
    end = bounds[-1]
    while len(bounds) > 1:
        last, stop = bounds[-2:]
        if not hides_a_record(buffer[last:stop].tobytes(), buffer[stop : stop + 9].tobytes()):
            break
        bounds.pop()
    return end - bounds[-1]


def _mended_rows(mended: Mended, position: int, *, hash_images: bool) -> Rows:
    """The row of a damaged record, or none, with the bytes that it takes."""
    records = [] if mended.record is None else [mended.record]
    pictures = [picture for record in records for picture in record.pictures]
    digests = b"".join(xxhash.xxh3_128_digest(data) for data in mended.pictures)
    return Rows(
        offset_bytes=np.full(len(records), position, np.int64),
        length_bytes=np.full(len(records), mended.stop_bytes - position, np.int32),
        product_id=np.array([record.product_id for record in records], np.int64),
        category_id=np.array(
            [NO_CATEGORY if r.category_id is None else r.category_id for r in records], np.int64
        ),
        num_images=np.array([len(record.pictures) for record in records], np.int32),
        image_offset_bytes=np.array([at for at, _ in pictures], np.int64),
        image_length_bytes=np.array([length for _, length in pictures], np.int32),
        image_hash=_as_hashes(digests) if hash_images else None,
        num_bytes=mended.stop_bytes - position,
        num_bad_records=int(not records and not mended.unread_bytes),
        unread_bytes=mended.unread_bytes,
        faults=[*mended.faults, *(fault for record in records for fault in record.faults)],
    )


def _parse(
    buffer: UInt8[np.ndarray, " bytes"],
    bounds: list[int],
    base: int,
    *,
    hash_images: bool,
) -> tuple[Rows, bool]:
    """Rows of the records between `bounds` of the buffer, which begins at byte `base`.

    They end before the first record of broken structure; the second value tells whether none is.
    """
    edges = np.array(bounds, np.int64)
    start, stop = edges[:-1], edges[1:]
    product_id, category_id, num_images, lanes = _parse_lanes(buffer, start, stop)
    usable = np.ones(len(start), bool)
    walked: list[tuple[int, int]] = []  # position and length of images found by walking
    faults: list[Fault] = []
    for row in np.flatnonzero(num_images == 0).tolist():
        data = buffer.data[start[row] : stop[row]]
        record = None
        try:
            record = parse_record(data, int(start[row]))
            broken = swallows_a_record(bytes(data))
        except RecordError as error:
            usable[row], broken = False, error.broken
            faults.append(error.fault)
        if broken:  # and so perhaps its length, and all bounds after it
            kept = bounds[: row + 1]
            _doubt_last(buffer, kept)
            return _parse(buffer, kept, base, hash_images=hash_images)[0], False
        if record is None:
            continue
        product_id[row] = record.product_id
        category_id[row] = NO_CATEGORY if record.category_id is None else record.category_id
        num_images[row] = -len(record.pictures)  # negative: not from the lanes
        walked += record.pictures
        faults += record.faults
    from_lanes = num_images > 0
    num_images = np.abs(num_images)
    first = np.cumsum(num_images) - num_images
    at = np.zeros(num_images.sum(), np.int64)
    length = np.zeros(len(at), np.int64)
    for k, (row, lane_at, lane_length) in enumerate(lanes):
        chosen = from_lanes[row]
        place = first[row[chosen]] + k
        at[place], length[place] = lane_at[chosen], lane_length[chosen]
    place = np.repeat(~from_lanes, num_images)
    at[place], length[place] = np.array(walked, np.int64).reshape(-1, 2).T
    rows = Rows(
        offset_bytes=(start + base)[usable],
        length_bytes=(stop - start).astype(np.int32)[usable],
        product_id=product_id[usable],
        category_id=category_id[usable],
        num_images=num_images.astype(np.int32)[usable],
        image_offset_bytes=at + base,
        image_length_bytes=length.astype(np.int32),
        image_hash=_hash(buffer, at, at + length) if hash_images else None,
        num_bytes=int(bounds[-1]),
        num_bad_records=int((~usable).sum()),
        unread_bytes=0,
        faults=[fault._replace(offset_bytes=fault.offset_bytes + base) for fault in faults],
    )
    return rows, True


def _parse_lanes(
    buffer: UInt8[np.ndarray, " bytes"],
    start: Int64[np.ndarray, " N"],
    stop: Int64[np.ndarray, " N"],
) -> tuple[
    Int64[np.ndarray, " N"],
    Int64[np.ndarray, " N"],
    Int64[np.ndarray, " N"],
    list[tuple[np.ndarray, np.ndarray, np.ndarray]],
]:
    """Ids, categories and numbers of images of the records in mongodump's usual layout.

    A record in any other layout gets 0 images, and its other values mean nothing. The list has
    (row, position, length) of image k of every row that looked right as far as that.
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


def _hash(
    buffer: UInt8[np.ndarray, " bytes"],
    start: Int64[np.ndarray, " M"],
    stop: Int64[np.ndarray, " M"],
) -> UInt64[np.ndarray, "M 2"]:
    """xxh3_128 of each image's bytes, its high half first."""
    view, digest = buffer.data, xxhash.xxh3_128_digest
    bounds = zip(start.tolist(), stop.tolist(), strict=True)
    return _as_hashes(b"".join([digest(view[a:b]) for a, b in bounds]))


def _as_hashes(digests: bytes) -> UInt64[np.ndarray, "M 2"]:
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)
