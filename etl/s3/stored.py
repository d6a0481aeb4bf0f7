"""What S3 tells about an object, and the conditions that a write can make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Stored:
    """An object as S3 describes it. ``crc32`` is of the whole object, or None if the store does not tell."""

    key: str
    etag: str
    bytes: int
    modified: datetime
    crc32: str | None = None
    version_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""
    encryption: str | None = None

    def holds(self, size: int, crc32: str, sha256: str) -> bool | None:
        """Whether these bytes are in it, told by size and checksum or by our hash in the metadata. None: by neither."""
        if self.bytes != size:
            return False
        if self.crc32 is not None:
            return self.crc32 == crc32
        told = self.metadata.get("etl-sha256")
        return told == sha256 if told else None


def only_if(etag: str | None) -> dict[str, str]:
    """The condition of a write: the object is still the one with ``etag``; None: there is still no object."""
    return {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}


def described(key: str, reply: Any) -> Stored:
    """The object ``key``, from the reply to a HEAD request."""
    asked = (reply.get("ServerSideEncryption"), reply.get("SSEKMSKeyId"))
    return Stored(
        key,
        reply["ETag"],
        reply["ContentLength"],
        reply["LastModified"],
        None if reply.get("ChecksumType") == "COMPOSITE" else reply.get("ChecksumCRC32"),
        reply.get("VersionId"),
        reply["Metadata"],
        reply.get("ContentType", ""),
        " ".join(filter(None, asked)) or None,
    )
