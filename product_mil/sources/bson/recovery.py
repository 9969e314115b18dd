"""Recover a damaged record of a MongoDB dump, and find the beginning of the next one.

Each record begins with its length, so a destroyed length hides all following records. mongodump
writes `_id` as the first field, and the next record is found by the bytes of that field. To be the
beginning of a record rather than an `_id` inside another field, it needs two zeros before it, or a
record that can be parsed as a whole. In a broken record each field is searched for by itself, so
damage to one does not affect the others.
"""

import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from product_mil.files.foreign import MAX_RECORD_BYTES
from product_mil.sources.bson.document import (
    Record,
    RecordError,
    document_bytes,
    id_at,
    parse_record,
)
from product_mil.sources.catalogue import NO_ID, TRUNCATED, Fault
from product_mil.sources.ids import Id

MIN_RECORD_BYTES = 5

_HEAD = re.compile(rb"[\x01-\x13\x7f\xff]_id\0")  # four bytes after the beginning of a record
_SWALLOWED = re.compile(rb"(?s)\0\0....[\x01-\x13](_id|category_id|imgs)\0")
_ID = re.compile(rb"([\x01\x02\x05\x07\x10\x12])_id\0")
_CATEGORY = re.compile(rb"([\x01\x02\x05\x07\x10\x12])category_id\0")
_IMGS = re.compile(rb"\x04imgs\0")
_PICTURE = re.compile(rb"(?s)\x03(\d{1,3})\0....\x05picture\0(....).")

LOST_PICTURE = "an image whose length is destroyed or whose bytes are missing"

_BLOCK_BYTES = 1 << 20  # read at once in the search for the next record

Read = Callable[[int, int], bytes]  # offset and length in bytes


class Recovered(NamedTuple):
    """The result of recovering a damaged record."""

    stop_bytes: int  # the offset at which reading continues
    record: Record | None
    pictures: list[bytes]  # the images of the record
    faults: list[Fault]  # without those that `record` has
    unread_bytes: int  # up to the end of the file, if no record follows


def recover(descriptor: int, position: int, size_bytes: int) -> Recovered:
    """Recover what can be read of the record at `position`, whose length or structure is broken.

    A record that is cut off by the end of the file keeps the images that are whole.
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
        end, data = position + walked, data[:walked]  # `end` had skipped a record without an `_id`
    record = _with_right_length(data, position)
    reason = f"wrong record length: {length} where the record has {end - position} bytes"
    if record is None:
        record = _search(data, position)
        reason = "broken BSON structure: what is left of the record is used"
        if stop is None and end == size_bytes:
            what = TRUNCATED if plausible else f"impossible record length {length}"
            if record is None:
                reason = f"{what}: {left} bytes are left unread; fetch the file again"
                return Recovered(end, None, [], [Fault(position, None, reason)], left)
            if plausible:
                missing = f"its last {length - left} bytes are missing"
                reason = f"{what}: {missing}; what is left of it is used; fetch the file again"
    # Every further array of images belongs to a record whose beginning is destroyed.
    faults = [
        Fault(position + found.start(), None, f"{NO_ID}: after a damaged record")
        for found in list(_IMGS.finditer(data))[1:]
    ]
    if record is None:
        reason = f"broken BSON structure: {NO_ID}; {end - position} bytes skipped"
        return Recovered(end, None, [], [Fault(position, None, reason), *faults], 0)
    pictures = [data[at - position : at - position + n] for at, n in record.pictures]
    fault = Fault(position, record.product_id, reason)
    return Recovered(end, record, pictures, [fault, *faults], 0)


def hides_a_record(data: bytes, following: bytes) -> bool:
    """Whether a record that looked whole has swallowed the next one's head.

    If bytes are lost inside an image, the next record moves into this one, and by chance the
    closing zeros may fit. `following` are the bytes after the record, where no record begins.
    """
    return not _HEAD.match(following, 4) and bool(_SWALLOWED.search(data, data.find(b"\x04imgs\0")))


def swallows_a_record(data: bytes) -> bool:
    """Whether a record of intact structure contains another one that ends at the same byte.

    This happens if exactly as many bytes are lost inside an image as the next record has.
    """
    for found in _SWALLOWED.finditer(data, data.find(b"\x04imgs\0")):
        inner = data[found.start() + 2 :]
        if struct.unpack_from("<i", inner)[0] == len(inner) == document_bytes(inner):
            return True
    return False


def _next_record(read: Read, position: int, stop: int | None, size_bytes: int) -> int:
    """The offset of the next record, or the end of the file if there is none.

    `stop` is the end of the damaged record by its own length, if that is possible.
    """
    expected = stop if stop == size_bytes or (stop and _is_document(read, stop)) else None
    for head in _heads(read, position + MIN_RECORD_BYTES, size_bytes):
        if expected is not None and head >= expected:
            return expected
        if head == stop or read(head - 2, 2) == b"\0\0" or _parses(read, head):
            return head
    return expected or size_bytes


def _heads(read: Read, start: int, size_bytes: int) -> Iterator[int]:
    """Offsets from `start` on where a record with `_id` as its first field may begin."""
    while start < size_bytes:
        block = read(start, _BLOCK_BYTES)
        if not block:
            return  # the file shrank
        for found in _HEAD.finditer(block, 4):
            yield start + found.start() - 4
        start += max(len(block) - 8, 1)  # blocks overlap, so no head is cut in two


def _parses(read: Read, position: int) -> bool:
    """Whether a whole record with images begins at `position`."""
    head = read(position, 4)
    length = struct.unpack("<i", head)[0] if len(head) == 4 else 0
    if not MIN_RECORD_BYTES <= length <= MAX_RECORD_BYTES:
        return False
    try:
        return bool(parse_record(read(position, length), position).pictures)
    except RecordError:
        return False


def _is_document(read: Read, position: int) -> bool:
    """Whether a whole document begins at `position`, even if it is not a product."""
    head = read(position, 4)
    length = struct.unpack("<i", head)[0] if len(head) == 4 else 0
    if not 4 * MIN_RECORD_BYTES <= length <= MAX_RECORD_BYTES:
        return False
    return document_bytes(read(position, length)) == length


def _with_right_length(data: bytes, position: int) -> Record | None:
    """The record if only its length was wrong; otherwise None."""
    try:
        return parse_record(struct.pack("<i", len(data)) + data[4:], position)
    except RecordError:
        return None


def _search(data: bytes, position: int) -> Record | None:
    """A record of the fields that can be found in a broken one; None without an `_id`."""
    arrays = [match.end() for match in _IMGS.finditer(data)]
    # After the images' array begins, an `_id` may be that of an image.
    product_id = _id(data, _ID.search(data, 0, arrays[0] if arrays else len(data)))
    if product_id is None:
        return None
    start, *following = [*arrays, len(data)]
    # A second array of images belongs to another product, whose beginning is destroyed.
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
        _id(data, _CATEGORY.search(data)),
        [(position + at, length) for at, length in pictures],
        faults,
    )


def _pictures(data: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """Position, length (0 if it is destroyed) and index of each image, in order."""
    least = 0
    while found := _PICTURE.search(data, start):
        index, (length,) = int(found[1]), struct.unpack("<i", found[2])
        if index < least:
            return  # the images of the next product
        start = found.end()
        whole = length >= 0 and start + length <= len(data)
        yield start, length if whole else 0, index
        start, least = start + (length if whole else 0), index + 1


def _id(data: bytes, found: re.Match[bytes] | None) -> Id | None:
    return None if found is None else id_at(data, found[1][0], found.end())
