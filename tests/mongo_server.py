"""A MongoDB server to test with: the wire protocol over TCP, in front of mongomock; it fails when it is told to.

with mongo_server() as server:
    server.fail("getMore", {"code": 43, "errmsg": "cursor id 1 not found"}, times=2)
    MongoExtractor(uri=server.url, ...)
    assert server.asked("find") == 3
"""

from __future__ import annotations

import functools
import itertools
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mongomock.filtering
from bson import decode, decode_all, encode
from bson.raw_bson import RawBSONDocument

HANG_UP = object()
SILENCE = object()  # until the client gives up
_mock: Any = mongomock.filtering
_HEADER = struct.Struct("<iiii")
_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_POLL_S = 0.02
_HELLO = {
    "helloOk": True,
    "ismaster": True,
    "isWritablePrimary": True,
    "maxBsonObjectSize": 16 << 20,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "logicalSessionTimeoutMinutes": 30,
    "minWireVersion": 0,
    "maxWireVersion": 25,
    "readOnly": False,
    "ok": 1.0,
}
_CLASSES = {  # of the types in MongoDB's order that mongomock can compare
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "object": lambda value: isinstance(value, dict),
    "binData": lambda value: isinstance(value, bytes),
    "objectId": lambda value: type(value).__name__ == "ObjectId",
    "bool": lambda value: isinstance(value, bool),
    "date": lambda value: type(value).__name__ == "datetime",
}


class MongoServer:
    """``batch_documents``: the most that a reply holds. ``commands``: those asked, in order. ``views``: their names."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.batch_documents = 1_000
        self.commands: list[dict[str, Any]] = []
        self.views: set[str] = set()
        self._data: Any = mongomock.MongoClient()
        self._raw: dict[str, list[bytes]] = {}
        self._failures: dict[str, list[Any]] = {}
        self._cursors: dict[int, Iterator[bytes]] = {}
        self._cursor_ids = itertools.count(1)

    def fail(self, command: str, failure: Any, times: int = 1, after: int = 0) -> None:
        """Answer this command by an error, HANG_UP or SILENCE, so often, after it went well ``after`` times."""
        self._failures[command] = [None] * after + [failure] * times

    def put_raw(self, collection: str, *documents: bytes) -> None:
        """Serve these bytes as documents of the collection, whatever is asked."""
        self._raw[collection] = list(documents)

    def asked(self, command: str) -> int:
        return sum(next(iter(each)) == command for each in self.commands)

    def answer(self, command: dict[str, Any]) -> Any:
        name = next(iter(command))
        self.commands.append(command)
        if planned := self._failures.get(name):
            failure = planned.pop(0)
            if failure is not None:
                return failure if failure in (HANG_UP, SILENCE) else {"ok": 0.0, **failure}
        action = getattr(self, f"_{name}", None)
        return action(command) if action else {"ok": 1.0}

    def _hello(self, _command: dict[str, Any]) -> dict[str, Any]:
        return dict(_HELLO)

    _ismaster = _isMaster = _hello  # noqa: N815  (its name on the wire)

    def _listCollections(self, command: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        names = self._data[command["$db"]].list_collection_names()
        found = [{"name": name, "type": "view" if name in self.views else "collection"} for name in names]
        return self._first(command, "$cmd.listCollections", map(encode, found))

    def _count(self, command: dict[str, Any]) -> dict[str, Any]:
        return {"n": self._data[command["$db"]][command["count"]].count_documents({}), "ok": 1.0}

    def _aggregate(self, command: dict[str, Any]) -> dict[str, Any]:
        """Of the stages only $match: a sample is all there is."""
        wanted = command["pipeline"][0]["$match"]
        found = self._sorted(command["$db"], command["aggregate"], wanted)
        return self._first(command, command["aggregate"], (encode({"_id": each["_id"]}) for each in found))

    def _insert(self, command: dict[str, Any]) -> dict[str, Any]:
        self._data[command["$db"]][command["insert"]].insert_many(command["documents"])
        return {"n": len(command["documents"]), "ok": 1.0}

    def _drop(self, command: dict[str, Any]) -> dict[str, Any]:
        self._data[command["$db"]].drop_collection(command["drop"])
        return {"ok": 1.0}

    def _find(self, command: dict[str, Any]) -> dict[str, Any]:
        database, name = command["$db"], command["find"]
        if name in self._raw:
            return self._first(command, name, iter(self._raw[name]))
        chosen = self._sorted(database, name, command.get("filter", {}))[: command.get("limit") or None]
        fields = command.get("projection") or None
        shown = {repr(document["_id"]): document for document in self._data[database][name].find({}, fields)}
        return self._first(command, name, (encode(shown[repr(each["_id"])]) for each in chosen))

    def _getMore(self, command: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        cursor_id = command["getMore"]
        return self._reply(command, command["collection"], cursor_id, "nextBatch")

    def _first(self, command: dict[str, Any], name: str, documents: Iterator[bytes]) -> dict[str, Any]:
        cursor_id = next(self._cursor_ids)
        self._cursors[cursor_id] = documents
        return self._reply(command, name, cursor_id, "firstBatch")

    def _reply(self, command: dict[str, Any], name: str, cursor_id: int, batch: str) -> dict[str, Any]:
        most = self.batch_documents if "listCollections" not in command else 1_000
        size = min(command.get("batchSize") or most, most)
        found = [RawBSONDocument(document) for document in itertools.islice(self._cursors[cursor_id], size)]
        ended = len(found) < size or command.get("singleBatch")
        return {"cursor": {batch: found, "id": 0 if ended else cursor_id, "ns": f"{command['$db']}.{name}"}, "ok": 1.0}

    def _sorted(self, database: str, name: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        """The documents in the order of ``_id``, all types of it."""
        found = [document for document in self._data[database][name].find() if _applies(wanted, document)]
        return sorted(found, key=functools.cmp_to_key(_compared))


def _compared(one: dict[str, Any], other: dict[str, Any]) -> int:
    less = _mock.bson_compare(lambda a, b: a < b, one["_id"], other["_id"])
    return -1 if less else int(one["_id"] != other["_id"])


def _applies(wanted: dict[str, Any], document: dict[str, Any]) -> bool:
    """As mongomock's, which knows neither a list of types, nor that NaN is found, nor what lies below null."""
    for name, condition in wanted.items():
        if name == "$and":
            applies = all(_applies(each, document) for each in condition)
        elif name == "$or":
            applies = any(_applies(each, document) for each in condition)
        elif isinstance(condition, dict) and isinstance(condition.get("$type"), list):
            applies = any(_CLASSES[kind](document[name]) for kind in condition["$type"] if kind in _CLASSES)
        elif isinstance(condition, dict) and "$not" in condition:
            applies = not _applies({name: condition["$not"]}, document)
        elif condition != condition:  # NaN
            applies = document[name] != document[name]
        else:
            applies = _mock.filter_applies({name: condition}, document)
        if not applies:
            return False
    return True


# -- the wire -----------------------------------------------------------------------------------------------------


@contextmanager
def mongo_server() -> Iterator[MongoServer]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while header := self.rfile.read(_HEADER.size):
                length, request, _, opcode = _HEADER.unpack(header)
                body = self.rfile.read(length - _HEADER.size)
                command = _legacy_command(body) if opcode == _OP_QUERY else _command(body)
                answer = server.answer(command)
                if answer is SILENCE:
                    self.rfile.read(1)
                if answer in (HANG_UP, SILENCE):
                    return
                content = encode(answer)
                reply = struct.pack("<iqii", 8, 0, 0, 1) if opcode == _OP_QUERY else struct.pack("<iB", 0, 0)
                opcode = _OP_REPLY if opcode == _OP_QUERY else _OP_MSG
                size = _HEADER.size + len(reply) + len(content)
                self.wfile.write(_HEADER.pack(size, 0, request, opcode) + reply + content)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as listening:
        server = MongoServer(f"mongodb://127.0.0.1:{listening.server_address[1]}")
        threading.Thread(target=listening.serve_forever, args=[_POLL_S], daemon=True).start()
        try:
            yield server
        finally:
            listening.shutdown()


def _legacy_command(body: bytes) -> dict[str, Any]:
    """Of an OP_QUERY, with which drivers say hello."""
    start = body.index(b"\0", 4) + 9
    size = int.from_bytes(body[start : start + 4], "little")
    return dict(decode(body[start : start + size]))


def _command(body: bytes) -> dict[str, Any]:
    """Of an OP_MSG: a section is a document, or a list of them under a name."""
    command: dict[str, Any] = {}
    start = 4
    while start < len(body):
        kind, size = body[start], int.from_bytes(body[start + 1 : start + 5], "little")
        section = body[start + 1 : start + 1 + size]
        if kind == 0:
            command = {**decode(section), **command}
        else:
            name, _, documents = section[4:].partition(b"\0")
            command[name.decode()] = decode_all(documents)
        start += 1 + size
    return command
