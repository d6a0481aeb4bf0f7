"""The history of a dataset, kept in its pointer: listing it, going back in it, sweeping what it does not need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from etl.errors import ConfigError, DataError
from etl.history import Garbage, Version
from etl.s3.client import LostRace
from etl.s3.manifest import Entry, pointer_to
from etl.s3.pointer import DATA, MANIFESTS, Catalog, Seen
from etl.s3.stored import Stored

if TYPE_CHECKING:
    from etl.loaders.s3 import S3Loader

_DELETERS = 8
_NOTHING = "there is no pointer, so nothing is touched"
# What this program writes and nobody else would: sweeping must not touch anything else under the prefix.
_OURS = re.compile(
    r"data/[^/]+/(?:[^/]+=[^/]*/)*part-\d{5,}-[0-9a-f]{16}\.[a-z.]+"
    r"|data/_check-[0-9a-f]{12}"
    r"|_manifests/[^/]+-[0-9a-f]{16}\.json"
)


class DatasetHistory:
    """What was published under one prefix. The pointer lists it, so that what never went live is not in it."""

    def __init__(self, loader: S3Loader) -> None:
        self.loader = loader

    def versions(self) -> list[Version]:
        seen = self.loader.catalog().pointer()
        if seen is None:
            return []
        return [_version(entry, entry.manifest == seen.pointer.manifest) for entry in reversed(seen.pointer.versions)]

    def rollback(self, run_id: str) -> Version:
        """Point back at what ``run_id`` published, if all of its files are still there."""
        catalog = self.loader.catalog()
        seen = catalog.published(_NOTHING)
        entry = next((entry for entry in reversed(seen.pointer.versions) if entry.run_id == run_id), None)
        if entry is None:
            raise ConfigError(f"{catalog.uri} has no version of run {run_id}; `versions` lists what there is")
        manifest = catalog.manifest(entry.manifest)
        lost = catalog.lost(manifest.files)
        if lost:
            raise DataError(f"{len(lost):,} files of run {run_id} are gone, such as {catalog.uri}{lost[0].path}")
        pointer = pointer_to(manifest, entry.manifest, seen.pointer.versions)
        if pointer != seen.pointer:
            catalog.swap(pointer, seen.etag)
        return _version(entry, live=True)

    def sweep(self, grace: timedelta, *, apply: bool) -> list[Garbage]:
        catalog = self.loader.catalog()
        seen = catalog.published(_NOTHING)
        garbage = [stored for stored in _unneeded(catalog, seen) if stored.modified < datetime.now(UTC) - grace]
        if apply:
            now = catalog.pointer()
            if now is None or now.etag != seen.etag:
                raise LostRace(f"something was published to {catalog.uri} meanwhile; nothing was removed, sweep again")
            with ThreadPoolExecutor(_DELETERS) as pool:
                list(pool.map(catalog.store.delete, [stored.key for stored in garbage]))
        return [Garbage(catalog.store.uri(stored.key), stored.bytes, stored.modified) for stored in garbage]


def _unneeded(catalog: Catalog, seen: Seen) -> Iterator[Stored]:
    """What is ours and no version in the pointer's list names."""
    needed = {seen.pointer.manifest, *(entry.manifest for entry in seen.pointer.versions)}
    needed |= {file.path for manifest in tuple(needed) for file in catalog.manifest(manifest).files}
    for folder in (DATA, MANIFESTS):
        for stored in catalog.store.objects(catalog.prefix + folder):
            path = stored.key.removeprefix(catalog.prefix)
            if path not in needed and _OURS.fullmatch(path):
                yield stored


def _version(entry: Entry, live: bool) -> Version:
    when = datetime.fromisoformat(entry.published_at)
    return Version(entry.run_id, when, entry.rows, entry.bytes, live)
