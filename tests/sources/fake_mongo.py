"""A MongoDB server of a few collections, for `sources/mongo.py`: only what that module calls."""

from collections.abc import Iterator
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from pymongo.errors import AutoReconnect

_ORDER = {int: 1, float: 1, str: 2, dict: 3, bson.ObjectId: 7}  # MongoDB's, of types


def order(value: Any) -> tuple[int, Any]:
    return _ORDER[type(value)], value


class Server:
    """Collections by name. `breaks_after` documents a connection breaks, once for each entry."""

    def __init__(self, **collections: list[dict[str, Any]]) -> None:
        self.collections = collections
        self.breaks_after: list[int] = []
        self.sent = 0
        self.asked: dict[str, Any] = {}

    def connect(self, uri: str, **settings: Any) -> "_Client":
        self.asked = {"uri": uri, **settings}
        return _Client(self)


class _Client:
    def __init__(self, server: Server) -> None:
        self._server = server

    def __enter__(self) -> "_Client":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getitem__(self, database: str) -> dict[str, "_Collection"]:
        server = self._server
        return {name: _Collection(server, name) for name in [*server.collections, "none"]}


class _Collection:
    def __init__(self, server: Server, name: str) -> None:
        self._server, self._documents = server, server.collections.get(name, [])

    def estimated_document_count(self) -> int:
        return len(self._documents)

    def count_documents(self, query: dict[str, Any]) -> int:
        most = order(query["_id"]["$lte"])
        ids = [order(document["_id"]) for document in self._documents]
        return sum(own[0] == most[0] and own <= most for own in ids)  # of the same type alone

    def find_one(self, query: dict, wanted: dict, sort: list) -> RawBSONDocument | None:
        assert (query, wanted, sort) == ({}, {"_id": 1}, [("_id", -1)])
        ids = sorted((document["_id"] for document in self._documents), key=order)
        return RawBSONDocument(bson.encode({"_id": ids[-1]})) if ids else None

    def find(self, query: dict, wanted: dict[str, int]) -> "_Cursor":
        assert query == {}
        return _Cursor(self._server, self._documents, list(wanted))


class _Cursor:
    def __init__(self, server: Server, documents: list[dict], wanted: list[str]) -> None:
        self._server, self._documents, self._wanted = server, documents, wanted
        self._least: Any = None

    def sort(self, keys: list) -> "_Cursor":
        assert keys == [("_id", 1)]
        return self

    hint = sort

    def min(self, bounds: list) -> "_Cursor":
        ((name, self._least),) = bounds
        assert name == "_id"
        return self

    def __iter__(self) -> Iterator[RawBSONDocument]:
        limit = self._server.breaks_after.pop(0) if self._server.breaks_after else None
        sent = 0
        for document in sorted(self._documents, key=lambda one: order(one["_id"])):
            if self._least is not None and order(document["_id"]) < order(self._least):
                continue
            if sent == limit:
                raise AutoReconnect("connection closed")
            sent += 1
            self._server.sent += 1
            yield RawBSONDocument(bson.encode(projected(document, self._wanted)))


def projected(document: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    """The document with these fields alone, also where a dot leads into those of a list."""
    inner: dict[str, list[str]] = {}
    for path in wanted:
        name, _, rest = path.partition(".")
        inner.setdefault(name, []).append(rest)
    found = {}
    for name, value in document.items():
        if name in inner:
            rests = [rest for rest in inner[name] if rest]
            if rests and isinstance(value, list):
                found[name] = [projected(one, rests) for one in value if isinstance(one, dict)]
            else:
                found[name] = value
    return found
