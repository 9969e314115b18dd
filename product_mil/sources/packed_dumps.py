"""Dumps as they come: compressed by gzip, an archive of mongodump, through a pipe.

None of these can be read image by image, so the collection is copied to the cache first
(`copies.py`). A pipe is read once by a process, and its copy is removed when the process ends.
"""

import atexit
import gzip
import os
import select
import shutil
import struct
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import bson

from product_mil.errors import UserError
from product_mil.files.cache import writable_cache
from product_mil.files.foreign import BSON, MAX_RECORD_BYTES, kind_of_bytes
from product_mil.files.whole import Draft
from product_mil.sources.copies import Bounded, copy_of
from product_mil.sources.names import Named

_PIECE_BYTES = 1 << 20
_HEAD_BYTES = 64 << 10
_MAGIC, _END = b"\x6d\xe2\x99\x81", b"\xff\xff\xff\xff"
_PIPE_WAIT_S = 30.0
_pipes: dict[tuple[int, int, str], Path] = {}  # copies of pipes by device, inode and collection


def unpacked(named: Named) -> Path:
    """A file of BSON with the records of a compressed dump, an archive or a pipe.

    Raises:
        UserError: there are several collections and none is named; or the file is damaged, or of
            another kind inside; or its copy is too large.
    """
    if named.path.is_fifo():
        return _copy_of_pipe(named)
    status = named.path.stat()
    state = f"{status.st_size} {status.st_mtime_ns}"
    name = f"{named.path.resolve()}#{named.after}"

    def pieces() -> Iterator[bytes]:
        with named.path.open("rb") as file:
            yield from records(file, named)

    return copy_of(name, state, str(named.shown), pieces)


def records(file: BufferedIOBase, named: Named) -> Iterator[bytes]:
    """The records of one collection in a stream, in pieces of any size.

    The stream may be compressed by gzip, and may be an archive with several collections.
    """
    stream: Any = file
    try:
        if stream.peek(2)[:2] == b"\x1f\x8b":
            stream = gzip.open(stream)  # noqa: SIM115, the file below it is closed
        head = stream.peek(_HEAD_BYTES)[:_HEAD_BYTES]
        if head[:4] == _MAGIC:
            yield from _of_archive(stream, named)
            return
        kind = kind_of_bytes(head)
        if kind is not None and kind is not BSON:
            raise UserError(
                f"what is in {named.path} is {kind.name}, no dump of MongoDB; unpack it first"
            )
        if named.after:
            raise UserError(f"{named.shown}: {named.path} holds one collection: leave out the #")
        while piece := stream.read(_PIECE_BYTES):
            yield piece
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{named.path} is damaged, or ends too early ({error}); get the file again"
        ) from None


def _of_archive(stream: BufferedIOBase, named: Named) -> Iterator[bytes]:
    """The records of a collection in an archive, whose blocks may take turns.

    An archive is a number, documents on the archive and its collections, an end mark, and blocks:
    a document that names a collection, records of it, an end mark.
    """
    stream.read(4)
    listed = [bson.decode(document) for document in _documents(stream, named)]
    collections = [f"{about['db']}.{about['collection']}" for about in listed if "db" in about]
    wanted = _wanted(named, collections)
    whole = False
    while (data := _document(stream, named)) is not None:
        about = bson.decode(data)
        ours = f"{about['db']}.{about['collection']}" == wanted
        for record in _documents(stream, named):
            if ours:
                yield record
        whole = whole or (ours and bool(about.get("EOF")))
    if not whole:
        raise UserError(f"{named.path} ends before its collection {wanted} does; get it again")


def _wanted(named: Named, collections: list[str]) -> str:
    """The collection that is meant."""
    if not collections:
        raise UserError(f"{named.path} is damaged: it names no collection; get the file again")
    known = ", ".join(sorted(collections))
    if not named.after:
        if len(collections) == 1:
            return collections[0]
        raise UserError(
            f"{named.path} is an archive of several collections ({known}); name one, as in "
            f"{named.path}#{collections[0].partition('.')[2]}"
        )
    found = [name for name in collections if named.after in (name, name.partition(".")[2])]
    if len(found) != 1:
        several = "several collections of this name" if found else "no collection of this name"
        raise UserError(f"{named.shown}: {several}; the archive has {known}")
    return found[0]


def _documents(stream: BufferedIOBase, named: Named) -> Iterator[bytes]:
    """The documents up to the next end mark."""
    while (data := _document(stream, named)) is not None:
        yield data


def _document(stream: BufferedIOBase, named: Named) -> bytes | None:
    """The next document; None at an end mark, and at the end of the stream."""
    head = stream.read(4)
    if head in (b"", _END):
        return None
    length = struct.unpack("<i", head)[0] if len(head) == 4 else 0
    if not 5 <= length <= MAX_RECORD_BYTES:
        raise UserError(f"{named.path} is damaged: a record has no length; get the file again")
    rest = stream.read(length - 4)
    if len(rest) < length - 4:
        raise UserError(f"{named.path} ends within a record; get the file again")
    return head + rest


def _copy_of_pipe(named: Named) -> Path:
    """What comes through a pipe, copied for this process alone."""
    status = named.path.stat()
    key = (status.st_dev, status.st_ino, named.after)
    if key in _pipes:
        return _pipes[key]
    # Opening a pipe waits for its other end, so that is not done blindly.
    descriptor = os.open(named.path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as pipe:  # noqa: PTH123
        if not _has_data(descriptor):
            raise UserError(f"nothing came through {named.path} within {_PIPE_WAIT_S:g} s")
        os.set_blocking(descriptor, True)
        directory = writable_cache("copies")
        draft = Draft(directory / "pipe.bson")  # removes those of processes that were killed
        for index in directory.glob(".draft-*.index"):
            if not index.with_suffix("").exists():
                shutil.rmtree(index, ignore_errors=True)
        atexit.register(_remove, draft, os.getpid())
        copy = Bounded(draft.file, str(named.shown))
        for piece in records(pipe, named):
            copy.write(piece)
    draft.file.flush()  # it stays open, and so locked, as long as this process lives
    _pipes[key] = draft.draft
    return draft.draft


def _has_data(descriptor: int) -> bool:
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    return bool(ready.poll(_PIPE_WAIT_S * 1000))


def _remove(draft: Draft, of_process: int) -> None:
    if os.getpid() == of_process:  # a fork must not remove it
        draft.discard()
        shutil.rmtree(draft.draft.with_name(draft.draft.name + ".index"), ignore_errors=True)
