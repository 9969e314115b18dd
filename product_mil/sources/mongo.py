"""Products in a live MongoDB collection: copied once to the cache, then read like a dump.

The collection is only read, in the order of `_id`. A copy that was stopped goes on after its last
whole record. It is up to date as long as the server counts as many documents as before and the
last `_id` is the same; documents that are changed in place are not noticed.
"""

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import bson
import xxhash
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, CursorNotFound, OperationFailure, PyMongoError

from product_mil.errors import UserError
from product_mil.files.cache import writable_cache
from product_mil.files.locks import one_at_a_time
from product_mil.files.whole import write_json
from product_mil.progress import Progress
from product_mil.sources.copies import Bounded
from product_mil.sources.mongo_address import Address, Fields, parse

_TIMEOUT_MS = 10_000
_TRIES = 5  # of a broken connection, without a document in between
_PAUSE_S = 1.0
_SAVE_BYTES = 32 << 20  # copied between two notes of how far the copy is


class _State(NamedTuple):
    """How far a copy is, and what the server said when it began."""

    num_documents: int = 0
    num_bytes: int = 0
    last: str = ""  # BSON of the last `_id`, as hexadecimal digits
    counted: int = 0  # documents by the server's own count
    server_last: str = ""  # the server's last `_id`


class _Copy:
    """The files of a copy: `NAME.bson`, and `NAME.json` with its state."""

    def __init__(self, directory: Path, name: str) -> None:
        self.data, self._note = directory / f"{name}.bson", directory / f"{name}.json"

    def state(self) -> _State | None:
        """The state; None if there is none, or the data are shorter than it says."""
        try:
            state = _State(**json.loads(self._note.read_text(encoding="utf-8")))
            return state if self.data.stat().st_size >= state.num_bytes else None
        except (OSError, ValueError, TypeError):
            return None

    def save(self, state: _State) -> None:
        write_json(self._note, state._asdict())

    def become(self, other: "_Copy") -> None:
        """Rename the files. Without its state a copy counts as none, so that is moved last."""
        other._note.unlink(missing_ok=True)
        self.data.replace(other.data)
        self._note.replace(other._note)


def copy_of_collection(spec: str) -> Path:
    """A file of BSON with the documents of the collection, as `Fields` says which of their fields.

    If the server cannot be reached, an earlier copy is used, with a warning.

    Raises:
        UserError: the server cannot be reached or refuses, the collection is empty, or its copy
            is too large.
    """
    address = parse(spec)
    name = xxhash.xxh3_128_hexdigest(str(address.shown).encode())
    directory = writable_cache("copies") / name
    with one_at_a_time(directory / "lock", f"the copy of {address.shown}"):
        whole = _Copy(directory, "collection")
        try:
            with _connect(address) as client:
                collection = client[address.database][address.collection]
                _update(collection, whole, _Copy(directory, "partial"), address)
        except OperationFailure as error:
            reason = (error.details or {}).get("errmsg", "no reason given")
            raise UserError(f"{address.shown}: the server refuses: {reason}") from None
        except PyMongoError as error:
            reason = str(error).splitlines()[0].partition(" (configured timeouts")[0][:200]
            if not isinstance(error, AutoReconnect) or whole.state() is None:
                raise UserError(
                    f"{address.shown}: {reason}; the same command goes on where this one stopped"
                ) from None
            logging.getLogger(__name__).warning(
                "%s cannot be reached (%s): its earlier copy is used", address.shown, reason
            )
    return whole.data


def _connect(address: Address) -> Any:
    """A client of the server."""
    secret: dict[str, Any] = {}
    if address.user is not None:
        secret = {"username": address.user, "password": os.environ.get("MONGODB_PASSWORD", "")}
    return MongoClient(
        address.uri,
        document_class=RawBSONDocument,
        serverSelectionTimeoutMS=_TIMEOUT_MS,
        appname="product_mil",
        **secret,
    )


def _update(collection: Any, whole: _Copy, partial: _Copy, address: Address) -> None:
    """Make the copy, or bring it up to date."""
    log = logging.getLogger(__name__)
    counted = collection.estimated_document_count()
    newest = collection.find_one({}, {"_id": 1}, sort=[("_id", -1)])
    if not counted or newest is None:
        raise UserError(f"{address.shown}: there is no such collection, or it is empty")
    now = _State(counted=counted, server_last=_id_bytes(newest).hex())
    before = whole.state()
    if before is not None:
        if (before.counted, before.server_last) == (counted, now.server_last):
            copied = time.localtime(whole.data.stat().st_mtime)
            date = time.strftime("%Y-%m-%d %H:%M", copied)
            log.info("%s: its copy of %s is read, %s", address.shown, date, whole.data)
            return
        if partial.state() is None and _still_there(collection, before):
            whole.become(partial)  # the collection has only grown
    begun = partial.state()
    start = begun if begun is not None and _still_there(collection, begun) else _State()
    log.info(
        "%s is copied to %s%s", address.shown, whole.data,
        f", from document {start.num_documents + 1:,} on" if start.num_documents else "",
    )  # fmt: skip
    start = start._replace(counted=counted, server_last=now.server_last)
    with partial.data.open("ab") as file:
        file.truncate(start.num_bytes)
        with Progress(counted, "documents", label="copying") as bar:
            bar.update(start.num_documents)
            done = _copy(collection, address, start, file, partial, bar)
    partial.become(whole)
    log.info(
        "the copy of %s has %s documents, %s MB",
        address.shown,
        f"{done.num_documents:,}",
        f"{done.num_bytes / 1e6:,.0f}",
    )


def _still_there(collection: Any, state: _State) -> bool:
    """Whether the documents that were copied are as many as before."""
    if not state.num_documents:
        return True
    query = {"_id": {"$lte": _id_of(state.last)}}
    return collection.count_documents(query) == state.num_documents


def _copy(
    collection: Any, address: Address, state: _State, file: IO[bytes], partial: _Copy, bar: Progress
) -> _State:
    """Append the documents after those of `state`, and return the state at the end."""
    copy = Bounded(file, str(address.shown), state.num_bytes)
    failures = 0

    def saved(last: RawBSONDocument | None) -> _State:
        file.flush()
        found = state._replace(num_bytes=copy.num_bytes)
        found = found if last is None else found._replace(last=_id_bytes(last).hex())
        partial.save(found)
        return found

    while True:
        last: RawBSONDocument | None = None
        try:
            for document in _documents(collection, address.fields, state.last):
                copy.write(_record(document, address.fields))
                state = state._replace(num_documents=state.num_documents + 1)
                last, failures = document, 0
                bar.update(1)
                if copy.num_bytes - state.num_bytes > _SAVE_BYTES:
                    state, last = saved(last), None
            return saved(last)
        except (AutoReconnect, CursorNotFound):
            state = saved(last)
            failures += 1
            if failures == _TRIES:
                raise
            time.sleep(_PAUSE_S * 2**failures)
        except BaseException:
            saved(last)
            raise


def _documents(collection: Any, fields: Fields, after: str) -> Iterator[RawBSONDocument]:
    """The documents by ascending `_id`, after a given one, with the fields that are read.

    The lower bound is one of the index. A query would only find ids of the same type.
    """
    wanted = dict.fromkeys(["_id", *fields], 1)
    cursor = collection.find({}, wanted).sort([("_id", 1)]).hint([("_id", 1)])
    if not after:
        yield from cursor
        return
    for document in cursor.min([("_id", _id_of(after))]):
        if _id_bytes(document).hex() != after:
            yield document


def _record(document: RawBSONDocument, fields: Fields) -> bytes:
    """The document as records of dumps are written."""
    if fields == Fields():
        return bytes(document.raw)
    plain = bson.decode(document.raw)
    record: dict[str, Any] = {}
    for name, field in (("_id", fields.id), ("category_id", fields.category)):
        found = list(_values(plain, field.split(".")))
        if found:
            record[name] = found[0]
    images = [{"picture": value} for value in _values(plain, fields.images.split("."))]
    return bson.encode({**record, "imgs": images})


def _values(value: Any, names: list[str]) -> Iterator[Any]:
    """What a path of names leads to, in each document of a list on the way."""
    if isinstance(value, list):
        for one in value:
            yield from _values(one, names)
    elif not names:
        yield value
    elif isinstance(value, dict) and names[0] in value:
        yield from _values(value[names[0]], names[1:])


def _id_bytes(document: RawBSONDocument) -> bytes:
    return bson.encode({"_id": document["_id"]})


def _id_of(text: str) -> Any:
    return bson.decode(bytes.fromhex(text))["_id"]
