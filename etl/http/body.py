"""Reads the body of an answer as it arrives, and gives up on one that breaks off, crawls or grows too large."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import urllib3

from etl.errors import DataError, SourceError
from etl.http.request import Patience, TransientError, reason
from etl.redact import redact

if TYPE_CHECKING:
    from requests import Response

CHUNK_BYTES = 256 * 1024
_DECODABLE = ("", "gzip", "x-gzip", "deflate")


def read_body(response: Response, url: str, patience: Patience, max_bytes: int) -> bytes:
    """The whole body, decoded. Raises TransientError if it breaks off, DataError if it is larger than ``max_bytes``."""
    body = bytearray()
    for chunk in body_chunks(response, url, patience):
        body += chunk
        if len(body) > max_bytes:
            raise DataError(
                f"{redact(url)}: an answer is larger than max_page_bytes = {max_bytes:,}; ask for smaller pages, or "
                "raise the limit: a page is held in memory"
            )
    return bytes(body)


def encoding_of(response: Response) -> str:
    """The Content-Encoding; empty if there is none."""
    return response.headers.get("Content-Encoding", "").strip().lower().replace("identity", "")


def body_chunks(response: Response, url: str, patience: Patience) -> Iterator[bytes]:
    """The body as it arrives, decoded. Raises SourceError at once if it cannot be decoded.

    The iterator raises TransientError if the body breaks off, stalls or crawls.
    """
    encoding = encoding_of(response)
    if encoding not in _DECODABLE:
        raise SourceError(f"{redact(url)}: the server encoded the body with {encoding!r}, unasked")
    chunks = _arriving(response, patience)
    return _decoded(chunks) if encoding else chunks


def _arriving(response: Response, patience: Patience) -> Iterator[bytes]:
    """Yield the body as it is sent. A socket's read timeout starts anew with every byte, so the rate is watched too."""
    options = patience.options
    since, received = time.monotonic(), 0
    while True:
        try:
            # read1 gives what is there; read would wait for all of it
            chunk = response.raw.read1(CHUNK_BYTES, decode_content=False)
        except urllib3.exceptions.HTTPError as error:
            raise TransientError(reason(error)) from error
        if not chunk:
            return
        yield chunk
        received += len(chunk)
        elapsed = time.monotonic() - since
        if patience.left_s() < 0:
            raise TransientError("the download took too long")
        if elapsed >= options.read_timeout_s:
            if received < options.min_bytes_per_s * elapsed:
                raise TransientError(f"slower than min_bytes_per_s = {options.min_bytes_per_s:g}")
            since, received = time.monotonic(), 0


def _decoded(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Undo a Content-Encoding that was not asked for, in pieces of CHUNK_BYTES, however much one chunk inflates to."""
    inflater = zlib.decompressobj(wbits=47)  # gzip or zlib, as its header says
    try:
        for chunk in chunks:
            piece = inflater.decompress(chunk, CHUNK_BYTES)
            while piece:
                yield piece
                piece = inflater.decompress(inflater.unconsumed_tail, CHUNK_BYTES)
    except zlib.error as error:
        raise TransientError(f"the body is not encoded as its Content-Encoding says: {error}") from error
    if not inflater.eof:
        raise TransientError("the encoded body ended early")
