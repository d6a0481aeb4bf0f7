"""What is sent to S3: its checksum, and a file that stops being sent when the run does."""

from __future__ import annotations

import base64
import io
import threading
from pathlib import Path

from zlib_ng import zlib_ng

_CHUNK = 1024**2


def crc32_of(body: bytes | Path) -> str:
    """The checksum of bytes or of a file, as S3 writes it."""
    if isinstance(body, bytes):
        return crc32_text(zlib_ng.crc32(body))
    crc32 = 0
    with body.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc32 = zlib_ng.crc32(chunk, crc32)
    return crc32_text(crc32)


def crc32_text(crc32: int) -> str:
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


class _Stopped(BaseException):
    """Not an Exception: botocore would take that for a broken connection, and try again."""


class StoppableFile(io.FileIO):
    """Reads as usual until ``stopping`` is set."""

    def __init__(self, path: Path, stopping: threading.Event) -> None:
        super().__init__(path)
        self._stopping = stopping

    def read(self, size: int | None = -1, /) -> bytes:
        if self._stopping.is_set():
            raise _Stopped
        return super().read(-1 if size is None else size)
