"""Stores a finished file of a dataset: in one PUT, and not at all if its content is there already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from etl.run import Run
from etl.s3.client import LostRace
from etl.s3.manifest import DataFile
from etl.s3.pointer import Catalog
from etl.s3.stored import Stored, only_if

if TYPE_CHECKING:
    from etl.loaders.s3 import S3Loader

# A file that no version names may be swept when it is a day old; one that is getting on is sent again.
_REUSABLE = timedelta(hours=12)


class Sender:
    """Stores the files of one run. ``known``: files that are there, and may be taken over."""

    def __init__(self, catalog: Catalog, loader: S3Loader, run: Run, known: Sequence[DataFile]) -> None:
        self._catalog = catalog
        self._loader = loader
        self._run = run
        self._known = {file.content: file for file in known}

    def store(self, path: Path, file: DataFile) -> DataFile:
        """Store what is at ``path``, and remove it there; gives what the manifest says of it."""
        known = self._known.get(file.content)
        if known is not None:
            file = replace(file, path=known.path, version_id=known.version_id)
        else:
            file = replace(file, version_id=self._send(path, file))
        path.unlink()
        return file

    def _send(self, path: Path, file: DataFile) -> str | None:
        """The version id of the object, sent now or before."""
        store, key = self._catalog.store, self._catalog.prefix + file.path
        there = store.head(key)
        if there is not None and _is_fresh(there) and _holds(there, file):
            return there.version_id
        condition = only_if(there.etag if there else None)
        options = self._loader.data_options(self._run, rows=str(file.rows), sha256=file.sha256)
        try:
            reply = store.put(key, path, condition, crc32=file.crc32, **options)
        except LostRace:  # somebody else with the same content, or this very request, whose reply was lost
            there = store.head(key)
            if there is None or not _holds(there, file):
                raise
            return there.version_id
        version_id: str | None = reply.get("VersionId")
        return version_id


def _holds(there: Stored, file: DataFile) -> bool | None:
    return there.holds(file.bytes, file.crc32, file.sha256)


def _is_fresh(there: Stored) -> bool:
    return datetime.now(UTC) - there.modified < _REUSABLE
