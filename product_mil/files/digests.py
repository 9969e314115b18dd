"""Digests of files, by which later changes are recognised."""

import os
from pathlib import Path

import xxhash

DIGEST_FILE = "xxh3_128.txt"
_CHUNK_BYTES = 1 << 20
_OWN = "."  # the name in the last line, whose digest is that of the lines before it


def write_digests(directory: Path) -> None:
    """Write the digest of every file below the directory into a file there."""
    lines = "".join(f"{digest_of(directory / name)}  {name}\n" for name in _files(directory))
    own = xxhash.xxh3_128_hexdigest(lines.encode())
    with (directory / DIGEST_FILE).open("w", encoding="utf-8") as file:
        file.write(f"{lines}{own}  {_OWN}\n")
        file.flush()
        os.fsync(file.fileno())


def what_is_damaged(directory: Path) -> str | None:
    """The first file that has changed since it was written, and how; None if there is none.

    Raises:
        FileNotFoundError: there are no digests.
        OSError: a file cannot be read.
    """
    content = (directory / DIGEST_FILE).read_bytes()
    body, _, last = content.removesuffix(b"\n").rpartition(b"\n")
    body += b"\n" * bool(body)
    if last != f"{xxhash.xxh3_128_hexdigest(body)}  {_OWN}".encode() or content[-1:] != b"\n":
        return f"{DIGEST_FILE} was changed or cut"
    for line in body.decode().splitlines():
        digest, _, name = line.partition("  ")
        try:
            if digest_of(directory / name) != digest:
                return f"{name} was changed or cut"
        except FileNotFoundError:
            return f"{name} is missing"
    return None


def _files(directory: Path) -> list[str]:
    found = (path for path in directory.rglob("*") if path.is_file() and path.name != DIGEST_FILE)
    return sorted(str(path.relative_to(directory)) for path in found)


def digest_of(path: Path) -> str:
    """The xxh3_128 hash of the file's content, as 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
