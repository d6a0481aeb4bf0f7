"""Downloads one file into a cache on disk: only if it changed, resuming what broke, within limits of size and time."""

from __future__ import annotations

import email.utils
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from pydantic import Field, PositiveInt

from etl.errors import ConfigError, DataError, RetryLater, SourceError, StorageError
from etl.http.body import CHUNK_BYTES, body_chunks, encoding_of
from etl.http.request import Patience, TransientError, WebOptions, ask, url_problem, web_session
from etl.paths import put_in_place
from etl.progress import progress
from etl.redact import redact

if TYPE_CHECKING:
    from requests import Response, Session

HEAD_BYTES = 64
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger(__name__)


class DownloadOptions(WebOptions):
    """What a download may be, besides how it is asked for."""

    sha256: str | None = Field(
        default=None, pattern="^[0-9a-fA-F]{64}$", description="The SHA-256 that the file must have, in hex."
    )
    max_bytes: PositiveInt = Field(default=5 << 30, description="Largest accepted download, in bytes.")


@dataclass(frozen=True)
class Download:
    """A file that is complete on disk. ``url`` is redacted; ``fresh``: it came just now, not from the cache."""

    path: Path
    url: str
    sha256: str
    bytes: int
    etag: str | None
    last_modified: str | None
    content_type: str | None
    fresh: bool


@dataclass(frozen=True)
class Peek:
    """What a server says about a file, and its first bytes. ``url`` is redacted."""

    url: str
    head: bytes
    bytes: int | None
    last_modified: str | None
    content_type: str | None


def fetch(url: str, folder: Path, options: DownloadOptions, meanwhile: Callable[[], None] = lambda: None) -> Download:
    """Return the file at ``url``, from the cache in ``folder`` if the server says that it has not changed.

    ``meanwhile``: called when the server begins to send the file; must return at once.
    Raises ConfigError, SourceError, AccessError, RetryLater, DataError (too large, other hash) or StorageError.
    """
    _check_url(url, options)
    started = time.monotonic()
    patience = Patience(options)
    entry = _Entry(folder, url)
    with entry.locked(patience), web_session() as session:
        download = _Fetching(url, options, entry, patience, session, meanwhile).fetch()
    if options.sha256 and download.sha256 != options.sha256.lower():
        entry.clear()
        raise DataError(
            f"{download.url}: its sha256 is {download.sha256}, not {options.sha256.lower()} as the option sha256 says; "
            "if the change is known to be right, change the option"
        )
    if download.fresh:
        log.info("Downloaded %s: %s bytes in %.1f s", download.url, f"{download.bytes:,}", time.monotonic() - started)
    else:
        log.info("Not changed since it was last downloaded: %s", download.url)
    return download


def discard(url: str, folder: Path) -> None:
    """Forget the file that the cache in ``folder`` holds of ``url``; the next fetch downloads it afresh."""
    _Entry(folder, url).clear()


def peek(url: str, options: DownloadOptions) -> Peek:
    """Ask once for the first bytes of the file at ``url``. Raises as fetch does."""
    _check_url(url, options)
    patience, head = Patience(options), b""
    with web_session() as session:
        try:
            response = ask(session, url, options, patience, {"Range": f"bytes=0-{HEAD_BYTES - 1}"})
            with closing(response):
                for chunk in body_chunks(response, url, options, patience):
                    head += chunk
                    if len(head) >= HEAD_BYTES:
                        break
        except TransientError as error:
            raise SourceError(f"{redact(url)}: {error}; try again later") from error
    version = _Version.of(response)
    return Peek(redact(url), head[:HEAD_BYTES], version.length, version.last_modified, version.content_type)


def _check_url(url: str, options: DownloadOptions) -> None:
    problem = url_problem(url, allow_http=options.allow_http)
    if problem:
        raise ConfigError(problem)


# -- over the wire ----------------------------------------------------------------------------------


class _UselessPartError(TransientError):
    """What was downloaded so far does not fit what the server holds now."""


@dataclass(frozen=True)
class _Fetching:
    """One call of fetch."""

    url: str
    options: DownloadOptions
    entry: _Entry
    patience: Patience
    session: Session
    meanwhile: Callable[[], None]

    def fetch(self) -> Download:
        """Try until the file is there. A part that turns out useless is started over, but only once."""
        started_over = False
        while True:
            try:
                return self._try_once()
            except _UselessPartError as failure:
                self.entry.drop_part()
                if started_over:
                    raise SourceError(f"{redact(self.url)}: {failure}, twice; try again later") from failure
                started_over = True
                log.warning("Starting over: %s", failure)
            except TransientError as failure:
                self.patience.wait(self.url, failure)

    def _try_once(self) -> Download:
        """One resuming, conditional or plain request, and its body."""
        part = self.entry.part()
        cached = None if part else self.entry.complete()
        wanted: dict[str, str] = {}
        if part:
            wanted = {"Range": f"bytes={part.size}-", **part.version.if_range()}
        elif cached:
            wanted = cached.version.if_changed()
        with closing(ask(self.session, self.url, self.options, self.patience, wanted)) as response:
            if cached and response.status_code == 304:
                self._check_size(cached.size)
                return cached.as_download(self.url, fresh=False)
            if part and response.status_code in (206, 416):
                _check_continues(response, part)
                version = part.version
            else:
                version = self._begin(response)
            self.meanwhile()
            sha256 = self._receive(response, version)
        return self.entry.finish_part(version, sha256).as_download(self.url, fresh=True)

    def _begin(self, response: Response) -> _Version:
        """Start a new part for a whole body."""
        if response.status_code != 200:
            raise SourceError(
                f"{redact(self.url)}: the server answered {response.status_code} to a plain GET; check the url"
            )
        version = _Version.of(response)
        self._check_size(version.length or 0)
        self.entry.begin_part(version)
        return version

    def _receive(self, response: Response, version: _Version) -> str:
        """Append the body to the part and return the SHA-256 of the whole."""
        body = body_chunks(response, self.url, self.options, self.patience)
        try:
            with self.entry.open_part() as file, progress(f"Downloading {_label(self.url)}", version.length) as advance:
                digest, size = hashlib.sha256(), 0
                for chunk in iter(partial(file.read, CHUNK_BYTES), b""):
                    digest.update(chunk)
                    size += len(chunk)
                    advance(len(chunk))
                self._check_room((version.length or 0) - size)
                for chunk in body:
                    size += len(chunk)
                    self._check_size(size)
                    file.write(chunk)
                    digest.update(chunk)
                    advance(len(chunk))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            self.entry.drop_part()
            raise StorageError(
                f"the disk is full: no room for {redact(self.url)} under {self.entry.folder}; free some"
            ) from error
        if version.length is not None and size != version.length:
            raise TransientError(f"the body ended after {size:,} of {version.length:,} bytes")
        return digest.hexdigest()

    def _check_size(self, size: int) -> None:
        if size > self.options.max_bytes:
            self.entry.drop_part()
            raise DataError(
                f"{redact(self.url)} is larger than max_bytes = {self.options.max_bytes:,}; "
                "raise the limit if the size is right"
            )

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.entry.folder).free
        if needed > free:
            raise StorageError(
                f"{redact(self.url)} needs {needed:,} bytes, but only {free:,} are free under {self.entry.folder}"
            )


def _check_continues(response: Response, part: _Stored) -> None:
    """The answer must be the rest of the very version that the part is from, from where the part ends."""
    if response.status_code == 416:
        raise _UselessPartError(f"the server has no bytes after the {part.size:,} that came before")
    says = response.headers.get("Content-Range", "")
    if not says.startswith(f"bytes {part.size}-"):
        raise _UselessPartError(f"asked for the bytes from {part.size}, the server sent {says or 'no Content-Range'!r}")
    now, then = _Version.of(response), part.version
    pairs = ((now.etag, then.etag), (now.last_modified, then.last_modified), (now.length, then.length))
    if now.encoding or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise _UselessPartError("the file changed while it was downloaded")


def _label(url: str) -> str:
    parts = urlsplit(url)
    return unquote(parts.path.rpartition("/")[2]) or parts.netloc


# -- on disk ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Version:
    """Which version of a file a server sent, as its headers tell. ``length``: of the whole file; None if unknown."""

    etag: str | None
    last_modified: str | None
    settled: bool
    content_type: str | None
    encoding: str
    length: int | None

    @classmethod
    def of(cls, response: Response) -> _Version:
        headers = response.headers
        encoding = encoding_of(response)
        length = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
        return cls(
            etag=headers.get("ETag"),
            last_modified=headers.get("Last-Modified"),
            settled=_is_settled(headers.get("Last-Modified"), headers.get("Date")),
            content_type=headers.get("Content-Type"),
            encoding=encoding,
            length=int(length) if length.isdecimal() and not encoding else None,
        )

    def if_changed(self) -> dict[str, str]:
        """The headers that ask for the file only if it is no longer this version."""
        if self.etag:
            return {"If-None-Match": self.etag}
        return {"If-Modified-Since": self.last_modified} if self.last_modified and self.settled else {}

    def if_range(self) -> dict[str, str]:
        """The headers that ask for a range only if the file still is this version; none if that cannot be asked."""
        if self.encoding or (self.etag or "").startswith("W/"):
            return {}
        if self.etag:
            return {"If-Range": self.etag}
        return {"If-Range": self.last_modified} if self.last_modified and self.settled else {}


def _is_settled(last_modified: str | None, date: str | None) -> bool:
    """Within the second of Last-Modified a file can change again unnoticed (RFC 9110, 8.8.2.2)."""
    try:
        modified, now = (email.utils.parsedate_to_datetime(text or "") for text in (last_modified, date))
        return (now - modified).total_seconds() >= 1
    except (ValueError, TypeError):
        return False


@dataclass(frozen=True)
class _Stored:
    """Bytes on disk, whole or in part, and the version that they are from."""

    path: Path
    size: int
    version: _Version
    sha256: str = ""

    def as_download(self, url: str, *, fresh: bool) -> Download:
        version = self.version
        return Download(
            path=self.path,
            url=redact(url),
            sha256=self.sha256,
            bytes=self.size,
            etag=version.etag,
            last_modified=version.last_modified,
            content_type=version.content_type,
            fresh=fresh,
        )


class _Entry:
    """One url's folder in the cache: ``meta.json`` describes the file that is complete, ``part.json`` one under way.

    A complete file is named by its hash, so whoever holds its path reads what was promised, or finds it gone.
    """

    def __init__(self, cache: Path, url: str) -> None:
        self.folder = cache / hashlib.sha256(url.encode()).hexdigest()[:32]
        self._meta = self.folder / "meta.json"
        self._part = self.folder / "part"
        self._part_meta = self.folder / "part.json"

    @contextmanager
    def locked(self, patience: Patience) -> Iterator[None]:
        """Keep other processes from downloading the same; wait while they do."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _open_private(self.folder / "lock") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if patience.left_s() < 0:
                        raise RetryLater("another process is still downloading the same; try again later") from error
                    time.sleep(0.05)
            yield

    def complete(self) -> _Stored | None:
        """The file as it was last downloaded whole."""
        try:
            meta = json.loads(self._meta.read_bytes())
            stored = _Stored(self._body(meta["sha256"]), meta["bytes"], _Version(**meta["version"]), meta["sha256"])
            return stored if stored.path.stat().st_size == stored.size else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def part(self) -> _Stored | None:
        """The beginning of a file whose rest can be asked for."""
        try:
            stored = _Stored(
                self._part, self._part.stat().st_size, _Version(**json.loads(self._part_meta.read_bytes()))
            )
        except (OSError, ValueError, TypeError):
            return None
        return stored if stored.size and stored.version.if_range() else None

    def begin_part(self, version: _Version) -> None:
        self.drop_part()
        _write_json(self._part_meta, asdict(version))

    def open_part(self) -> BinaryIO:
        return _open_private(self._part)

    def drop_part(self) -> None:
        self._part.unlink(missing_ok=True)
        self._part_meta.unlink(missing_ok=True)

    def finish_part(self, version: _Version, sha256: str) -> _Stored:
        """Make the part the complete file. Killed at any point, there is a complete file as before or as after."""
        stored = _Stored(self._body(sha256), self._part.stat().st_size, version, sha256)
        self._part.replace(stored.path)
        _write_json(self._meta, {"sha256": sha256, "bytes": stored.size, "version": asdict(version)})
        self._part_meta.unlink(missing_ok=True)
        for body in self.folder.glob("*.body"):
            if body != stored.path:
                body.unlink()
        return stored

    def clear(self) -> None:
        """Forget the complete file. Whoever has just found its path will find it gone."""
        self._meta.unlink(missing_ok=True)
        for body in self.folder.glob("*.body"):
            body.unlink()

    def _body(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.body"


def _open_private(path: Path) -> BinaryIO:
    """Open for reading and writing, made if need be; nobody else can read it, and no link leads elsewhere."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+b")


def _write_json(path: Path, content: object) -> None:
    """Replace ``path`` at once and durably: after a power cut it is the old file or the new one."""
    new = path.with_suffix(".new")
    with _open_private(new) as file:
        file.truncate()
        file.write(json.dumps(content, indent=1).encode())
        file.flush()
        os.fsync(file.fileno())
    put_in_place(new, path)
