"""Find the id, category and images in one record of a MongoDB dump (bsonspec.org, 1.1).

An image is the binary field `picture` of an element of the record's array `imgs`. The parser is
our own, because the index needs the byte offsets of the images, which pymongo's decoder does not
give, and because it skips other fields without building Python objects.
"""

import struct
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from product_mil.sources.catalogue import NO_ID, NO_PICTURE, OTHER_CATEGORY, Fault
from product_mil.sources.ids import NO_CATEGORY, Id, fault_of

DOUBLE, STRING, DOCUMENT, ARRAY, BINARY = 0x01, 0x02, 0x03, 0x04, 0x05
OBJECT_ID, NULL, REGEX = 0x07, 0x0A, 0x0B
INT32, INT64 = 0x10, 0x12
UUIDS = (3, 4)  # the binary subtypes
OLD_BINARY = 2  # the binary subtype that repeats its length inside

_FIXED_BYTES = {
    DOUBLE: 8,
    0x06: 0,  # undefined
    OBJECT_ID: 12,
    0x08: 1,  # boolean
    0x09: 8,  # date
    NULL: 0,
    INT32: 4,
    0x11: 8,  # timestamp
    INT64: 8,
    0x13: 16,  # decimal128
    0x7F: 0,  # max key
    0xFF: 0,  # min key
}

# For types that begin with a length: its least value, and the bytes that it does not count.
_SIZED = {
    STRING: (1, 4),
    DOCUMENT: (5, 0),
    ARRAY: (5, 0),
    BINARY: (0, 5),
    0x0C: (1, 16),  # database pointer
    0x0D: (1, 4),  # code
    0x0E: (1, 4),  # symbol
    0x0F: (14, 0),  # code with scope
}

_TYPE_NAMES = {
    DOCUMENT: "a document",
    ARRAY: "an array",
    BINARY: "binary data",
    0x08: "a boolean",
    0x09: "a date",
    NULL: "null",
    0x11: "a timestamp",
    0x13: "a Decimal128",
}
_SHOWN_CHARACTERS = 40


class RecordError(Exception):
    """A record that cannot be used; `fault` says why and where.

    `broken` is true for a destroyed structure, of which parts may be recovered, and false for a
    missing `_id`.
    """

    def __init__(self, offset_bytes: int, product_id: Id | None, reason: str, *, broken: bool):
        super().__init__(f"byte {offset_bytes}: {reason}")
        self.fault = Fault(offset_bytes, product_id, reason)
        self.broken = broken


class Record(NamedTuple):
    """A product in the file."""

    product_id: Id
    category_id: Id | None
    pictures: list[tuple[int, int]]  # offset in the file and length of each image, in bytes
    faults: list[Fault]  # fields that were left out


class _BrokenError(Exception):
    def __init__(self, position: int):
        self.position = position


def parse_record(data: bytes | bytearray | memoryview, offset: int) -> Record:
    """Find the fields of one record.

    `data` holds exactly the bytes of the record, which begin at `offset` in the file. If a field is
    repeated, the last one counts, as in pymongo. A missing or null category is None; one of another
    type is None and a fault. A picture of another type keeps its place with a length of 0, and is a
    fault.

    Raises:
        RecordError: the structure is broken, or there is no `_id` that `id_value` knows.
    """
    data = bytes(data)
    product_id, category_id, pictures = None, None, None
    other_id = "there is no field of this name"
    faults: list[tuple[int, str, int | None]] = []
    try:
        for kind, name, start, stop in _elements(data, 0, len(data)):
            if name == b"_id":
                product_id = id_value(data, kind, start, stop)
                other_id = f"it is {_described(data, kind, start, stop)}"
            elif name == b"category_id":
                category_id = id_value(data, kind, start, stop)
                if category_id is None and kind != NULL:
                    what = f"it is {_described(data, kind, start, stop)}"
                    faults.append((start, f"{OTHER_CATEGORY}: {what}", None))
            elif name == b"imgs":
                if kind == ARRAY:
                    pictures = _pictures(data, start, stop, faults)
                else:
                    pictures = []
                    faults.append((start, "imgs is not an array", None))
    except _BrokenError as broken:
        where = offset + broken.position
        raise RecordError(where, product_id, "broken BSON structure", broken=True) from None
    if product_id is None:
        raise RecordError(offset, None, f"{NO_ID}: {other_id}", broken=False)
    if pictures is None:
        faults.append((0, "no field imgs", None))
    elif not pictures and not faults:
        faults.append((0, "imgs is empty", None))
    return Record(
        product_id,
        category_id,
        [(offset + start, length) for start, length in pictures or []],
        [Fault(offset + at, product_id, reason, image) for at, reason, image in faults],
    )


def document_bytes(data: bytes) -> int | None:
    """The bytes that a document's fields take with the closing zero, without regard to its length.

    None if a field is broken, or the fields do not end within `data`.
    """
    position, last = 4, len(data)
    try:
        while position < last and data[position] != 0:
            name_stop = _find_zero(data, position + 1, last)
            position = _value_stop(data, data[position], name_stop + 1, last)
    except _BrokenError:
        return None
    return position + 1 if position < last else None


def _pictures(
    data: bytes, start: int, stop: int, faults: list[tuple[int, str, int | None]]
) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for kind, _, image_start, image_stop in _elements(data, start, stop):
        picture, other = None, ""
        if kind == DOCUMENT:
            try:
                for field_kind, name, value, value_stop in _elements(data, image_start, image_stop):
                    if name == b"picture":
                        if field_kind == BINARY:
                            picture, other = _binary(data, value), ""
                        else:
                            what = _described(data, field_kind, value, value_stop)
                            picture, other = None, f": it is {what}"
            except _BrokenError:  # only this image is lost, since its neighbours are intact
                picture, other = None, ""
        if picture is None:
            faults.append((image_start, NO_PICTURE + other, len(found)))
            picture = image_start, 0
        found.append(picture)
    return found


def _elements(data: bytes, start: int, stop: int) -> Iterator[tuple[int, bytes, int, int]]:
    """Yield (type, name, value start, value stop) of each field of the document at start..stop."""
    last = stop - 1  # the document's closing zero
    if stop - start < 5 or _int32(data, start, stop) != stop - start or data[last] != 0:
        raise _BrokenError(start)
    position = start + 4
    while position < last:
        name_stop = _find_zero(data, position + 1, last)
        value_stop = _value_stop(data, data[position], name_stop + 1, last)
        if value_stop > last:
            raise _BrokenError(position)
        yield data[position], data[position + 1 : name_stop], name_stop + 1, value_stop
        position = value_stop


def _value_stop(data: bytes, kind: int, start: int, last: int) -> int:
    """The end of the value that begins at `start`. The caller compares it with `last`."""
    if kind in _FIXED_BYTES:
        return start + _FIXED_BYTES[kind]
    if kind == REGEX:
        return _find_zero(data, _find_zero(data, start, last) + 1, last) + 1
    length = _int32(data, start, last)
    least, around = _SIZED.get(kind, (1 << 31, 0))
    if length < least:
        raise _BrokenError(start)
    return start + length + around


def _find_zero(data: bytes, start: int, last: int) -> int:
    found = data.find(b"\0", start, last)
    if found < 0:
        raise _BrokenError(start)
    return found


def _int32(data: bytes, start: int, last: int) -> int:
    if start + 4 > last:
        raise _BrokenError(start)
    return struct.unpack_from("<i", data, start)[0]


def id_value(data: bytes, kind: int, start: int, stop: int) -> Id | None:
    """The id that a BSON value is: a 64-bit integer, text, an ObjectId or a UUID; otherwise None.

    A number of another type is an integer if its value is whole. The least integer of 64 bits is
    no id, as a column has it where there is none.
    """
    if kind in (INT32, INT64):
        number = int.from_bytes(data[start:stop], "little", signed=True)
        return None if number == NO_CATEGORY else number
    if kind == OBJECT_ID:
        return data[start:stop].hex()
    if kind == STRING:
        text = data[start + 4 : stop - 1].decode(errors="surrogateescape")
        return None if fault_of(text) else text
    if kind == BINARY and data[start + 4] in UUIDS and stop - start == 21:
        return str(uuid.UUID(bytes=data[start + 5 : stop]))
    if kind == DOUBLE:
        (number,) = struct.unpack_from("<d", data, start)
        return int(number) if number.is_integer() and abs(number) < 2.0**63 else None
    return None


def id_at(data: bytes, kind: int, start: int) -> Id | None:
    """The `id_value` that begins at `start`; None also if its bytes are not all there."""
    try:
        stop = _value_stop(data, kind, start, len(data))
    except _BrokenError:
        return None
    if stop > len(data) or (kind == STRING and data[stop - 1] != 0):
        return None
    return id_value(data, kind, start, stop)


def _described(data: bytes, kind: int, start: int, stop: int) -> str:
    """Words for a value that is no id; they include the value if it is short."""
    if kind == STRING:
        text = data[start + 4 : stop - 1].decode(errors="surrogateescape")
        shown = text[:_SHOWN_CHARACTERS] + "..." * (len(text) > _SHOWN_CHARACTERS)
        return f"the string {shown!r}, and {fault_of(text)}"
    if kind == INT64:
        return f"the number {NO_CATEGORY}, which stands for no id"
    if kind == DOUBLE:
        return f"the number {struct.unpack_from('<d', data, start)[0]!r}"
    return _TYPE_NAMES.get(kind, f"of the BSON type 0x{kind:02x}")


def _binary(data: bytes, start: int) -> tuple[int, int] | None:
    """Position and length of the content of a binary value whose bounds have been checked."""
    length, subtype = struct.unpack_from("<iB", data, start)
    if subtype != OLD_BINARY:
        return start + 5, length
    if length >= 4 and struct.unpack_from("<i", data, start + 5)[0] == length - 4:
        return start + 9, length - 4
    return None
