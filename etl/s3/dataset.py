"""The layout of a dataset: immutable files and manifests, and one pointer whose conditional write is the commit.

    <prefix>data/<recipe or run id>/year=2026/part-00000-<sha16>.parquet    written once, never changed
    <prefix>_manifests/<run id>-<sha16>.json                                what one version consists of
    <prefix>_current.json                                                   which manifest is live

Whoever reads goes pointer -> manifest -> files, and so sees one whole version, whatever happens meanwhile. Files are
named by their content, in a folder that is the same for an equal recipe: a run that repeats a killed one finds what is
there already. Files that the live version has with the same content, and that are still there, are taken over from it.
A run that finds all of its content live writes none of this; ``etl/repeats.py`` says how its recipe is remembered.
Nothing is deleted but by ``sweep``: what a run that failed has stored, a run on another machine may be about to use.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from etl.errors import ConfigError, DataError, EtlError, RetryLater
from etl.figures import summed
from etl.redact import redact
from etl.run import Live, Published, Receipt, Run
from etl.s3.client import Denied, LostRace, NoConditions
from etl.s3.history import DatasetHistory
from etl.s3.manifest import DataFile, Entry, Manifest, Share, digest, pointer_to
from etl.s3.pointer import DATA, Catalog, Seen, folder_of
from etl.s3.replays import replayed_by
from etl.s3.store import NO_CONDITIONS

if TYPE_CHECKING:
    import pyarrow as pa
    from pandas import DataFrame

_SHAPE = ("file_format", "format_options", "partition_by", "schema", "arrow_schema")

log = logging.getLogger(__name__)


class DatasetLayout(DatasetHistory):
    """What ``S3Loader`` does when it is given a prefix."""

    def live(self) -> Live | None:
        seen = self.loader.catalog().look()
        if seen is None:
            return None
        pointer = seen.pointer
        return Live(self.loader.uri, pointer.run_id, pointer.recipe, pointer.manifest, pointer.state)

    def figures(self) -> dict[str, Any] | None:
        """Of the rows that the last run has added, replays aside."""
        catalog = self.loader.catalog()
        seen = catalog.look()
        shares = catalog.manifest(seen.pointer.manifest).shares if seen else ()
        return next((share.figures for share in reversed(shares) if share.replays is None), None) or None

    def write(self, batches: Iterator[DataFrame], run: Run) -> Receipt:
        from etl.s3.inflight import InFlight
        from etl.s3.parts import Cutter
        from etl.s3.sending import Sender
        from etl.tables.one_schema import arrow_tables

        loader, catalog = self.loader, self.loader.catalog()
        seen = catalog.look()
        live = catalog.manifest(seen.pointer.manifest) if seen else None
        schema, tables = arrow_tables(batches)
        shape = self._shape(schema)
        if self._adds(run) and live is not None:
            _check_fits(shape, live, loader.uri)
        # Not where rows are added: one file would stand for those of two runs.
        reusable = _there(catalog, live.files) if live is not None and not self._adds(run) else []
        sender = Sender(catalog, loader, run, reusable)
        sending: InFlight[DataFile] = InFlight(catalog.store, loader.parts_in_flight)
        with TemporaryDirectory(prefix="etl-") as folder, sending:
            cutter = Cutter(schema, Path(folder), loader, run)
            for part in cutter.parts(tables):
                sending.add(sender.store, *part)
            if not sending and not loader.partition_by and (live is None or not self._adds(run)):
                sending.add(sender.store, *cutter.empty_part())
            files = sending.results()
        detail = {"files": files, "etag": seen.etag if seen else None, "shape": shape}
        rows, size = sum(file.rows for file in files), sum(file.bytes for file in files)
        return Receipt(rows, size, digest(files), shape["schema"], detail)

    def commit(self, receipts: Sequence[Receipt], run: Run) -> Published:
        catalog = self.loader.catalog()
        # A pointer that could be read before must be readable now: not to see it is no lost race.
        seen = catalog.pointer() if any(receipt.detail["etag"] for receipt in receipts) else catalog.look()
        live = catalog.manifest(seen.pointer.manifest) if seen else None
        manifest = self._manifest(receipts, run, seen, live)
        share = manifest.shares[-1]
        sha256 = digest([file for receipt in receipts for file in receipt.detail["files"]])
        published = (self.loader.uri, share.rows, share.bytes, sha256, manifest.schema)
        if live is not None and live.run_id == run.id:  # this commit, repeated
            return Published(*published)
        if any(receipt.detail["etag"] != (seen.etag if seen else None) for receipt in receipts):
            raise LostRace(f"lost race: another run has published to {self.loader.uri} meanwhile; run again")
        if run.state is not None and run.after != (live.run_id if live else None):
            raise LostRace(f"lost race: {self.loader.uri} is not what this run has continued any more; run again")
        if seen is not None and live is not None and not run.force and self._has(live, manifest, run):
            return Published(*published, changed=False, identity=seen.pointer.manifest)
        if self.loader.mode == "append" and live is not None and not run.force:
            _check_not_there(share, live, self.loader.uri)
        self._check_arrived(catalog, manifest, run)
        path = catalog.add_manifest(manifest)
        if seen is None and not self.loader.single_writer and not catalog.keeps_conditions(path, manifest.to_json()):
            raise NoConditions(f"{self.loader.uri}: {NO_CONDITIONS}")
        entry = Entry(run.id, path, manifest.published_at, manifest.rows, manifest.bytes)
        versions = (*(seen.pointer.versions if seen else ()), entry)[-self.loader.keep_versions :]
        version_id = catalog.swap(pointer_to(manifest, path, versions), seen.etag if seen else None)
        return Published(*published, version_id=version_id)

    def abort(self, receipts: Sequence[Receipt]) -> None:
        """What was stored stays for ``sweep``: it cannot be seen, and another run may be using it."""

    def check(self) -> str:
        """Prove that files can be written, and only under the conditions that keep two runs apart."""
        catalog = self.loader.catalog()
        catalog.store.check_bucket(catalog.prefix)
        catalog.look()
        path = f"{DATA}_check-{token_hex(6)}"
        catalog.put_new(path, b"")
        keeps = self.loader.single_writer or catalog.keeps_conditions(path, b"")
        try:
            catalog.store.delete(catalog.prefix + path)
        except Denied:
            log.warning("May not delete %s%s, an empty object; sweep will", self.loader.uri, path)
        if not keeps:
            raise NoConditions(f"{self.loader.uri}: {NO_CONDITIONS}")
        return f"may publish to {self.loader.uri}"

    def _manifest(self, receipts: Sequence[Receipt], run: Run, seen: Seen | None, live: Manifest | None) -> Manifest:
        """The version that this run makes: its own files, after those of the live version when it appends."""
        shape = _common_shape(receipts)
        files: list[DataFile] = [file for receipt in receipts for file in receipt.detail["files"]]
        rows, size = sum(file.rows for file in files), sum(file.bytes for file in files)
        figures = summed(receipt.figures for receipt in receipts)
        content, source = digest(files) if files else None, run.source.fingerprint
        if run.state is not None:  # what is new is new, whatever it looks like
            content, source = None, None
        share = Share(run.id, run.recipe, content, rows, size, source, run.replays, figures)
        shares, kept, state = [share], [], dict(run.state or {})
        if self._adds(run) and live is not None:
            _check_fits(shape, live, self.loader.uri)
            others = [old for old in live.shares if not _is_same(old, share)]  # with force, a run takes its own place
            if run.replays is None:
                others = [replace(old, figures={}) for old in others]
            staying = {old.run_id for old in others}
            shares, kept = [*others, share], [file for file in live.files if file.run_id in staying]
            state = {**live.state, **state}
        return Manifest(
            run_id=run.id,
            pipeline=run.pipeline,
            published_at=datetime.now(UTC).isoformat(timespec="seconds"),
            recipe=run.recipe,
            source=redact(run.source.uri),
            mode=self.loader.mode,
            parent=seen.pointer.manifest if seen else None,
            **shape,
            rows=sum(old.rows for old in shares),
            bytes=sum(old.bytes for old in shares),
            shares=tuple(shares),
            files=(*kept, *files),
            state=state,
        )

    def _check_arrived(self, catalog: Catalog, manifest: Manifest, run: Run) -> None:
        """The last look before readers are sent to them: a long run's first files may have been swept away."""
        folder = folder_of(run)
        ours = [file for file in manifest.files if file.path.startswith(folder)]
        if ours and (lost := catalog.lost(ours, folder)):
            raise RetryLater(
                f"{len(lost):,} files of this run are gone, such as {catalog.uri}{lost[0].path}; run again"
            )

    def _adds(self, run: Run) -> bool:
        return self.loader.mode == "append" or run.replays is not None

    def _has(self, live: Manifest, manifest: Manifest, run: Run) -> bool:
        """Whether the live version has everything that this run would publish."""
        share = manifest.shares[-1]
        if run.replays is not None:
            return replayed_by(live, run.replays, self.loader.uri) is not None or share.rows == 0
        if self.loader.mode == "append":
            return any(_is_same(old, share) for old in live.shares)
        alike = all(getattr(live, name) == getattr(manifest, name) for name in _SHAPE)
        there = {file.path for file in manifest.files} <= {file.path for file in live.files}
        return alike and there and [old.content for old in live.shares] == [share.content]

    def _shape(self, schema: pa.Schema) -> dict[str, Any]:
        """What the files of one version have in common: the manifest's fields about it."""
        is_csv = self.loader.file_format.startswith("csv")
        return {
            "file_format": self.loader.file_format,
            "format_options": self.loader.csv.model_dump(mode="json") if is_csv else {},
            "partition_by": self.loader.partition_by,
            "schema": {field.name: str(field.type) for field in schema},
            "arrow_schema": base64.b64encode(schema.serialize()).decode(),
        }


def _there(catalog: Catalog, files: Sequence[DataFile]) -> list[DataFile]:
    """Those that nobody has deleted."""
    lost = {file.path for file in catalog.lost(files)}
    return [file for file in files if file.path not in lost]


def _is_same(old: Share, new: Share) -> bool:
    """Whether two runs added the same: their recipes are equal, or their files are."""
    return (new.recipe is not None and new.recipe == old.recipe) or (
        new.content is not None and new.content == old.content
    )


def _check_not_there(new: Share, live: Manifest, uri: str) -> None:
    """Raise if the live version has the rows of this very source, made by other code or options."""
    for old in live.shares:
        if new.source is not None and old.source == new.source:
            raise ConfigError(
                f"{uri} has the rows of this source already, as run {old.run_id} made them, and mode is append: "
                f"`replay {old.run_id}` adds those that it rejected, --force adds all of them once more"
            )


def _common_shape(receipts: Sequence[Receipt]) -> dict[str, Any]:
    if not receipts:
        raise EtlError("there is nothing to commit, not even an empty receipt")
    shape: dict[str, Any] = receipts[0].detail["shape"]
    for receipt in receipts[1:]:
        if receipt.detail["shape"] != shape:
            difference = _difference(shape["schema"], receipt.detail["shape"]["schema"])
            raise DataError(f"parts of the run differ in columns or types: {difference}")
    return shape


def _check_fits(shape: dict[str, Any], live: Manifest, uri: str) -> None:
    """Raise unless files of ``shape`` may join those of the live version."""
    for name in ("file_format", "format_options", "partition_by"):
        if shape[name] != getattr(live, name):
            there, here = getattr(live, name), shape[name]
            raise ConfigError(
                f"{uri} was written with {name} = {there!r}, now it is {here!r}; publish it anew (replace)"
            )
    if shape["schema"] != live.schema or list(shape["schema"]) != list(live.schema):
        difference = _difference(live.schema, shape["schema"])
        raise DataError(
            f"rows do not fit those of {uri}: {difference}. Mend the transformers, or publish it anew (replace)"
        )


def _difference(old: dict[str, str], new: dict[str, str]) -> str:
    changes = [f"{name} is missing" for name in old if name not in new]
    changes += [f"{name} is new" for name in new if name not in old]
    changes += [f"{name} is {new[name]}, was {old[name]}" for name in new if name in old and new[name] != old[name]]
    return "; ".join(changes) or "the columns are in another order"
