"""A JPEG that lacks its end marker and nothing else, told exactly from one that is cut off.

Decoders show both, and fill up what is cut off with grey. Two things tell them apart: every scan
that the picture needs has begun, and the last one decodes to its last block without a bit missing.
The first is looked at here; the second by decoding strictly what this adds an end marker to.
"""

import re
import struct

_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # after a scan's data, which hold restarts
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # Huffman and arithmetic, each sequential, progressive
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_COEFFICIENTS = 64


def with_end(data: bytes) -> list[bytes]:
    """The JPEG with an end marker, in the ways to try; none where one is there or a scan lacks.

    Zeros behind it, as a disk's blocks are filled up with, are taken for no part of it; a single
    one may be.
    """
    if not _scans_begun_and_no_end(data):
        return []
    body = data.rstrip(b"\0")
    if body.endswith(b"\xff") and len(body) < len(data):
        body += b"\0"  # the second half of a byte 255 of the scan
    tried = [body, data] if len(data) - len(body) == 1 else [body]
    return [one + _END for one in tried]


def _scans_begun_and_no_end(data: bytes) -> bool:
    """Whether there is a scan, to the last bit, for each coefficient of each component."""
    left: dict[int, list[int]] = {}  # bits that are not there yet, by component and coefficient
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
    """Note which bits a scan brings: sequential ones all, progressive ones down to a place."""
    count = header[2]
    first, last, places = header[3 + 2 * count : 6 + 2 * count]
    for component in header[3 : 3 + 2 * count : 2]:
        for coefficient in range(first, last + 1):
            left[component][coefficient] = places & 15
