"""Where files lie: on this machine or in S3, found by name or pattern, and never read in two different states."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from etl.errors import AccessError, ConfigError, DataError, RetryLater, SourceError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

S3_SCHEME = "s3://"

_BLOCK_BYTES = 1 << 20
_S3_READ_BYTES = 4 << 20
_RESUMES = 4  # in a row, without a byte between them; each asks as often as botocore does
_PAUSE_S = 0.2
_WILDCARD = re.compile(r"[*?[]")

log = logging.getLogger(__name__)


class Reader(Protocol):
    """Gives up to ``n`` bytes, and none at its end."""

    def read(self, n: int, /) -> bytes: ...


class FoundFile(Protocol):
    """One file as it was when it was found; reading it in another state raises RetryLater.

    ``uri``: its path as found, or its s3:// address. ``size``: in bytes.
    """

    @property
    def uri(self) -> str: ...

    @property
    def size(self) -> int: ...

    def digest(self) -> str:
        """What changes when the content does."""
        ...

    def open(self) -> AbstractContextManager[Reader]: ...

    def on_disk(self) -> AbstractContextManager[Path]:
        """For formats that are not read from front to back."""
        ...


def find_files(patterns: Iterable[str], region: str | None) -> list[FoundFile]:
    """The files that the patterns name, each once: in the order of the patterns, then of their names.

    ``*`` and ``?`` stop at a slash, ``**`` does not; names that begin with a dot must be named so. Raises SourceError
    if a pattern finds nothing, ConfigError for a folder.
    """
    found: dict[str, FoundFile] = {}
    for pattern in patterns:
        files = _in_s3(pattern, region) if pattern.startswith(S3_SCHEME) else _on_this_machine(pattern)
        found.update((file.uri, file) for file in files)
    return list(found.values())


def literal(uri: str) -> str:
    """The pattern that finds just this file."""
    return glob.escape(uri)


@contextmanager
def spooled(stream: Reader) -> Iterator[Path]:
    """Copy what is left of ``stream`` to a temporary file, for formats that are not read from front to back."""
    with tempfile.NamedTemporaryFile(prefix="etl-") as file:
        while block := stream.read(_S3_READ_BYTES):
            file.write(block)
        file.flush()
        yield Path(file.name)


# -- on this machine ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine. It counts as changed if its size, its time of change or its inode has."""

    uri: str
    size: int
    mtime_ns: int
    inode: int

    def digest(self) -> str:
        """The SHA-256 of the content, which is read for it."""
        sha256 = hashlib.sha256()
        with self.open() as file:
            while block := file.read(_BLOCK_BYTES):
                sha256.update(block)
        return sha256.hexdigest()

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        with _opened(self.uri) as file, self._unchanged(lambda: os.fstat(file.fileno())):
            yield file

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        with self.open(), self._unchanged(lambda: _status(self.uri)):
            yield Path(self.uri)

    @contextmanager
    def _unchanged(self, look: Callable[[], os.stat_result]) -> Iterator[None]:
        """Check before and after the block, also if it fails on its data: those of two states look damaged."""
        self._check(look())
        try:
            yield
        except DataError:
            self._check(look())
            raise
        self._check(look())

    def _check(self, status: os.stat_result) -> None:
        if (status.st_size, status.st_mtime_ns, status.st_ino) != (self.size, self.mtime_ns, self.inode):
            raise RetryLater(f"{self.uri} changed after this run began; run again")


def _on_this_machine(pattern: str) -> list[LocalFile]:
    path = Path(os.path.expanduser(pattern))  # noqa: PTH111  (Path's own fails for a ~ that is no user's)
    paths = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  (Path has no escape)
    files = [_local_file(found) for found in paths if not Path(found).is_dir()]
    if files:
        return files
    if paths:
        raise ConfigError(f"{pattern} is a folder; name the files in it, such as {pattern.rstrip('/')}/*.csv")
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    raise SourceError(f"there is no file {pattern}{where}; check path, and that this user may look there")


def _local_file(path: str) -> LocalFile:
    status = _status(path)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is not a file but a device, pipe or socket")
    return LocalFile(path, status.st_size, status.st_mtime_ns, status.st_ino)


def _status(path: str) -> os.stat_result:
    try:
        return Path(path).stat()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error


def _opened(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb", buffering=0)
    except PermissionError as error:
        raise AccessError(f"{path}: this user may not read it; ask for the permission") from error
    except FileNotFoundError as error:
        raise RetryLater(f"{path} vanished after this run began; run again") from error


# -- in S3 --------------------------------------------------------------------------------------------------------


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

    def digest(self) -> str:
        return self.etag

    @contextmanager
    def open(self) -> Iterator[Reader]:
        stream = _S3Stream(self)
        try:
            yield stream
        finally:
            stream.close()

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
                data = self._received(min(n, _S3_READ_BYTES))
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
        from etl.s3.client import s3_errors

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
    from botocore.exceptions import ClientError

    from etl.s3.client import s3_errors

    with s3_errors("s3:GetObject", file.uri):
        try:
            return client_for(file.region).get_object(Bucket=file.bucket, Key=file.key, IfMatch=file.etag, **wanted)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("PreconditionFailed", "412", "NoSuchKey"):
                raise RetryLater(f"{file.uri} changed after this run began; run again") from error
            raise


def _in_s3(pattern: str, region: str | None) -> list[S3File]:
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
    from botocore.exceptions import ClientError

    from etl.s3.client import s3_errors

    uri = f"{S3_SCHEME}{bucket}/{key}"
    with s3_errors("s3:GetObject", uri):
        try:
            head = client_for(region).head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                raise SourceError(f"there is no object {uri}, or no such bucket; check path") from error
            raise
    return S3File(bucket, key, head["ContentLength"], head["ETag"], region)


def _matching(bucket: str, prefix: str, pattern: Sequence[str], region: str | None) -> Iterator[S3File]:
    from etl.s3.client import s3_errors

    with s3_errors("s3:ListBucket", f"{S3_SCHEME}{bucket}/{prefix}"):
        for page in client_for(region).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                key = entry["Key"]
                if not key.endswith("/") and _matches(key.split("/"), pattern):
                    yield S3File(bucket, key, entry["Size"], entry["ETag"], region)


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


@lru_cache(maxsize=4)  # making one takes half a second, and a pattern may find a thousand files
def _client(region: str | None, _process: int, _settings: tuple[tuple[str, str], ...]) -> S3Client:
    from etl.s3.client import make_client

    return make_client(region)
