"""Recognise a JPEG that lacks nothing but its end marker, rather than one that is cut off.

Decoders show both, and fill the missing part with grey. A JPEG is complete if every scan that it
needs has begun, and the last scan can be decoded to its last block without a missing bit. This
module checks the first condition and adds an end marker; strict decoding then checks the second.
"""

import re
import struct

_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # after a scan's data, which hold restarts
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # Huffman and arithmetic, each sequential, progressive
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_COEFFICIENTS = 64


def with_end(data: bytes) -> list[bytes]:
    """The JPEG with an end marker added, in one or two ways to try.

    The list is empty if there is an end marker already, or a scan is missing. Zeros at the end,
    with which disks fill their blocks, are removed. A single zero may belong to the JPEG, so both
    ways are returned.
    """
    if not _scans_begun_and_no_end(data):
        return []
    body = data.rstrip(b"\0")
    if body.endswith(b"\xff") and len(body) < len(data):
        body += b"\0"  # the second half of a byte 255 of the scan
    tried = [body, data] if len(data) - len(body) == 1 else [body]
    return [one + _END for one in tried]


def _scans_begun_and_no_end(data: bytes) -> bool:
    """Whether scans have begun for every bit of each component, and no end marker follows."""
    left: dict[int, list[int]] = {}  # number of missing low bits, by component and coefficient
    at = 2
    try:
        while at < len(data):
            found = _MARKER.match(data, at)
            if found is None:
                return False
            at, marker = found.end(), data[found.end() - 1]
            if marker == _END_OF_IMAGE:
                return False
            (length,) = struct.unpack_from(">H", data, at)
            if marker in _FRAMES:
                components = data[at + 8 : at + 8 + 3 * data[at + 7] : 3]
                left = {component: [1] * _COEFFICIENTS for component in components}
            at += length
            if marker == _START_OF_SCAN:
                _begin_scan(data[at - length : at], left)
                following = _MARKER.search(data, at)
                at = following.start() if following else len(data)
    except (IndexError, KeyError, ValueError, struct.error):
        return False
    return bool(left) and not any(any(bits) for bits in left.values())


def _begin_scan(header: bytes, left: dict[int, list[int]]) -> None:
    """Note the bits that a scan has: all of them if sequential, down to a place if progressive."""
    count = header[2]
    first, last, places = header[3 + 2 * count : 6 + 2 * count]
    for component in header[3 : 3 + 2 * count : 2]:
        for coefficient in range(first, last + 1):
            left[component][coefficient] = places & 15
