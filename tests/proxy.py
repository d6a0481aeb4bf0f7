"""What the servers in front of moto have in common: they pass requests on, and answer what they like."""

from __future__ import annotations

import http.client
import socket
import struct
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

_POLL_S = 0.02
_OF_THE_CONNECTION = {"connection", "transfer-encoding", "content-length"}
_CLOSE_WITH_A_RESET = struct.pack("ii", 1, 0)


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class ProxyHandler(BaseHTTPRequestHandler):
    """MUST write ``handle_call(body)``, which may ``pass_on`` the request, and ends with ``answer`` or ``hang_up``."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a reply in two pieces waits 40 ms between them

    def handle_call(self, body: bytes) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) == length:  # else whoever sent it is dead
            self.handle_call(body)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815  (their names in the standard library)

    def pass_on(self, url: str, body: bytes, hidden: Collection[str] = ()) -> Reply:
        """The reply of the server at ``url``. ``hidden``: headers, in lower case, that it does not get to see."""
        hidden = {*hidden, "content-length"}  # the body may be another one by now
        headers = {name: value for name, value in self.headers.items() if name.lower() not in hidden}
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        connection.request(self.command, self.path, body, headers)
        reply = connection.getresponse()
        found = Reply(reply.status, dict(reply.getheaders()), reply.read())
        connection.close()
        return found

    def answer(self, reply: Reply, sent: int | None = None) -> None:
        """``sent``: how many bytes of the body are sent before the connection is closed; None: all, and it stays."""
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            if name.lower() not in _OF_THE_CONNECTION:
                self.send_header(name, value)
        length = reply.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(reply.body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[:sent])
        if sent is not None:
            self.close_connection = True

    def hang_up(self) -> None:
        """Break the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_WITH_A_RESET)
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_arguments: object) -> None:
        return None


@contextmanager
def serving(handler: type[ProxyHandler]) -> Iterator[str]:
    """The url at which it answers while the block lasts."""
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=[_POLL_S], daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # that is a caller who is dead or has been cut off
            super().handle_error(request, client_address)
