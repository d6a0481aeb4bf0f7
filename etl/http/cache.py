"""The cache of downloads on disk: whole files, parts of those that broke off, and which version they are of."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from etl.errors import RetryLater
from etl.http.body import encoding_of
from etl.http.request import Patience, parse_date
from etl.paths import put_in_place

if TYPE_CHECKING:
    from requests import Response


@dataclass(frozen=True)
class Version:
    """Which version of a file a server sent, as its headers tell. ``length``: of the whole file; None if unknown."""

    etag: str | None
    last_modified: str | None
    settled: bool
    content_type: str | None
    encoding: str
    length: int | None

    @classmethod
    def of(cls, response: Response) -> Version:
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
        return (parse_date(date or "") - parse_date(last_modified or "")).total_seconds() >= 1
    except ValueError:
        return False


@dataclass(frozen=True)
class Stored:
    """Bytes on disk, whole or in part, and the version that they are from. ``fresh``: they came just now."""

    path: Path
    size: int
    version: Version
    sha256: str = ""
    fresh: bool = False


class CacheEntry:
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

    def complete(self) -> Stored | None:
        """The file as it was last downloaded whole."""
        try:
            meta = json.loads(self._meta.read_bytes())
            stored = Stored(self._body(meta["sha256"]), meta["bytes"], Version(**meta["version"]), meta["sha256"])
            return stored if stored.path.stat().st_size == stored.size else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def part(self) -> Stored | None:
        """The beginning of a file whose rest can be asked for."""
        try:
            stored = Stored(self._part, self._part.stat().st_size, Version(**json.loads(self._part_meta.read_bytes())))
        except (OSError, ValueError, TypeError):
            return None
        return stored if stored.size and stored.version.if_range() else None

    def begin_part(self, version: Version) -> None:
        self.drop_part()
        _write_json(self._part_meta, asdict(version))

    def open_part(self) -> BinaryIO:
        return _open_private(self._part)

    def drop_part(self) -> None:
        self._part.unlink(missing_ok=True)
        self._part_meta.unlink(missing_ok=True)

    def finish_part(self, version: Version, sha256: str) -> Stored:
        """Make the part the complete file. Killed at any point, there is a complete file as before or as after."""
        stored = Stored(self._body(sha256), self._part.stat().st_size, version, sha256, fresh=True)
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
