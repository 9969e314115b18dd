"""Read the products of a BSON file in one pass.

mongodump writes all records of a collection with the same layout. So the boundaries of many records
are found first, and then their fields are parsed together by NumPy (`lanes.py`). A record whose
layout differs in any byte is parsed by `parse_record`. Both ways give the same rows.
"""

import os
import struct
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import FileIO
from typing import NamedTuple

import numpy as np
import xxhash
from jaxtyping import Int32, Int64, UInt8, UInt64

from product_mil.files.foreign import MAX_RECORD_BYTES
from product_mil.sources.bson.document import Record, RecordError, parse_record
from product_mil.sources.bson.lanes import parse_lanes
from product_mil.sources.bson.recovery import (
    MIN_RECORD_BYTES,
    Recovered,
    hides_a_record,
    recover,
    swallows_a_record,
)
from product_mil.sources.catalogue import Fault, hashes_from
from product_mil.sources.ids import Ids, ids_from, merged

_CHUNK_BYTES = 6 << 20  # parsed together
_PIECE_BYTES = 512 << 10  # read together, so that records are still in cache when lengths are read
_PADDING_BYTES = 128  # `parse_lanes` reads a little past the end of a short record

_read_int32 = struct.Struct("<i").unpack_from


class Rows(NamedTuple):
    """Products of consecutive records and their images, in file order."""

    offset_bytes: Int64[np.ndarray, " N"]
    length_bytes: Int32[np.ndarray, " N"]
    product_id: Ids[np.ndarray, " N"]
    category_id: Ids[np.ndarray, " N"]
    num_images: Int32[np.ndarray, " N"]
    image_offset_bytes: Int64[np.ndarray, " M"]
    image_length_bytes: Int32[np.ndarray, " M"]
    image_hash: UInt64[np.ndarray, "M 2"] | None
    num_bytes: int  # bytes of the file that these rows take
    num_bad_records: int
    unread_bytes: int  # bytes at the end of the file in which no record can be found
    faults: list[Fault]


def scan(file: FileIO, size_bytes: int, *, hash_images: bool) -> Iterator[Rows]:
    """Yield the rows of a file of `size_bytes`, a few MiB of it at a time.

    If the length or structure of a record is destroyed, `recover` reads what is left of it and
    finds the next record. Only bytes after the last record that can be found are left unread.
    Reading stops early if the file shrinks meanwhile.
    """
    position = 0
    while True:
        for rows in _intact(file, position, size_bytes, hash_images=hash_images):
            position += rows.num_bytes
            yield rows
        if position == size_bytes or os.fstat(file.fileno()).st_size < size_bytes:
            return  # everything is read, or the file has become shorter
        recovered = recover(file.fileno(), position, size_bytes)
        yield _recovered_rows(recovered, position, hash_images=hash_images)
        position = recovered.stop_bytes


@dataclass
class _Window:
    """A part of the file in memory, and the boundaries of the whole records in it."""

    base: int  # offset of the buffer in the file
    buffer: UInt8[np.ndarray, " bytes"]
    filled: int = 0  # bytes of the buffer that are filled
    bounds: list[int] = field(default_factory=lambda: [0])  # of the records, in the buffer

    @property
    def room(self) -> memoryview:
        """The part of the buffer that is not filled yet."""
        return self.buffer.data[self.filled : -_PADDING_BYTES]

    def fill(self, file: FileIO, goal: int, size_bytes: int, ahead: Future[int] | None) -> int:
        """Read piece by piece until `goal` bytes are filled, no room is left or no record follows.

        If `ahead` is given, it is filling the room already. Returns the size of the next record in
        bytes, which is only partly in the buffer; 0 if there is none, or nothing more to read.
        """
        while True:
            room = self.room
            got = file.readinto(room[:_PIECE_BYTES]) if ahead is None else ahead.result()
            ahead = None
            self.filled += got
            wanted = _chain(self.buffer, self.bounds, self.filled, size_bytes - self.base)
            if not (wanted and got and got < len(room) and self.filled < goal):
                break
        doubted = _doubt_last(self.buffer, self.bounds)
        return wanted + doubted if wanted and got else 0

    def following(self, buffer: UInt8[np.ndarray, " bytes"], wanted: int) -> "_Window":
        """The next window. It begins after the last whole record, and has room for `wanted` bytes.

        It uses the given buffer, or a larger one if that is too small.
        """
        rest = self.buffer[self.bounds[-1] : self.filled]
        if wanted + _PADDING_BYTES > len(buffer):
            buffer = np.empty(wanted + _PADDING_BYTES, np.uint8)
        buffer[: len(rest)] = rest
        return _Window(self.base + self.bounds[-1], buffer, len(rest))


def _intact(file: FileIO, position: int, size_bytes: int, *, hash_images: bool) -> Iterator[Rows]:
    """Rows from `position` on, up to the first record whose length or structure is broken."""
    file.seek(position)
    buffer, spare = (np.empty(_CHUNK_BYTES + _PADDING_BYTES, np.uint8) for _ in range(2))
    window = _Window(position, buffer)
    goal = _PIECE_BYTES  # parse after this many bytes; small, as a broken record may follow
    ahead: Future[int] | None = None
    with ThreadPoolExecutor(1) as reader:
        while True:
            wanted = window.fill(file, goal, size_bytes, ahead)
            following, ahead = window.following(spare, wanted) if wanted else None, None
            goal = max(2 * goal, wanted)
            if following and goal >= _CHUNK_BYTES:  # without broken records, read while parsing
                ahead = reader.submit(file.readinto, following.room)
            rows, intact = _parse(
                window.buffer, window.bounds, window.base, hash_images=hash_images
            )
            yield rows
            if following is None or not intact:
                return
            window, spare = following, window.buffer


def _chain(buffer: UInt8[np.ndarray, " bytes"], bounds: list[int], filled: int, left: int) -> int:
    """Follow the lengths of records from the last of `bounds` on, and append their ends to it.

    `left` is the number of bytes of the file from the start of the buffer. Returns the size of the
    next record in bytes, which is only partly in the buffer; 0 if there is no next record.
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
    """Remove the last bounds while their records hide the head of the next; returns their bytes."""
    end = bounds[-1]
    while len(bounds) > 1:
        last, stop = bounds[-2:]
        if not hides_a_record(buffer[last:stop].tobytes(), buffer[stop : stop + 9].tobytes()):
            break
        bounds.pop()
    return end - bounds[-1]


def _recovered_rows(recovered: Recovered, position: int, *, hash_images: bool) -> Rows:
    """The row of a recovered record, if there is one, with the bytes that it takes."""
    records = [] if recovered.record is None else [recovered.record]
    pictures = [picture for record in records for picture in record.pictures]
    digests = b"".join(xxhash.xxh3_128_digest(data) for data in recovered.pictures)
    return Rows(
        offset_bytes=np.full(len(records), position, np.int64),
        length_bytes=np.full(len(records), recovered.stop_bytes - position, np.int32),
        product_id=ids_from(record.product_id for record in records),
        category_id=ids_from(record.category_id for record in records),
        num_images=np.array([len(record.pictures) for record in records], np.int32),
        image_offset_bytes=np.array([at for at, _ in pictures], np.int64),
        image_length_bytes=np.array([length for _, length in pictures], np.int32),
        image_hash=hashes_from(digests) if hash_images else None,
        num_bytes=recovered.stop_bytes - position,
        num_bad_records=int(not records and not recovered.unread_bytes),
        unread_bytes=recovered.unread_bytes,
        faults=[*recovered.faults, *(fault for record in records for fault in record.faults)],
    )


def _parse(
    buffer: UInt8[np.ndarray, " bytes"],
    bounds: list[int],
    base: int,
    *,
    hash_images: bool,
) -> tuple[Rows, bool]:
    """Rows of the records between `bounds` of the buffer, whose offset in the file is `base`.

    They end before the first record of broken structure. The second value is whether there is none.
    """
    edges = np.array(bounds, np.int64)
    start, stop = edges[:-1], edges[1:]
    product_id, category_id, num_images, lanes = parse_lanes(buffer, start, stop)
    usable = np.ones(len(start), bool)
    walked: dict[int, Record] = {}  # by row, with positions in the buffer
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
        if broken:  # its length may be wrong too, and then all bounds after it
            kept = bounds[: row + 1]
            _doubt_last(buffer, kept)
            return _parse(buffer, kept, base, hash_images=hash_images)[0], False
        if record is None:
            continue
        walked[row] = record
        faults += record.faults
    from_lanes, by_walking = num_images > 0, np.array(list(walked), np.int64)
    product_id = merged(
        product_id, from_lanes, by_walking, ids_from(r.product_id for r in walked.values())
    )
    category_id = merged(
        category_id, from_lanes, by_walking, ids_from(r.category_id for r in walked.values())
    )
    pictures = [picture for record in walked.values() for picture in record.pictures]
    num_images[by_walking] = [len(record.pictures) for record in walked.values()]
    first = np.cumsum(num_images) - num_images
    at = np.zeros(num_images.sum(), np.int64)
    length = np.zeros(len(at), np.int64)
    for k, (row, lane_at, lane_length) in enumerate(lanes):
        chosen = from_lanes[row]
        place = first[row[chosen]] + k
        at[place], length[place] = lane_at[chosen], lane_length[chosen]
    place = np.repeat(~from_lanes, num_images)
    at[place], length[place] = np.array(pictures, np.int64).reshape(-1, 2).T
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
        faults=[fault._replace(offset_bytes=(fault.offset_bytes or 0) + base) for fault in faults],
    )
    return rows, True


def _hash(
    buffer: UInt8[np.ndarray, " bytes"],
    start: Int64[np.ndarray, " M"],
    stop: Int64[np.ndarray, " M"],
) -> UInt64[np.ndarray, "M 2"]:
    """The xxh3_128 hash of each image's bytes, high half first."""
    view, digest = buffer.data, xxhash.xxh3_128_digest
    bounds = zip(start.tolist(), stop.tolist(), strict=True)
    return hashes_from(b"".join([digest(view[a:b]) for a, b in bounds]))
