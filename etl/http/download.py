"""Downloads one file into a cache on disk: only if it changed, resuming what broke, within limits of size and time."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pydantic import Field, PositiveInt

from etl.errors import DataError, SourceError, StorageError
from etl.http.body import CHUNK_BYTES, body_chunks
from etl.http.cache import CacheEntry, Stored, Version
from etl.http.request import Patience, TransientError, WebOptions, WebSession, ask
from etl.progress import progress
from etl.redact import redact

if TYPE_CHECKING:
    from requests import Response

HEAD_BYTES = 64
_ASKED_BYTES = 4 * HEAD_BYTES  # of an encoded body, a part gives fewer bytes than it has if it cannot be compressed
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger(__name__)


class DownloadOptions(WebOptions):
    """What a download may be, besides how it is asked for."""

    sha256: str | None = Field(
        default=None, pattern="^[0-9a-fA-F]{64}$", description="The SHA-256 that the file must have, in hex."
    )
    max_bytes: PositiveInt = Field(default=5 << 30, description="Largest accepted download, in bytes.")


def fetch(url: str, folder: Path, options: DownloadOptions, meanwhile: Callable[[], None] = lambda: None) -> Stored:
    """Return the file at ``url``, from the cache in ``folder`` if the server says that it has not changed.

    ``meanwhile``: called when the server begins to send the file; must return at once.
    Raises ConfigError, SourceError, AccessError, RetryLater, DataError (too large, other hash) or StorageError.
    """
    started = time.monotonic()
    patience = Patience(options)
    entry = CacheEntry(folder, url)
    with entry.locked(patience), WebSession() as session:
        stored = _Fetching(url, options, entry, patience, session, meanwhile).fetch()
    if options.sha256 and stored.sha256 != options.sha256.lower():
        entry.clear()
        raise DataError(
            f"{redact(url)}: its sha256 is {stored.sha256}, not {options.sha256.lower()} as the option sha256 says; "
            "if the change is known to be right, change the option"
        )
    if stored.fresh:
        log.info("Downloaded %s: %s bytes in %.1f s", redact(url), f"{stored.size:,}", time.monotonic() - started)
    else:
        log.info("Not changed since it was last downloaded: %s", redact(url))
    return stored


def discard(url: str, folder: Path) -> None:
    """Forget the file that the cache in ``folder`` holds of ``url``; the next fetch downloads it afresh."""
    CacheEntry(folder, url).clear()


def peek(url: str, options: DownloadOptions) -> tuple[bytes, Version]:
    """Ask once for the first bytes of the file at ``url``, and which version it is. Raises as fetch does."""
    patience, head = Patience(options), b""
    with WebSession() as session:
        try:
            wanted = {"Range": f"bytes=0-{_ASKED_BYTES - 1}"}
            response = ask(session, url, patience, options.headers, wanted)
            with closing(response):
                for chunk in body_chunks(response, url, patience):
                    head += chunk
                    if len(head) >= HEAD_BYTES:
                        break
        except TransientError as error:
            raise SourceError(f"{redact(url)}: {error}; try again later") from error
    return head[:HEAD_BYTES], Version.of(response)


class _UselessPartError(TransientError):
    """What was downloaded so far does not fit what the server holds now."""


@dataclass(frozen=True)
class _Fetching:
    """One call of fetch."""

    url: str
    options: DownloadOptions
    entry: CacheEntry
    patience: Patience
    session: WebSession
    meanwhile: Callable[[], None]

    def fetch(self) -> Stored:
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

    def _try_once(self) -> Stored:
        """One resuming, conditional or plain request, and its body."""
        part = self.entry.part()
        cached = None if part else self.entry.complete()
        wanted: dict[str, str] = {}
        if part:
            wanted = {"Range": f"bytes={part.size}-", **part.version.if_range()}
        elif cached:
            wanted = cached.version.if_changed()
        with closing(ask(self.session, self.url, self.patience, self.options.headers, wanted)) as response:
            if cached and response.status_code == 304:
                self._check_size(cached.size)
                return cached
            if part and response.status_code in (206, 416):
                _check_continues(response, part)
                version = part.version
            else:
                version = self._begin(response)
            self.meanwhile()
            sha256 = self._receive(response, version)
        return self.entry.finish_part(version, sha256)

    def _begin(self, response: Response) -> Version:
        """Start a new part for a whole body."""
        if response.status_code != 200:
            raise SourceError(
                f"{redact(self.url)}: the server answered {response.status_code} to a plain GET; check the url"
            )
        version = Version.of(response)
        self._check_size(version.length or 0)
        self.entry.begin_part(version)
        return version

    def _receive(self, response: Response, version: Version) -> str:
        """Append the body to the part and return the SHA-256 of the whole."""
        body = body_chunks(response, self.url, self.patience)
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


def _check_continues(response: Response, part: Stored) -> None:
    """The answer must be the rest of the very version that the part is from, from where the part ends."""
    if response.status_code == 416:
        raise _UselessPartError(f"the server has no bytes after the {part.size:,} that came before")
    says = response.headers.get("Content-Range", "")
    if not says.startswith(f"bytes {part.size}-"):
        raise _UselessPartError(f"asked for the bytes from {part.size}, the server sent {says or 'no Content-Range'!r}")
    now, then = Version.of(response), part.version
    pairs = ((now.etag, then.etag), (now.last_modified, then.last_modified), (now.length, then.length))
    if now.encoding or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise _UselessPartError("the file changed while it was downloaded")


def _label(url: str) -> str:
    parts = urlsplit(url)
    return unquote(parts.path.rpartition("/")[2]) or parts.netloc
