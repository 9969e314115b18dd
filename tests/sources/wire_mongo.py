"""The collections of `fake_mongo.Server` over a socket, in MongoDB's own protocol.

So pymongo itself is called, as against a real server. There are only the commands that
`sources/mongo.py` leads to, and cursors give two documents at a time.
"""

import itertools
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bson

from tests.sources.fake_mongo import Server, order, projected

_HELLO = {
    "ismaster": True,
    "helloOk": True,
    "maxBsonObjectSize": 16 << 20,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "ok": 1.0,
}
_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013


@contextmanager
def served(server: Server) -> Iterator[str]:
    """The address of a server of these collections, until the end of the body."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _handler(server)) as listener:
        listener.daemon_threads = True
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{listener.server_address[1]}"
        listener.shutdown()


def _handler(server: Server) -> type[socketserver.StreamRequestHandler]:
    numbers = itertools.count(1)
    left: dict[int, list[dict[str, Any]]] = {}

    def batch(documents: list[dict[str, Any]], name: str, which: str) -> dict[str, Any]:
        number = next(numbers) if len(documents) > 2 else 0
        left[number] = documents[2:]
        return {"cursor": {"id": bson.Int64(number), "ns": name, which: documents[:2]}, "ok": 1.0}

    def answer(command: dict[str, Any]) -> dict[str, Any]:  # noqa: PLR0911, one for each command
        name, value = next(iter(command.items()))
        of = sorted(server.collections.get(value, []), key=lambda one: order(one["_id"]))
        space = f"{command['$db']}.{value}"
        server.asked[name] = command
        if name in ("hello", "ismaster", "isMaster"):
            return _HELLO
        if name == "count":
            return {"n": len(of), "ok": 1.0}
        if name == "aggregate":  # count_documents
            most = order(command["pipeline"][0]["$match"]["_id"]["$lte"])
            count = sum(order(one["_id"]) <= most for one in of)
            return batch([{"_id": 1, "n": count}], space, "firstBatch")
        if name == "find":
            assert command["filter"] == {}
            if command["sort"] == {"_id": -1}:
                return batch([{"_id": of[-1]["_id"]}] if of else [], space, "firstBatch")
            assert command["sort"] == command["hint"] == {"_id": 1}
            least = command.get("min")
            wanted = [one for one in of if not least or order(one["_id"]) >= order(least["_id"])]
            fields = list(command["projection"])
            return batch([projected(one, fields) for one in wanted], space, "firstBatch")
        if name == "getMore":
            return batch(left.pop(value), "", "nextBatch")
        return {"ok": 1.0}  # endSessions, killCursors

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while head := self.rfile.read(16):
                length, number, _, operation = struct.unpack("<iiii", head)
                body = self.rfile.read(length - 16)
                if operation == _OP_QUERY:  # of the handshake alone
                    start = body.index(b"\0", 4) + 9
                    reply = bson.encode(answer({**bson.decode(body[start:]), "$db": "admin"}))
                    data, operation = struct.pack("<iqii", 8, 0, 0, 1) + reply, _OP_REPLY
                else:
                    reply = bson.encode(answer(bson.decode(body[5:])))
                    data = struct.pack("<IB", 0, 0) + reply
                self.wfile.write(struct.pack("<iiii", len(data) + 16, 0, number, operation) + data)

    return Handler
