"""Reads a CSV file inside a zip that a web server has."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, PrivateAttr

from etl.base import Extractor
from etl.engine import import_in_background
from etl.errors import RetryLater, SourceError
from etl.files.csv_options import CsvOptions
from etl.files.safe_zip import DamagedZipError, ZipLimits, looks_like_zip, open_member
from etl.http.addresses import WebUrl
from etl.http.cache import Stored, Version
from etl.http.download import HEAD_BYTES, DownloadOptions, discard, fetch, peek
from etl.ledger import Account
from etl.paths import cache_folder
from etl.redact import redact
from etl.run import Source

if TYPE_CHECKING:
    from pandas import DataFrame

_READER = "etl.files.csv_reader"  # and pandas with it


class ZipUrlExtractor(DownloadOptions, ZipLimits, Extractor):
    """Downloads a zip (only if it changed) and reads one CSV file out of it, without ever unpacking it to disk."""

    url: WebUrl = Field(description="Address of the zip: https://, or http:// on this machine itself.")
    member: str | None = Field(
        default=None,
        description="Name of the CSV file in the zip, or a pattern such as */sets.csv. Default: the only one.",
    )
    csv: CsvOptions = Field(default=CsvOptions(), description="How the CSV file is written.")
    cache_dir: Path = Field(
        default_factory=cache_folder,
        exclude=True,  # where the download lies changes no result
        description="Folder for downloads. Default: ETL_CACHE_DIR, or .cache in the project.",
    )

    _inspected: Stored | None = PrivateAttr(default=None)

    @property
    def _shown_url(self) -> str:
        return redact(self.url)

    def inspect(self) -> Source:
        """Download the zip if it changed, and make sure that the member can be opened."""
        download, uri = self._fetch()
        self._inspected = download
        version = download.version
        return Source(uri, download.sha256, version.etag, version.last_modified, download.size)

    def check(self) -> str:
        """Ask the server for the first bytes only."""
        head, version = peek(self.url, self)
        self._check_is_zip(head, version)
        size = f"{version.length:,} bytes" if version.length is not None else "size unknown"
        return f"reachable: {self._shown_url}, {size}, last modified {version.last_modified or 'unknown'}"

    def read(self, account: Account) -> Iterator[DataFrame]:
        """Read the zip that ``inspect`` saw last; without it, what the server has now."""
        from etl.files.csv_reader import read_csv

        try:
            download = self._inspected_again()
            with open_member(download.path, self.member, self, self._shown_url) as stream:
                yield from read_csv(stream, self.csv, account, batch_rows=self.batch_rows, source=stream.name)
        except DamagedZipError as error:
            discard(self.url, self.cache_dir)
            raise DamagedZipError(f"{error.message}; run again to download it afresh") from error

    def _inspected_again(self) -> Stored:
        """What ``inspect`` saw: its file, or if that is gone (another machine, another run) the same bytes again."""
        seen = self._inspected
        if seen and seen.path.exists():
            return seen
        download, _ = self._fetch()
        if seen and download.sha256 != seen.sha256:
            raise RetryLater(f"{self._shown_url} changed after this run began; run again")
        return download

    def _fetch(self) -> tuple[Stored, str]:
        """The zip, and the uri of its member. One that is damaged is fetched once more.

        A body without Content-Length can be cut short and look complete.
        """
        try:
            return self._fetch_once()
        except DamagedZipError:
            discard(self.url, self.cache_dir)
            return self._fetch_once()

    def _fetch_once(self) -> tuple[Stored, str]:
        download = fetch(self.url, self.cache_dir, self, meanwhile=partial(import_in_background, _READER))
        with download.path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        try:
            self._check_is_zip(head, download.version)
        except SourceError:
            discard(self.url, self.cache_dir)
            raise
        with open_member(download.path, self.member, self, self._shown_url) as stream:
            return download, stream.name

    def _check_is_zip(self, head: bytes, version: Version) -> None:
        if not looks_like_zip(head):
            raise SourceError(
                f"{self._shown_url}: the server sent {version.content_type or 'something'} that is not a zip: "
                f"it begins with {head[:40]!r}; open the address in a browser to see what it says"
            )
