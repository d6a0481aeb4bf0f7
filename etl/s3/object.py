"""The layout of one object: it appears whole when its PUT or multipart upload completes; its history is the bucket's.

Encoding and upload go on while later batches are still being cleaned. Content of less than one part travels in a
single PUT at the commit; more is a multipart upload that is completed at the commit or aborted. Both are conditional:
the object must still be the one that was there when the run began to write, else the run has lost a race and stops.

On the object, as metadata: ``etl-run-id``, ``etl-recipe`` (source, configuration and code), ``etl-source`` (the
source's fingerprint) and, for a single PUT, ``etl-rows`` and ``etl-sha256``. S3 takes the metadata of a multipart
upload before its content is known; rows and sha256 are then in ``_runs/<run id>.json`` beside the object. Metadata
cannot be changed without a new version: recipes that were found to give the same content are in notes beside it, see
``etl/repeats.py``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from etl.errors import AccessError, ConfigError, EtlError
from etl.history import Garbage, Version
from etl.run import Live, Published, Receipt, Run
from etl.s3.bodies import crc32_text
from etl.s3.client import LostRace, UploadGone
from etl.s3.copy import copy_version
from etl.s3.store import Store
from etl.s3.stored import Stored, only_if

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.loaders.s3 import S3Loader

_MOST_VERSIONS = 100
_LOOKERS = 8

log = logging.getLogger(__name__)


class ObjectLayout:
    """What ``S3Loader`` does when it is given a key."""

    def __init__(self, loader: S3Loader, key: str) -> None:
        self.loader = loader
        self.key = key

    def live(self) -> Live | None:
        stored = self.loader.store().head(self.key)
        if stored is None:
            return None
        told = stored.metadata
        return Live(self.loader.uri, told.get("etl-run-id"), told.get("etl-recipe"), _identity(stored))

    def write(self, batches: Iterator[DataFrame], run: Run) -> Receipt:
        from etl.formats.encoders import encode
        from etl.formats.hashed import HashedStream
        from etl.s3.upload import Upload

        loader = self.loader
        store = loader.store()
        before = store.head(self.key)
        upload = Upload(store, self.key, loader.data_options(run), loader.part_bytes, loader.parts_in_flight)
        sink = HashedStream(upload)
        try:
            rows, schema = encode(batches, sink, loader.file_format, loader, run.descriptions)
            detail = {**upload.finish(), "crc32": crc32_text(sink.crc32), "before": before}
        except BaseException:
            upload.cancel()
            self._abort(upload.upload_id)
            raise
        types = {field.name: str(field.type) for field in schema}
        return Receipt(rows, sink.size, sink.sha256.hexdigest(), types, detail)

    def commit(self, receipts: Sequence[Receipt], run: Run) -> Published:
        if len(receipts) != 1:
            raise EtlError(f"one object is made of one part of the work, not of {len(receipts)}; use prefix")
        receipt = receipts[0]
        store = self.loader.store()
        stored: Stored | None = receipt.detail["before"]
        if stored and not run.force and self._holds(store, stored, receipt):
            self.abort(receipts)
            changed, identity = False, _identity(stored)
        else:
            stored = self._publish(store, receipt, run)
            changed, identity = True, None
            self._abort_strays(store)
        published = (self.loader.uri, receipt.rows, receipt.bytes, receipt.sha256, receipt.schema)
        return Published(*published, stored.version_id if stored else None, changed, identity)

    def abort(self, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            self._abort(receipt.detail.get("upload_id"))

    def check(self) -> str:
        """Prove that an object could be written, without writing one: start an upload and abort it."""
        store = self.loader.store()
        store.check_bucket(self.key)
        store.abort_upload(self.key, store.start_upload(self.key))
        return f"may write to {self.loader.uri}"

    def versions(self) -> list[Version]:
        """At most the newest 100. Takes s3:ListBucketVersions and s3:GetObjectVersion."""
        store = self.loader.store()
        found = list(islice(store.versions(self.key), _MOST_VERSIONS))
        with ThreadPoolExecutor(_LOOKERS) as pool:
            described = pool.map(lambda version: store.head(self.key, version[0]), found)
            pairs = zip(described, found, strict=True)
            return [self._version(store, each, live=live) for each, (_, live) in pairs if each]

    def rollback(self, run_id: str) -> Version:
        """Copy the version that ``run_id`` published onto the key. The versions in between stay in the history."""
        store = self.loader.store()
        for version_id, live in store.versions(self.key):
            version = store.head(self.key, version_id)
            if version is None or version.metadata.get("etl-run-id") != run_id:
                continue
            if not live:
                options = {"StorageClass": self.loader.storage_class} if self.loader.storage_class else {}
                now = store.head(self.key)
                copy_version(store, version, only_if(now.etag if now else None), **options)
            return self._version(store, version, live=True)
        raise ConfigError(f"{self.loader.uri} has no version of run {run_id} (is the bucket versioned?)")

    def sweep(self, grace: timedelta, *, apply: bool) -> list[Garbage]:
        """Unfinished uploads of this object. Old versions are for the bucket's lifecycle to expire."""
        store = self.loader.store()
        latest = datetime.now(UTC) - grace
        old = [(upload_id, began) for upload_id, began in store.uploads(self.key) if began < latest]
        if apply:
            for upload_id, _ in old:
                store.abort_upload(self.key, upload_id)
        return [Garbage(f"{self.loader.uri} (upload {upload_id[:12]})", 0, began) for upload_id, began in old]

    def _publish(self, store: Store, receipt: Receipt, run: Run) -> Stored | None:
        """Make the receipt's content the object, and prove that it arrived; what is there then, if we may look."""
        detail = receipt.detail
        before: Stored | None = detail["before"]
        condition = only_if(before.etag if before else None)
        try:
            if "upload_id" in detail:
                upload = (detail["upload_id"], detail["parts"], receipt.bytes, detail["crc32"])
                store.complete_upload(self.key, *upload, condition)
            else:
                options = self.loader.data_options(run, rows=str(receipt.rows), sha256=receipt.sha256)
                store.put(self.key, detail["body"], condition, crc32=detail["crc32"], **options)
        except (LostRace, UploadGone) as error:
            # Either somebody else was first, or this very request took effect before and its reply was lost.
            stored = store.head(self.key)
            if stored is None and before is None and isinstance(error, LostRace):
                raise AccessError(
                    f"{self.loader.uri} exists, but may not be looked at: ask for s3:GetObject"
                ) from error
            if not (stored and _is_from(stored, run)):
                raise
        else:
            stored = store.head(self.key)
        if stored and _is_from(stored, run) and stored.holds(receipt.bytes, detail["crc32"], receipt.sha256) is False:
            raise EtlError(f"{self.loader.uri} was damaged on its way: roll back to the version before, and run again")
        return stored

    def _holds(self, store: Store, stored: Stored, receipt: Receipt) -> bool:
        """Whether the object has the receipt's content already, encrypted as it should be now."""
        if stored.bytes != receipt.bytes:
            return False
        if self.loader.encrypted_as and not (stored.encryption or "").startswith(self.loader.encrypted_as):
            return False
        told = stored.metadata.get("etl-sha256") or self._reported(store, stored).get("sha256")
        return bool(told == receipt.sha256)

    def _reported(self, store: Store, stored: Stored) -> dict[str, Any]:
        """What the report of the run that published it says about it; empty if there is none."""
        run_id = stored.metadata.get("etl-run-id")
        if run_id is None:
            return {}
        try:
            content = store.get(self.loader.beside(f"_runs/{run_id}.json"))
            return (json.loads(content[0]).get("published") if content else None) or {}
        except (AccessError, ValueError):
            return {}

    def _version(self, store: Store, stored: Stored, *, live: bool) -> Version:
        rows = stored.metadata.get("etl-rows") or self._reported(store, stored).get("rows")
        run_id = stored.metadata.get("etl-run-id", "-")
        return Version(run_id, stored.modified, None if rows is None else int(rows), stored.bytes, live)

    def _abort_strays(self, store: Store) -> None:
        """Abort what earlier runs left when they were killed.

        Only now, after publishing: if one of them belongs to a run that is alive on another machine, that run has
        lost the race already, because the object is no longer the one that it saw. Before, or in a run that publishes
        nothing, we would have ended a healthy one.
        """
        try:
            for upload_id, _ in store.uploads(self.key):
                log.info("Aborting an upload of %s that an earlier run left", self.loader.uri)
                store.abort_upload(self.key, upload_id)
        except EtlError as error:
            log.warning("Unfinished uploads may be left; the bucket's lifecycle should expire them: %s", error)

    def _abort(self, upload_id: str | None) -> None:
        """Abort quickly, if it can be done: a run that is being stopped has few seconds left."""
        if upload_id is None:
            return
        try:
            self.loader.store(hurried=True).abort_upload(self.key, upload_id)
        except EtlError as error:
            log.warning("An unfinished upload stays behind; the bucket's lifecycle should expire it: %s", error)


def _identity(stored: Stored) -> str:
    """The version id alone is not enough: without versioning there is none, and equal content has an equal ETag."""
    return f"run {stored.metadata.get('etl-run-id')}, ETag {stored.etag}, version {stored.version_id}"


def _is_from(stored: Stored, run: Run) -> bool:
    return stored.metadata.get("etl-run-id") == run.id
