"""Recognise the kind of a file by its first bytes, so that messages can name it.

Only the first bytes of a file are read, and none of a pipe or a device.
"""

import os
import re
import stat
import zlib
from pathlib import Path
from typing import NamedTuple

from product_mil.errors import UserError

MAX_RECORD_BYTES = 64 << 20  # of BSON; MongoDB's limit is 16 MiB, other writers go beyond
_LOOK_BYTES = 64 << 10
_SEARCH_BYTES = 1 << 20  # searched for a record after what may be a damaged one
_SAMPLES = 64  # places that are read in a file that begins with zeros
_MAX_SHOWN = 60  # characters of a text's first line

_ID_FIRST = re.compile(rb"[\x01-\x13\x7f\xff]_id\0")
_OFFICE_NAMES = re.compile(rb"\[Content_Types\]\.xml|_rels/|xl/|docProps/|mimetypeapplication/vnd")
_PICKLE = re.compile(rb"\x80(?:[\x04\x05]\x95|[\x02\x03][(\]})cCKMXNlG])")
_ELEMENT = re.compile(rb"[\x01-\x13\x7f\xff][\x20-\x7e]{1,64}\0")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_WIDE = re.compile(rb"(?:[\t\n\r\x20-\x7e]\0){8}")


class Kind(NamedTuple):
    """A kind of file: its name for messages, the group of its uses, and advice to the user."""

    name: str
    group: str = "other"
    advice: str = ""


_UNPACK = "unpack it and name the file inside"
_AGAIN = "get the file again"
BSON = Kind("a BSON dump of MongoDB", "bson")
_ARCHIVE = Kind("a mongodump archive", "archive")
_GZIP = Kind("compressed by gzip", "gzip", _UNPACK)
_BZIP2 = Kind("compressed by bzip2", "packed", _UNPACK)
_ZIP = Kind("compressed as a zip archive", "packed", _UNPACK)
_OFFICE = Kind("a file of Excel or another office program", "office", "save it as CSV in UTF-8")
_TAR = Kind("a tar archive", "packed", _UNPACK)
_ZEROS = Kind("nothing but zeros, as of a download that was never filled in", "none", _AGAIN)
_EMPTY = Kind("empty", "empty", _AGAIN)
_UTF16 = Kind("text in UTF-16", "utf-16", "save it as UTF-8")
_RIFF = {b"WEBP": Kind("a WebP image", "image"), b"WAVE": Kind("sound (WAV)")}
AVIF = Kind("an AVIF image", "image")
_BRANDS = {  # of ISO media files
    **dict.fromkeys((b"avif", b"avis"), AVIF),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
        Kind("an HEIC image", "image"),
    ),
}
# The first bytes of each kind.
_MAGIC = (
    (b"\x6d\xe2\x99\x81", _ARCHIVE),
    (b"\x1f\x8b", _GZIP),
    (b"PK\x03\x04", _ZIP),
    (b"PK\x05\x06", Kind("an empty zip archive", "packed", _AGAIN)),
    (b"\x28\xb5\x2f\xfd", Kind("compressed by zstd", "packed", _UNPACK)),
    (b"\xfd7zXZ\0", Kind("compressed by xz", "packed", _UNPACK)),
    *((b"BZh%d1AY&SY" % level, _BZIP2) for level in range(1, 10)),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _OFFICE),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", "packed", _UNPACK)),
    (b"Rar!\x1a\x07", Kind("a RAR archive", "packed", _UNPACK)),
    (b"\x04\x22\x4d\x18", Kind("compressed by lz4", "packed", _UNPACK)),
    (b"LZIP\x01", Kind("compressed by lzip", "packed", _UNPACK)),
    (b"\x1f\x9d", Kind("compressed by compress", "packed", _UNPACK)),
    (b"PAR1", Kind("a Parquet file", "parquet")),
    (b"PARE", Kind("an encrypted Parquet file")),
    (b"ARROW1", Kind("an Arrow file")),
    (b"FEA1", Kind("a Feather file")),
    (b"Obj\x01", Kind("an Avro file")),
    (b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file", "hdf5")),
    (b"\x93NUMPY", Kind("a NumPy array", "numpy")),
    (b"SQLite format 3\0", Kind("an SQLite database")),
    (b"\x41\xd8\x01\0\x01\0", Kind("a file of MongoDB's own storage", "other", "use mongodump")),
    (b"%PDF", Kind("a PDF document")),
    (b"\xff\xd8\xff", Kind("a JPEG image", "image")),
    (b"\x89PNG\r\n\x1a\n", Kind("a PNG image", "image")),
    (b"GIF8", Kind("a GIF image", "image")),
    (b"II*\0", Kind("a TIFF image", "image")),
    (b"MM\0*", Kind("a TIFF image", "image")),
    (b"8BPS", Kind("a Photoshop image", "image")),
    (b"\0\0\x01\0", Kind("an icon (ICO)", "image")),
    (b"\xff\x0a", Kind("a JPEG XL image", "image")),
    (b"\0\0\0\x0cJXL \r\n\x87\n", Kind("a JPEG XL image", "image")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", Kind("a JPEG 2000 image", "image")),
    (b"\xff\x4f\xff\x51", Kind("a JPEG 2000 image", "image")),
    (b"\xff\xfe", _UTF16),
    (b"\xfe\xff", _UTF16),
)


class Wanted(NamedTuple):
    """The kinds of files that a reader accepts, and how messages describe them."""

    what: str
    groups: frozenset[str]
    advice: str  # for a user who named a file of another kind


DUMP = Wanted("BSON dump of MongoDB", frozenset({"bson"}), "name a .bson file written by mongodump")
SOURCE = Wanted(
    "dump, folder or table of products",
    frozenset({"bson", "gzip", "archive", "parquet", "table"}),
    "name a .bson file written by mongodump, a folder of images, or a CSV or Parquet table",
)
CATEGORY_FILE = Wanted(
    "CSV file of categories",
    frozenset({"table", "text", "utf-16", "empty"}),  # the reader's own messages say more of these
    "name the CSV whose columns are category_id,category_level1,category_level2 and so on",
)
CLASS_FILE = CATEGORY_FILE._replace(
    what="CSV file of classes", advice="name the CSV whose columns are category_id,imagenet_class"
)
PARQUET_PREDICTIONS = Wanted(
    "Parquet file of predictions",
    frozenset({"parquet"}),
    "name a file that product-mil predict --probabilities wrote",
)
MATRIX = Wanted("NumPy array", frozenset({"numpy"}), "name a .npy file")
SUBMISSION = Wanted(
    "CSV file of predictions",
    frozenset({"table", "text", "gzip"}),
    "name a CSV with the header _id,category_id",
)
CONFIGURATION = Wanted(
    "Python file", frozenset({"table", "text", "json"}), "name a configuration such as joint"
)


def refuse_foreign(path: Path, wanted: Wanted) -> None:
    """Raise `UserError` if the file is of a known kind that the reader does not accept.

    A file of no known kind passes, since it may be the right kind with a damaged beginning, and so
    does a missing file: its reader's message says more.
    """
    try:
        kind = kind_of_file(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    if kind is not None and kind.group not in wanted.groups:
        advice = kind.advice or wanted.advice
        raise UserError(f"{path} is {kind.name}, no {wanted.what}; {advice}")


def kind_of_file(path: Path) -> Kind | None:
    """What the file is; None where nothing tells.

    Raises `OSError` where it cannot be read. A pipe, which might never give a byte, is not opened.
    """
    mode = path.stat().st_mode
    for is_such, name in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if is_such(mode):
            return Kind(name, "none", "" if name == "a directory" else "save it to a file first")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return _kind_of_open(descriptor)
    finally:
        os.close(descriptor)


def _kind_of_open(descriptor: int) -> Kind | None:
    size_bytes = os.fstat(descriptor).st_size
    head = os.pread(descriptor, _LOOK_BYTES, 0)
    kind = kind_of_bytes(head)
    if kind is None:
        return _ZEROS if _all_zeros(descriptor, size_bytes, head) else None
    if kind is BSON or not head:
        return kind
    if _is_record(descriptor, size_bytes, head):
        return BSON
    # These bytes may be the length of a damaged record, or its remaining part.
    if _may_be_length(head) or kind.group in ("image", "text", "table", "json"):
        start = os.pread(descriptor, _SEARCH_BYTES, 0)
        second = os.pread(descriptor, 16, _length(head))
        if _ID_FIRST.search(start) or _ID_FIRST.match(second, 4):
            return None
    return kind


def kind_of_bytes(head: bytes) -> Kind | None:  # noqa: PLR0911, one for each kind
    """The kind of a file that begins with these bytes (64 KiB are enough); None if unknown."""
    if not head:
        return _EMPTY
    if _ID_FIRST.match(head, 4):
        return BSON
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return _by_content(kind, head)
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12], Kind("a RIFF file"))
    if head.startswith(b"ftyp", 4):
        return _media(head)
    if head.startswith(b"BM") and head[6:10] == bytes(4):
        return Kind("a BMP image", "image")
    if _PICKLE.match(head):
        return Kind("a Python pickle", "pickle")
    if head[8:10] == b'{"' and head[4:8] == bytes(4):
        return Kind("a safetensors file", "safetensors")
    if _is_tar(head):
        return _TAR
    if not _CONTROL.search(head) and len(head.decode(errors="ignore")) > 0.6 * len(head):
        return _text(head)
    if _WIDE.match(head):
        return _UTF16
    return BSON if _may_be_length(head) and _ELEMENT.match(head, 4) else None


def _may_be_length(head: bytes) -> bool:
    """Whether the first bytes can be the length of a record."""
    return len(head) >= 5 and 5 <= _length(head) <= MAX_RECORD_BYTES


def _length(head: bytes) -> int:
    return int.from_bytes(head[:4], "little")


def _by_content(kind: Kind, head: bytes) -> Kind:
    """What a file of this kind is by what is packed in it."""
    if kind is _GZIP:
        return _inside_gzip(head)
    return _OFFICE if kind is _ZIP and _OFFICE_NAMES.match(head, 30) else kind


def _inside_gzip(head: bytes) -> Kind:
    try:
        inner = zlib.decompressobj(wbits=31).decompress(head, 4096)
    except zlib.error:
        return _GZIP
    for kind in (_ARCHIVE, _TAR):
        if kind_of_bytes(inner) == kind:
            return kind._replace(name=f"{kind.name}, compressed by gzip")
    return _GZIP


def _media(head: bytes) -> Kind:
    """The kind of an ISO media file. All its brands count, since a `mif1` may hold AVIF."""
    stop = min(int.from_bytes(head[:4], "big"), 256)
    brands = [head[at : at + 4] for at in (8, *range(16, stop, 4))]
    known = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    if AVIF in known:
        return AVIF
    return known[0] if known else Kind("a video or another ISO media file")


def _is_tar(head: bytes) -> bool:
    """Whether the bytes are the first header of a tar; older ones only have a check sum."""
    if len(head) < 512:
        return False
    try:
        check_sum = int(head[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    return head.startswith(b"ustar", 257) or check_sum == sum(head[:148] + head[156:512]) + 256


def _text(head: bytes) -> Kind:  # noqa: PLR0911, one for each kind
    """The kind of a text by its beginning."""
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    lower = text[:4096].lower()
    if not text:
        return Kind("nothing but blank lines", "none", _AGAIN)
    if text.startswith("version https://git-lfs"):
        return Kind("a pointer of Git LFS", "pointer", "fetch the file itself with git lfs pull")
    if text.startswith("/annex/objects/") or "/.git/annex/objects/" in text[:200]:
        return Kind("a pointer of git-annex", "pointer", "fetch the file itself with git annex get")
    if text[0] == "<":
        if "<svg" in lower:
            return Kind("an SVG drawing", "page")
        name = "an HTML page" if "<html" in lower or "<!doctype html" in lower else "an XML page"
        advice = "perhaps a server's answer in place of the file: get the file again"
        return Kind(name, "page", advice)
    if re.match(r"\{\s*[\"'}]|\[\s*[\[{\"\]\d-]", text):
        return Kind("JSON", "json")
    if text.startswith("data:image/") or re.match(r"https?://", text):
        return Kind("an address (URL) in place of the content", "text")
    line = text.splitlines()[0]
    shown = line if len(line) <= _MAX_SHOWN else line[: _MAX_SHOWN - 3] + "..."
    table = any(mark in line for mark in ",;\t|")
    name = "a table in text form (CSV)" if table else "a text"
    return Kind(f"{name} that begins with {shown!r}", "table" if table else "text")


def _is_record(descriptor: int, size_bytes: int, head: bytes) -> bool:
    """Whether the file begins with a whole BSON record, whose length looks like another kind."""
    if not (_may_be_length(head) and _length(head) <= size_bytes and _ELEMENT.match(head, 4)):
        return False
    return os.pread(descriptor, 1, _length(head) - 1) == b"\0"


def _all_zeros(descriptor: int, size_bytes: int, head: bytes) -> bool:
    """Whether the file is all zeros; of a large file only samples are read."""
    if head.strip(b"\0"):
        return False
    places = range(0, size_bytes, max(_LOOK_BYTES, size_bytes // _SAMPLES))
    return not any(os.pread(descriptor, _LOOK_BYTES, at).strip(b"\0") for at in places)
