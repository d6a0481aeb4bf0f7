"""Files that lie in S3: found by key or pattern, and read in one state, over connections that may break."""

from __future__ import annotations

import glob
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from etl.errors import ConfigError, RetryLater, SourceError
from etl.files.places import S3_SCHEME, Reader, spooled
from etl.s3.client import Missing, make_client, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_READ_BYTES = 4 << 20
_RESUMES = 4  # in a row, without a byte between them; each asks as often as botocore does
_PAUSE_S = 0.2
_WILDCARD = re.compile(r"[*?[]")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class S3File:
    """An object. It counts as changed if its ETag has."""

    bucket: str
    key: str
    size: int
    etag: str
    region: str | None = None

    @property
    def uri(self) -> str:
        return f"{S3_SCHEME}{self.bucket}/{self.key}"

    @property
    def pattern(self) -> str:
        return glob.escape(self.uri)

    def digest(self) -> str:
        return self.etag

    def open(self) -> AbstractContextManager[Reader]:
        return closing(_S3Stream(self))

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        with self.open() as stream, spooled(stream) as path:
            yield path


class _S3Stream:
    """The content of an object. A connection that breaks is taken up again where it broke, in the same content."""

    def __init__(self, file: S3File) -> None:
        self._file = file
        self._position = 0
        self._failures = 0
        self._body: Any = None

    def read(self, n: int, /) -> bytes:
        while self._position < self._file.size:
            if self._body is None:
                self._body = self._request()
            try:
                data = self._received(min(n, _READ_BYTES))
            except RetryLater as error:
                self.close()
                self._pause(error)
                continue
            self._position += len(data)
            self._failures = 0
            return data
        return b""

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    def _received(self, n: int) -> bytes:
        with s3_errors("s3:GetObject", self._file.uri):
            data: bytes = self._body.read(n)
        if not data:
            raise RetryLater(f"{self._file.uri}: ended after {self._position:,} of {self._file.size:,} bytes")
        return data

    def _request(self) -> Any:
        """Ask for the object, or for what is left of it."""
        file = self._file
        start = f"bytes {self._position}-"
        wanted = {"Range": f"bytes={self._position}-"} if self._position else {}
        reply: Any = _get(file, wanted)
        if reply["ETag"] != file.etag or (wanted and not reply.get("ContentRange", "").startswith(start)):
            raise SourceError(f"{file.uri}: the store sent something else than was asked for, as its ETag or range say")
        return reply["Body"]

    def _pause(self, error: RetryLater) -> None:
        self._failures += 1
        if self._failures > _RESUMES:
            raise error
        log.warning("Going on at byte %s: %s", f"{self._position:,}", error)
        time.sleep(_PAUSE_S * 2 ** (self._failures - 1))


def _get(file: S3File, wanted: dict[str, Any]) -> Any:
    with s3_errors("s3:GetObject", file.uri):
        try:
            return client_for(file.region).get_object(Bucket=file.bucket, Key=file.key, IfMatch=file.etag, **wanted)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("PreconditionFailed", "412", "NoSuchKey"):
                raise RetryLater(f"{file.uri} changed after this run began; run again") from error
            raise


def find_objects(pattern: str, region: str | None) -> list[S3File]:
    """The objects that an s3:// pattern names, in the order of their keys. Raises SourceError if there is none."""
    bucket, _, key = pattern.removeprefix(S3_SCHEME).partition("/")
    wildcard = _WILDCARD.search(key)
    if not wildcard:
        return [_object(bucket, key, region)]
    prefix = key[: wildcard.start()]
    files = sorted(_matching(bucket, prefix, key.split("/"), region), key=lambda file: file.key)
    if not files:
        raise SourceError(f"there is no object {pattern}; check path")
    return files


def _object(bucket: str, key: str, region: str | None) -> S3File:
    uri = f"{S3_SCHEME}{bucket}/{key}"
    try:
        with s3_errors("s3:GetObject", uri):
            head = client_for(region).head_object(Bucket=bucket, Key=key)
    except Missing as error:
        raise SourceError(f"there is no object {uri}, or no such bucket; check path") from error
    return S3File(bucket, key, head["ContentLength"], head["ETag"], region)


def _matching(bucket: str, prefix: str, pattern: Sequence[str], region: str | None) -> Iterator[S3File]:
    try:
        with s3_errors("s3:ListBucket", f"{S3_SCHEME}{bucket}/{prefix}"):
            for page in client_for(region).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    key = entry["Key"]
                    if not key.endswith("/") and _matches(key.split("/"), pattern):
                        yield S3File(bucket, key, entry["Size"], entry["ETag"], region)
    except Missing as error:
        raise ConfigError(f"the bucket {bucket} does not exist; check path") from error


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a path, taken apart at its slashes, fits a pattern, as ``glob`` understands it."""
    if not names or not patterns:
        return not names and all(pattern == "**" for pattern in patterns)
    name, pattern = names[0], patterns[0]
    if name.startswith(".") and not pattern.startswith("."):
        return False
    if pattern != "**":
        return fnmatchcase(name, pattern) and _matches(names[1:], patterns[1:])
    return _matches(names, patterns[1:]) or _matches(names[1:], patterns)


def client_for(region: str | None) -> S3Client:
    """The client of this process for the credentials and settings that the environment holds now."""
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _client(region, os.getpid(), settings)


@lru_cache(maxsize=4)  # each has connections of its own, and a pattern may find a thousand files
def _client(region: str | None, _process: int, _settings: tuple[tuple[str, str], ...]) -> S3Client:
    return make_client(region)
