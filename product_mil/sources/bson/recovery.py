"""A damaged record of a MongoDB dump: what can be saved of it, and where the next one begins.

A destroyed length breaks the chain that leads from record to record. mongodump writes `_id` first,
so the next record is found by the bytes of that field; two zeros before it, or a record that parses
in full, tell it from an `_id` inside another field. A broken record is not walked but searched for
its fields, so that damage to one of them leaves the others.
"""

import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from product_mil.sources.bson.document import (
    INT32,
    Record,
    RecordError,
    document_bytes,
    integer_value,
    parse_record,
)
from product_mil.sources.catalogue import Fault

MIN_RECORD_BYTES = 5
MAX_RECORD_BYTES = 64 << 20  # MongoDB's limit is 16 MiB; other writers go beyond

_HEAD = re.compile(rb"[\x01-\x13\x7f\xff]_id\0")  # four bytes after a record's begin
_SWALLOWED = re.compile(rb"(?s)\0\0....[\x01-\x13](_id|category_id|imgs)\0")
_ID = re.compile(rb"([\x01\x10\x12])_id\0")
_CATEGORY = re.compile(rb"([\x01\x10\x12])category_id\0")
_IMGS = re.compile(rb"\x04imgs\0")
_PICTURE = re.compile(rb"(?s)\x03(\d{1,3})\0....\x05picture\0(....).")

LOST_PICTURE = "an image whose length is destroyed or whose bytes are missing"

_BLOCK_BYTES = 1 << 20  # of the search for the next record

Read = Callable[[int, int], bytes]  # offset and length in bytes


class Mended(NamedTuple):
    """What became of the damaged record."""

    stop_bytes: int  # where reading goes on
    record: Record | None
    pictures: list[bytes]  # of the record
    faults: list[Fault]  # the record's own are not repeated
    unread_bytes: int  # up to the end of the file, where no record follows


def mend(descriptor: int, position: int, size_bytes: int) -> Mended:
    """Save what can be read of the record at `position`, whose length or structure is broken.

    A record that the end of the file cuts off keeps the images that are there as a whole.
    """

    def read(offset: int, length: int) -> bytes:
        return os.pread(descriptor, max(0, min(length, size_bytes - offset)), offset)

    left, head = size_bytes - position, read(position, 4)
    length = struct.unpack("<i", head)[0] if len(head) == 4 else MIN_RECORD_BYTES
    plausible = MIN_RECORD_BYTES <= length <= MAX_RECORD_BYTES
    stop = position + length if plausible and length <= left else None
    end = _next_record(read, position, stop, size_bytes)
    data = read(position, min(end - position, MAX_RECORD_BYTES))
    walked = document_bytes(data)
    if walked is not None and _is_document(read, position + walked):
        end, data = position + walked, data[:walked]  # a neighbour without an `_id` lay between
    record = _with_right_length(data, position)
    reason = f"wrong record length: {length} where the record has {end - position} bytes"
    if record is None:
        record = _search(data, position)
        reason = "broken BSON structure: what is left of the record is used"
        if stop is None and end == size_bytes:
            what = "truncated record" if plausible else f"impossible record length {length}"
            if record is None:
                reason = f"{what}: {left} bytes are left unread; fetch the file again"
                return Mended(end, None, [], [Fault(position, None, reason)], left)
            if plausible:
                missing = f"its last {length - left} bytes are missing"
                reason = f"{what}: {missing}; what is left of it is used; fetch the file again"
    # Each array of images more is that of a record whose head is gone.
    faults = [
        Fault(position + found.start(), None, "no integer _id: after a damaged record")
        for found in list(_IMGS.finditer(data))[1:]
    ]
    if record is None:
        reason = f"broken BSON structure: no integer _id; {end - position} bytes skipped"
        return Mended(end, None, [], [Fault(position, None, reason), *faults], 0)
    pictures = [data[at - position : at - position + n] for at, n in record.pictures]
    return Mended(end, record, pictures, [Fault(position, record.product_id, reason), *faults], 0)


def hides_a_record(data: bytes, following: bytes) -> bool:
    """Whether a record that looked whole has swallowed the next one's head.

    Bytes lost inside a picture shift what follows into it, and by chance the closing zeros may fit.
    `following` is what comes after the record; the chain of lengths broke there.
    """
    return not _HEAD.match(following, 4) and bool(_SWALLOWED.search(data, data.find(b"\x04imgs\0")))


def swallows_a_record(data: bytes) -> bool:
    """Whether a record of intact structure holds another one, up to its own last byte.

    So it is where just as many bytes were lost inside a picture as the next record has.
    """
    for found in _SWALLOWED.finditer(data, data.find(b"\x04imgs\0")):
        inner = data[found.start() + 2 :]
        if struct.unpack_from("<i", inner)[0] == len(inner) == document_bytes(inner):
            return True
    return False


def _next_record(read: Read, position: int, stop: int | None, size_bytes: int) -> int:
    """Where the next record begins; the file's end where there is none.

    `stop` is what the record's own length says, if that is possible.
    """
    told = stop if stop == size_bytes or (stop and _is_document(read, stop)) else None
    for head in _heads(read, position + MIN_RECORD_BYTES, size_bytes):
        if told is not None and head >= told:
            return told
        if head == stop or read(head - 2, 2) == b"\0\0" or _parses(read, head):
            return head
    return told or size_bytes


def _heads(read: Read, start: int, size_bytes: int) -> Iterator[int]:
    """Places from `start` on where a record with `_id` as its first field may begin."""
    while start < size_bytes:
        block = read(start, _BLOCK_BYTES)
        if not block:
            return  # the file shrank
        for found in _HEAD.finditer(block, 4):
            yield start + found.start() - 4
        start += max(len(block) - 8, 1)  # a head across the border is whole in the next block


def _parses(read: Read, position: int) -> bool:
    """Whether a whole record with images lies there."""
    head = read(position, 4)
    length = struct.unpack("<i", head)[0] if len(head) == 4 else 0
    if not MIN_RECORD_BYTES <= length <= MAX_RECORD_BYTES:
        return False
    try:
        return bool(parse_record(read(position, length), position).pictures)
    except RecordError:
        return False


def _is_document(read: Read, position: int) -> bool:
    """Whether a whole document lies there, be it of a product or not."""
    head = read(position, 4)
    length = struct.unpack("<i", head)[0] if len(head) == 4 else 0
    if not 4 * MIN_RECORD_BYTES <= length <= MAX_RECORD_BYTES:
        return False
    return document_bytes(read(position, length)) == length


def _with_right_length(data: bytes, position: int) -> Record | None:
    """The record, if only its length was wrong."""
    try:
        return parse_record(struct.pack("<i", len(data)) + data[4:], position)
    except RecordError:
        return None


def _search(data: bytes, position: int) -> Record | None:
    """The fields that can be found in a broken record; None without an integer `_id`."""
    found = _ID.search(data)
    product_id = _number(data, found)
    if product_id is None:
        return None
    arrays = [match.end() for match in _IMGS.finditer(data)]
    start, *following = [*arrays, len(data)]
    # The images of a second array are another product's, whose own head is destroyed.
    data = data[: following[0]] if following else data
    pictures: list[tuple[int, int]] = []
    faults: list[Fault] = []
    for at, length, index in _pictures(data, start) if arrays else []:
        while len(pictures) <= index:
            pictures.append((at, length if len(pictures) == index else 0))
            if pictures[-1][1] == 0:
                lost = Fault(position + at, product_id, LOST_PICTURE, len(pictures) - 1)
                faults.append(lost)
    return Record(
        product_id,
        _number(data, _CATEGORY.search(data)),
        [(position + at, length) for at, length in pictures],
        faults,
    )


def _pictures(data: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """Place, length (0 where it is destroyed) and index of each picture, in order."""
    least = 0
    while found := _PICTURE.search(data, start):
        index, (length,) = int(found[1]), struct.unpack("<i", found[2])
        if index < least:
            return  # the images of the next product
        start = found.end()
        whole = length >= 0 and start + length <= len(data)
        yield start, length if whole else 0, index
        start, least = start + (length if whole else 0), index + 1


def _number(data: bytes, found: re.Match[bytes] | None) -> int | None:
    if found is None or found.end() + (4 if found[1][0] == INT32 else 8) > len(data):
        return None
    return integer_value(data, found[1][0], found.end())
