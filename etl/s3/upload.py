"""A file-like sink that uploads what is written to it, part by part, while more is being written."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from etl.errors import ConfigError
from etl.s3.bodies import crc32_of
from etl.s3.inflight import InFlight
from etl.s3.store import Store
from etl.signals import signals_put_off

_MOST_PARTS = 10_000


class Upload(io.RawIOBase):
    """Collects bytes into parts of ``part_bytes`` and uploads up to ``in_flight`` of them at once.

    Nothing is sent before the first part is full. S3 shows nothing of it until the multipart upload is completed.
    ``options``: Metadata, ContentType and the like, as S3 takes them at the start of an upload.
    """

    def __init__(self, store: Store, key: str, options: Mapping[str, Any], part_bytes: int, in_flight: int) -> None:
        self.upload_id: str | None = None
        self._store = store
        self._key = key
        self._options = options
        self._part_bytes = part_bytes
        self._buffer = bytearray()
        self._parts: InFlight[dict[str, Any]] = InFlight(store, in_flight)

    def write(self, data: Any) -> int:
        self._buffer += data
        while len(self._buffer) >= self._part_bytes:
            with memoryview(self._buffer) as buffer:
                body = bytes(buffer[: self._part_bytes])
            del self._buffer[: self._part_bytes]
            self._send(body)
            del body
        return len(data)

    def finish(self) -> dict[str, Any]:
        """Wait for all parts. What the commit needs: the upload, or the whole body if it was less than a part."""
        if self.upload_id is None:
            return {"body": bytes(self._buffer)}
        if self._buffer:
            self._send(bytes(self._buffer))
        return {"upload_id": self.upload_id, "parts": self._parts.results()}

    def cancel(self) -> None:
        self._parts.cancel()

    def _send(self, body: bytes) -> None:
        if self.upload_id is None:
            with signals_put_off():
                self.upload_id = self._store.start_upload(self._key, **self._options)
        number = len(self._parts) + 1
        if number > _MOST_PARTS:
            target = self._store.uri(self._key)
            raise ConfigError(f"{target} needs more than {_MOST_PARTS:,} parts; set a larger part_bytes, or use prefix")
        self._parts.add(self._store.send_part, self._key, self.upload_id, number, body, crc32_of(body))
