"""A server in front of moto's DynamoDB: it cuts results into pages, and fails when it is told to.

with front_of(moto_url) as front:
    front.page_items = 2
    front.fail(throttled(), HANG_UP, after=1)
    DynamoDbExtractor(...)  # with AWS_ENDPOINT_URL_DYNAMODB = front.url
    assert front.asked("Scan") == 6
"""

from __future__ import annotations

import http.client
import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_POLL_S = 0.02


@dataclass(frozen=True)
class Failure:
    """``code``: of an error, that is sent in place of the reply. Else the reply is lost, cut, or damaged."""

    code: str = ""
    status: int = 400
    way: str = "error"


HANG_UP = Failure(way="hang up")
CUT = Failure(way="cut")
DAMAGED = Failure(way="damaged")
ITEM_LOST = Failure(way="item lost")


def throttled(code: str = "ProvisionedThroughputExceededException") -> Failure:
    return Failure(code)


class Front:
    """``page_items``: the most in a page. ``requests``: (operation, what was asked), in order."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.page_items: int | None = None
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self._failures: list[Failure | None] = []

    def fail(self, *failures: Failure, after: int = 0) -> None:
        """Of the scans and queries to come, the first ``after`` go well, then so many fail in these ways."""
        self._failures = [*[None] * after, *failures]

    def asked(self, operation: str) -> int:
        return sum(name == operation for name, _ in self.requests)

    def next_failure(self, operation: str) -> Failure | None:
        return self._failures.pop(0) if operation in ("Scan", "Query") and self._failures else None


@contextmanager
def front_of(moto_url: str) -> Iterator[Front]:
    upstream = urlsplit(moto_url).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            operation = self.headers["X-Amz-Target"].partition(".")[2]
            front.requests.append((operation, dict(body)))
            failure = front.next_failure(operation)
            if failure and failure.way == "error":
                problem = {"__type": f"com.amazonaws.dynamodb.v20120810#{failure.code}", "message": "by the test"}
                self._answer(failure.status, json.dumps(problem).encode())
                return
            if operation in ("Scan", "Query") and front.page_items:
                body["Limit"] = min(front.page_items, body.get("Limit", front.page_items))
            status, content = self._asked(json.dumps(body).encode())
            if failure and failure.way == "hang up":
                self.close_connection = True
                return
            self._answer(status, content, failure.way if failure else "")

        def _asked(self, body: bytes) -> tuple[int, bytes]:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "content-length"}
            connection = http.client.HTTPConnection(upstream, timeout=30)
            connection.request("POST", self.path, body, headers)
            reply = connection.getresponse()
            content = reply.read()
            connection.close()
            return reply.status, content

        def _answer(self, status: int, content: bytes, way: str = "") -> None:
            crc = zlib.crc32(content)
            if way == "damaged":
                content = content.replace(b"order ", b"odrer ")
            if way == "item lost":
                page = json.loads(content)
                content = json.dumps({**page, "Items": page["Items"][1:]}).encode()
                crc = zlib.crc32(content)
            self.send_response_only(status)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("x-amz-crc32", str(crc))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if way == "cut" else content)
            self.close_connection = way == "cut"

        def log_message(self, *_arguments: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    front = Front(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=[_POLL_S], daemon=True).start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()
