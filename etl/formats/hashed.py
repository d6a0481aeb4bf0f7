"""A sink that knows the size, SHA-256 and CRC32 of what was written to it."""

from __future__ import annotations

import hashlib
import io
from typing import Any

from zlib_ng import zlib_ng


class HashedStream(io.RawIOBase):
    """Passes on to ``stream``, which it closes with itself. ``sha256``: one that goes on over several streams."""

    def __init__(self, stream: Any, sha256: Any = None) -> None:
        self.size = 0
        self.sha256 = sha256 or hashlib.sha256()
        self.crc32 = 0
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._stream.write(data)
        self.size += len(data)
        self.sha256.update(data)
        self.crc32 = zlib_ng.crc32(data, self.crc32)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
