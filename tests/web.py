"""A real web server on this machine whose behaviour, and misbehaviour, is scripted request by request.

with WebServer() as web:
    web.serve("/lego.zip", body, etag='"1"', cut_after=[1000, 5000])  # the first two answers break off
    web.once("/lego.zip", status=503)                                 # and then one fails
    fetch(web.url("/lego.zip"), ...)
    assert web.requests[1].headers["Range"] == "bytes=1000-"
"""

from __future__ import annotations

import contextlib
import email.utils
import gzip
import re
import socket
import ssl
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

OLD = "Sat, 01 Oct 2022 00:00:00 GMT"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER that makes close() send a reset


@dataclass(frozen=True)
class Request:
    """One request as it came. ``path``: with its query string. ``headers``: looked up without regard to case."""

    method: str
    path: str
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What to answer. The defaults are a well-behaved file server.

    ``etag``, ``last_modified``: None to send none. ``ranges``: whether Range is understood. ``length``: False for no
    Content-Length, or a wrong number of bytes. ``chunked``: Transfer-Encoding. ``gzipped``: Content-Encoding.
    ``cut_after``: body bytes after which the connection is closed, or with ``reset`` broken. ``trickle``: (bytes,
    seconds) sent at a time and slept between. ``raw``: the whole answer, head included, sent as it is (and trickled).
    """

    body: bytes = b""
    status: int = 200
    etag: str | None = None
    last_modified: str | None = OLD
    content_type: str = "application/zip"
    headers: Mapping[str, str] = field(default_factory=dict)
    ranges: bool = True
    length: bool | int = True
    chunked: bool = False
    gzipped: bool = False
    cut_after: int | None = None
    reset: bool = False
    trickle: tuple[int, float] | None = None
    raw: bytes | None = None


class WebServer:
    """Serves on 127.0.0.1 while its ``with`` block lasts. ``certificate``: a PEM file with a key, for https."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.requests: list[Request] = []
        self._answers: dict[str, Callable[[Request], Answer]] = {}
        self._once: dict[str, deque[dict[str, Any]]] = defaultdict(deque)
        self._scheme = "https" if certificate else "http"
        self._server = _Server(self, certificate)

    def __enter__(self) -> WebServer:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"{self._scheme}://{host}:{self._server.server_port}{path}"

    def serve(
        self, path: str, body: bytes = b"", *, cut_after: int | Sequence[int] | None = None, **answer: Any
    ) -> str:
        """Answer ``path`` (whatever its query) so from now on, and return its url.

        A list for ``cut_after`` is one answer each, before one that is whole.
        """
        cuts: Sequence[int] = ()
        if isinstance(cut_after, Sequence):
            cuts, cut_after = cut_after, None
        always = Answer(body, cut_after=cut_after, **answer)
        self.script(path, lambda request: always)
        for bytes_sent in cuts:
            self.once(path, cut_after=bytes_sent)
        return self.url(path)

    def once(self, path: str, **changes: Any) -> None:
        """Change one answer for ``path``, in the order of the calls; afterwards it is as ``serve`` said."""
        self._once[path].append(changes)

    def script(self, path: str, answer: Callable[[Request], Answer]) -> str:
        """Answer ``path`` with what the function makes of each request, and return its url."""
        self._once.pop(path, None)
        self._answers[path] = answer
        return self.url(path)

    def redirect(self, path: str, to: str, status: int = 302) -> str:
        return self.serve(path, status=status, headers={"Location": to}, content_type="text/html")

    def take(self, request: Request) -> Answer:
        """Note the request and choose its answer."""
        self.requests.append(request)
        path = urlsplit(request.path).path
        if path not in self._answers:
            return Answer(b"<!DOCTYPE html><p>Not found", status=404, content_type="text/html")
        changes = self._once[path].popleft() if self._once[path] else {}
        return replace(self._answers[path](request), **changes)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, web: WebServer, certificate: Path | None) -> None:
        self.web = web
        super().__init__(("127.0.0.1", 0), _Handler)
        self._tls = None
        if certificate:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # in the thread of the connection, so a slow handshake delays no other; a client may well hang up
        with contextlib.suppress(OSError), self._secured(request) as connection:
            super().finish_request(connection, client_address)

    def _secured(self, request: Any) -> Any:
        return self._tls.wrap_socket(request, server_side=True) if self._tls else contextlib.nullcontext(request)

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)  # without the polite half-close, so that a reset can be one


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the body need not wait until the head is acknowledged
    server: _Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.command, self.path, self.headers, body)
        answer = self.server.web.take(request)
        if answer.raw is not None:
            self.close_connection = True
            self._write(answer.raw, answer)
            return
        status, headers, content = _file_server(request, answer)
        self._send_head(status, headers, answer)
        if self.command != "HEAD":
            self._send_body(content, answer)

    do_HEAD = do_POST = do_GET  # noqa: N815  (their names in the standard library)

    def _send_head(self, status: int, headers: Mapping[str, str], answer: Answer) -> None:
        self.close_connection = answer.cut_after is not None or (answer.length is not True and not answer.chunked)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _send_body(self, content: bytes, answer: Answer) -> None:
        if answer.chunked:
            pieces = [content[start : start + 1000] for start in range(0, len(content), 1000)]
            content = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
        self._write(content if answer.cut_after is None else content[: answer.cut_after], answer)
        if answer.reset:
            time.sleep(0.05)  # what was sent should arrive first
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def _write(self, data: bytes, answer: Answer) -> None:
        if not answer.trickle:
            self.wfile.write(data)
            return
        step, pause = answer.trickle
        for start in range(0, len(data), step):
            self.wfile.write(data[start : start + step])
            time.sleep(pause)

    def log_message(self, format: str, *args: Any) -> None:
        return None


def _file_server(request: Request, answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body as a server of files would answer, conditions and ranges considered."""
    status, content = answer.status, answer.body
    headers = {"Content-Type": answer.content_type}
    if answer.etag:
        headers["ETag"] = answer.etag
    if answer.last_modified:
        headers["Last-Modified"] = answer.last_modified
    if status == 200 and _is_unchanged(request, answer):
        status, content = 304, b""
    elif status == 200 and answer.ranges and _wants_range(request, answer):
        status, content = _cut_range(request.headers["Range"], content, headers)
    if answer.gzipped:
        content = gzip.compress(content)
        headers["Content-Encoding"] = "gzip"
    if answer.chunked:
        headers["Transfer-Encoding"] = "chunked"
    elif answer.length is not False:
        headers["Content-Length"] = str(len(content) if answer.length is True else answer.length)
    return status, {**headers, **answer.headers}, content


def _is_unchanged(request: Request, answer: Answer) -> bool:
    if "If-None-Match" in request.headers:
        return bool(answer.etag) and request.headers["If-None-Match"] == answer.etag
    since, modified = request.headers.get("If-Modified-Since"), answer.last_modified
    if not since or not modified:
        return False
    return email.utils.parsedate_to_datetime(modified) <= email.utils.parsedate_to_datetime(since)


def _wants_range(request: Request, answer: Answer) -> bool:
    if "Range" not in request.headers:
        return False
    return request.headers.get("If-Range", answer.etag) in (answer.etag, answer.last_modified)


def _cut_range(asked: str, content: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
    assert match, f"this server does not know the range {asked!r}"
    first = int(match[1])
    if first >= len(content):
        headers["Content-Range"] = f"bytes */{len(content)}"
        return 416, b""
    last = min(int(match[2] or len(content) - 1), len(content) - 1)
    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
    return 206, content[first : last + 1]
