"""One bucket as the loader talks to it: each call names its owner, is tried again, and fails with a remedy."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from etl.errors import ConfigError
from etl.s3.bodies import StoppableFile, crc32_of
from etl.s3.client import (
    Damaged,
    Denied,
    LostRace,
    Missing,
    NoConditions,
    Unavailable,
    Unexplained,
    UploadGone,
    make_client,
    retrying_while,
    s3_errors,
)
from etl.s3.stored import Stored, described

T = TypeVar("T")

DEADLINE_S = 120.0
NO_CONDITIONS = (
    "this store does not keep the conditions of writes, so that two runs could overwrite each other; "
    "set single_writer = true in [load] if you are sure that two never run at once"
)

_HURRIED_ATTEMPTS = 2
_HURRIED_TIMEOUT_S = 3
_HURRIED_DEADLINE_S = 5.0
_LONGEST_PAUSE_S = 20.0

log = logging.getLogger(__name__)


class Store:
    """The calls that loader and readers make. They raise the errors of ``etl.errors`` and ``etl.s3.client``.

    ``owner``: the account that the bucket must belong to. ``writing``: what every write asks for (encryption, ACL,
    tags). ``deadline_s``: seconds after which a failing call is not tried again. ``conditions_needed``: where the
    store knows no conditional writes, raise NoConditions instead of writing without. ``hurried``: for a run that has
    few seconds left.
    """

    def __init__(
        self,
        bucket: str,
        *,
        region: str | None = None,
        owner: str | None = None,
        writing: Mapping[str, Any] | None = None,
        deadline_s: float = DEADLINE_S,
        conditions_needed: bool = False,
        hurried: bool = False,
    ) -> None:
        limits = {"attempts": _HURRIED_ATTEMPTS, "timeout_s": _HURRIED_TIMEOUT_S} if hurried else {}
        self.bucket = bucket
        self.client = make_client(region, **limits)
        self.owner = owner
        self.writing = writing or {}
        self._deadline_s = _HURRIED_DEADLINE_S if hurried else deadline_s
        self._conditions_needed = conditions_needed
        self._may_look = True
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Send no more of any file and try nothing again, so that no request outlives a run that is being stopped."""
        self._stopping.set()

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    # -- looking --------------------------------------------------------------------------------------------------

    def check_bucket(self, prefix: str) -> None:
        """Raise unless the bucket exists and what begins with ``prefix`` may be listed."""
        self.call("s3:ListBucket", None, self.client.list_objects_v2, Prefix=prefix, MaxKeys=1)

    def head(self, key: str, version_id: str | None = None) -> Stored | None:
        """None if there is no such object, or if it cannot be told whether there is. A missing bucket is an error."""
        version = {"VersionId": version_id} if version_id else {}
        action = "s3:GetObjectVersion" if version else "s3:GetObject"
        head = partial(self.call, action, key, self.client.head_object, Key=key, ChecksumMode="ENABLED", **version)
        try:
            reply = head()
        except Missing:
            self.check_bucket(key)
            return None
        except Unexplained:
            if self.look(key, Range="bytes=0-0") is None:
                return None
            reply = head()  # who may GET may HEAD: whatever it was has passed
        return described(key, self._from_s3(reply))

    def get(self, key: str, **more: Any) -> tuple[bytes, str] | None:
        """The object's content and ETag, or None if there is no such object."""
        try:
            return self.call("s3:GetObject", key, self._read, Key=key, **more)
        except Missing:
            self.check_bucket(key)
            return None

    def look(self, key: str, **more: Any) -> tuple[bytes, str] | None:
        """Like ``get``, and None where the credentials may not read: so S3 also answers for what does not exist."""
        try:
            return self.get(key, **more)
        except Denied as error:
            if self._may_look:
                log.warning("Going on as if nothing were there yet: %s", error)
            self._may_look = False
            return None

    def objects(self, prefix: str) -> Iterator[Stored]:
        method, tokens = self.client.list_objects_v2, ["ContinuationToken"]
        for entry in self._listed("Contents", "s3:ListBucket", prefix, method, tokens):
            yield Stored(entry["Key"], entry["ETag"], entry["Size"], entry["LastModified"])

    def versions(self, key: str) -> Iterator[tuple[str, bool]]:
        """The versions of one object, the newest first: id, and whether readers get it. None is once it is deleted."""
        method, tokens = self.client.list_object_versions, ["KeyMarker", "VersionIdMarker"]
        for entry in self._listed("Versions", "s3:ListBucketVersions", key, method, tokens):
            if entry["Key"] != key:
                return
            yield entry["VersionId"], entry["IsLatest"]

    # -- writing --------------------------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        body: bytes | Path,
        condition: Mapping[str, str] | None = None,
        *,
        crc32: str | None = None,
        **more: Any,
    ) -> Any:
        """Write one object, checked by S3 against ``crc32``; gives S3's reply. A file is read as it is sent."""
        options = {**self.writing, **more, "ChecksumCRC32": crc32 or crc32_of(body)}
        return self.conditional(condition or {}, "s3:PutObject", key, partial(self._send, body), Key=key, **options)

    def start_upload(self, key: str, **more: Any) -> str:
        options = {**self.writing, **more, "ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
        reply = self.call("s3:PutObject", key, self.client.create_multipart_upload, Key=key, **options)
        return str(reply["UploadId"])

    def send_part(self, key: str, upload_id: str, number: int, body: bytes, crc32: str) -> dict[str, Any]:
        part = {"UploadId": upload_id, "PartNumber": number, "ChecksumCRC32": crc32}
        reply = self.call("s3:PutObject", key, self.client.upload_part, Key=key, Body=body, **part)
        return {"PartNumber": number, "ETag": reply["ETag"], "ChecksumCRC32": crc32}

    def complete_upload(
        self,
        key: str,
        upload_id: str,
        parts: Sequence[Any],
        size: int,
        crc32: str | None,
        condition: Mapping[str, str],
    ) -> Any:
        """Make an object of the parts, checked by S3 against ``crc32``, the checksum of them all, if it is known."""
        whole = {"ChecksumCRC32": crc32, "ChecksumType": "FULL_OBJECT", "MpuObjectSize": size} if crc32 else {}
        upload = {"UploadId": upload_id, "MultipartUpload": {"Parts": parts}, **whole}
        complete = self.client.complete_multipart_upload
        return self.conditional(condition, "s3:PutObject", key, complete, Key=key, **upload)

    def abort_upload(self, key: str, upload_id: str) -> None:
        """End an upload, if it is not gone already."""
        abort = self.client.abort_multipart_upload
        with suppress(UploadGone):
            self.call("s3:AbortMultipartUpload", key, abort, Key=key, UploadId=upload_id)

    def uploads(self, key: str) -> Iterator[tuple[str, datetime]]:
        """The open multipart uploads of one object: id, and when they began."""
        method, tokens = self.client.list_multipart_uploads, ["KeyMarker", "UploadIdMarker"]
        for entry in self._listed("Uploads", "s3:ListBucketMultipartUploads", key, method, tokens):
            if entry["Key"] == key:
                yield entry["UploadId"], entry["Initiated"]

    def delete(self, key: str) -> None:
        self.call("s3:DeleteObject", key, self.client.delete_object, Key=key)

    # -- the way through which all calls go -------------------------------------------------------------------------

    def call(self, action: str, key: str | None, method: Callable[..., T], **params: Any) -> T:
        """Call S3 until it answers well, the deadline has passed, or the run is being stopped."""
        target = f"s3://{self.bucket}" if key is None else self.uri(key)
        owner = {"ExpectedBucketOwner": self.owner} if self.owner else {}
        give_up_at = time.monotonic() + self._deadline_s
        damaged, pause = False, 1.0
        while True:
            try:
                with retrying_while(lambda: self._may_wait_until(give_up_at)), s3_errors(action, target, self.owner):
                    return method(Bucket=self.bucket, **owner, **params)
            except Damaged:
                if damaged:
                    raise
                damaged = True
            except Unavailable as error:
                if not self._may_wait_until(give_up_at, pause):
                    raise
                log.warning("Trying again for %.0f s: %s", give_up_at - time.monotonic(), error)
                self._stopping.wait(pause * random.uniform(0.5, 1))  # noqa: S311  (jitter)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _may_wait_until(self, moment: float, pause: float = 0.0) -> bool:
        return not self._stopping.is_set() and time.monotonic() + pause <= moment

    def conditional(
        self, condition: Mapping[str, str], action: str, key: str, method: Callable[..., T], **params: Any
    ) -> T:
        """Write under a condition; without it where the store knows none and the loader allows that."""
        try:
            return self.call(action, key, method, **params, **condition)
        except Missing as error:
            if "IfMatch" not in condition:
                raise
            self.check_bucket(key)
            raise LostRace(f"{self.uri(key)}: lost race: somebody has deleted it meanwhile; run again") from error
        except NoConditions as error:
            if not condition:
                raise
            if self._conditions_needed:
                raise NoConditions(f"{self.uri(key)}: {NO_CONDITIONS}") from error
            log.info("Writing %s without a condition: the store knows none", self.uri(key))
            return self.call(action, key, method, **params)

    def _listed(
        self, what: str, action: str, prefix: str, method: Callable[..., Any], tokens: Sequence[str]
    ) -> Iterator[Any]:
        """The entries ``what`` of all pages."""
        more: dict[str, Any] = {}
        while True:
            page = self.call(action, prefix, method, Prefix=prefix, **more)
            yield from page.get(what, [])
            if not page.get("IsTruncated"):
                return
            more = {token: page[f"Next{token}"] for token in tokens if page.get(f"Next{token}")}

    def _read(self, **params: Any) -> tuple[bytes, str]:
        reply = self._from_s3(self.client.get_object(**params))
        return reply["Body"].read(), reply["ETag"]

    def _from_s3(self, reply: Any) -> Any:
        """The reply about an object, if it has what every object has: it may be the page of some web server."""
        if "ETag" not in reply:
            server = self.client.meta.endpoint_url
            raise ConfigError(f"{server} answers, and not as S3 does; check AWS_ENDPOINT_URL")
        return reply

    def _send(self, body: bytes | Path, **params: Any) -> Any:
        if isinstance(body, bytes):
            return self.client.put_object(Body=body, **params)
        with StoppableFile(body, self._stopping) as file:
            return self.client.put_object(Body=file, **params)
