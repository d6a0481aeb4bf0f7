"""Publishes to an Apache Iceberg table, for readers such as Athena, Spark, Trino and DuckDB."""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator
from pyiceberg.exceptions import (
    CommitFailedException,
    NoSuchIcebergTableError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationException,
)

from etl.base import Loader
from etl.errors import ConfigError, DataError, EtlError, RetryLater
from etl.formats.options import ParquetOptions
from etl.iceberg.catalog import IcebergCatalog, iceberg_errors
from etl.ledger import source_row
from etl.run import Live, Published, Receipt, Run

if TYPE_CHECKING:
    import pyarrow as pa
    from pandas import DataFrame
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table, Transaction
    from pyiceberg.table.snapshots import Snapshot

    from etl.iceberg.files import DataFiles

MIB = 1024 * 1024

log = logging.getLogger(__name__)


class IcebergLoader(Loader):
    """Publishes rows as one snapshot of an Iceberg table, which is created if it is not there.

    The data files are written first, where no snapshot names them; one change in the catalog makes them visible. The
    snapshot's summary tells which run, recipe and content made it (``etl.run-id``, ``etl.recipe``, ``etl.sha256``), so
    that a run that is repeated, also after it was killed right after its commit, changes nothing. Other recipes that
    were found to give the same content are in notes beside the table, see ``etl/repeats.py``.

    A table's own types win: rows are cast to them, or refused. Partitioned tables are refused.
    """

    catalog: IcebergCatalog = Field(description="Which catalog knows the table.")
    table: str = Field(description='Namespace and name, such as "lego.sets".', pattern=r"^[\w-]+(\.[\w-]+)+$")
    mode: Literal["replace", "append", "upsert"] = Field(
        default="replace", description="Upsert replaces the rows that have the same keys, and appends the others."
    )
    keys: tuple[str, ...] = Field(default=(), description="For upsert: the columns that tell rows apart, never null.")
    schema_changes: Literal["refuse", "add"] = Field(
        default="refuse",
        description="Rows with other columns than the table: stop, or add columns, widen types and leave nulls.",
    )
    parquet: ParquetOptions = Field(default=ParquetOptions(), description="How the data files are written.")
    max_file_bytes: int = Field(
        default=256 * MIB, ge=1, description="A data file of about this size is closed, the next begun."
    )

    @model_validator(mode="after")
    def _upsert_has_keys(self) -> IcebergLoader:
        if (self.mode == "upsert") != bool(self.keys):
            raise ValueError('mode = "upsert" and keys go together')
        return self

    @property
    def uri(self) -> str:
        return f"{self.catalog.type}:{self.table}"

    def live(self) -> Live | None:
        with iceberg_errors(self.uri):
            snapshot = self._newest(self._find(self.catalog.open()))
        if snapshot is None:
            return None
        told = _told(snapshot)
        return Live(self.uri, told["etl.run-id"], told.get("etl.recipe"), _id(snapshot))

    def write(self, batches: Iterator[DataFrame], run: Run) -> Receipt:
        from etl.iceberg.files import DataFiles, storable
        from etl.tables.keys import KeyIndex
        from etl.tables.one_schema import arrow_tables

        with ExitStack() as stack, iceberg_errors(self.uri):
            if self.mode == "upsert":
                batches = self._with_unique_keys(batches, stack.enter_context(KeyIndex()))
            incoming, tables = arrow_tables(batches)
            incoming = storable(incoming, run.descriptions)
            transaction = self._begin(self.catalog.open(), incoming)
            files = DataFiles(transaction, _stem(run), self.parquet, self.max_file_bytes)
            try:
                rows = files.write(tables)
            except BaseException:
                files.remove()
                raise
        detail = {
            "run_id": run.id,
            "paths": files.paths,
            "incoming": incoming,
            "schema": transaction.table_metadata.schema(),
        }
        types = {field.name: str(field.type) for field in files.schema}
        return Receipt(rows, files.size, files.sha256.hexdigest(), types, detail)

    def commit(self, receipts: Sequence[Receipt], run: Run) -> Published:
        if len(receipts) != 1:
            raise EtlError(f"a snapshot is made of one part of the work, not of {len(receipts)}")
        receipt = receipts[0]
        with iceberg_errors(self.uri):
            catalog = self.catalog.open()
            table = self._find(catalog)
            snapshot = self._same(table, receipt, run)
            changed = snapshot is None
            if changed:
                snapshot = self._publish(catalog, receipt, run)
        if not changed:
            self.abort(receipts)
        identity = None if changed else _id(self._newest(table))
        published = (self.uri, receipt.rows, receipt.bytes, receipt.sha256, receipt.schema)
        return Published(*published, _id(snapshot), changed, identity)

    def abort(self, receipts: Sequence[Receipt]) -> None:
        """Remove the data files, unless they are part of the table by now."""
        from etl.iceberg.files import remove

        for receipt in receipts:
            try:
                catalog = self.catalog.open()
                table = self._find(catalog)
                if _snapshot_of(table, receipt.detail["run_id"]) is None:
                    remove(table or self._begin(catalog, receipt.detail["incoming"])._table, receipt.detail["paths"])
            except Exception as error:  # noqa: BLE001  (an abort must not raise)
                log.warning("Data files that are part of no snapshot stay behind in %s: %s", self.uri, error)

    def check(self) -> str:
        """Prove that a data file could be written, by writing an empty one that is removed again."""
        with iceberg_errors(self.uri):
            catalog = self.catalog.open()
            table = self._find(catalog)
            if table is None:
                return f"may use the catalog; {self.uri} is not there yet and will be created"
            self._check_unpartitioned(table)
            probe = table.io.new_output(f"{table.location()}/data/etl-check-{secrets.token_hex(6)}")
            probe.create().close()
            table.io.delete(probe.location)
        return f"may write to {self.uri} at {table.location()}"

    def adds_rows(self) -> bool:
        return self.mode != "replace"

    def keep(self, name: str, path: Path) -> str | None:
        """Beside the table's own folder, where its maintenance would take it for a leftover and delete it."""
        import pyarrow as pa

        with iceberg_errors(self.uri):
            catalog = self.catalog.open()
            table = self._find(catalog) or self._begin(catalog, pa.schema([("nothing", pa.string())]))._table
            target = _beside(table, name)
            with path.open("rb") as source, table.io.new_output(target).create(overwrite=True) as sink:
                shutil.copyfileobj(source, sink)
        return target

    def kept(self, name: str) -> bytes | None:
        with iceberg_errors(self.uri):
            table = self._find(self.catalog.open())
            file = table.io.new_input(_beside(table, name)) if table else None
            if file is None or not file.exists():
                return None
            with file.open() as stream:
                return bytes(stream.read())

    # -- what is there ---------------------------------------------------------------------------------------------

    def _find(self, catalog: Catalog) -> Table | None:
        try:
            return catalog.load_table(self.table)
        except NoSuchIcebergTableError:  # there is one, of another kind
            raise
        except (NoSuchTableError, NoSuchNamespaceError):
            return None

    def _ours(self, table: Table) -> Iterator[Snapshot]:
        """Our snapshots, newest first. Not past somebody else's, unless rows are only ever added."""
        from pyiceberg.table.snapshots import Operation

        for snapshot in _history(table):
            if "etl.run-id" in _told(snapshot):
                yield snapshot
            elif self.mode != "append" and snapshot.summary and snapshot.summary.operation != Operation.REPLACE:
                return  # a snapshot that is called "replace" holds the same rows in other files

    def _newest(self, table: Table | None) -> Snapshot | None:
        return next(self._ours(table), None) if table else None

    def _same(self, table: Table | None, receipt: Receipt, run: Run) -> Snapshot | None:
        """The snapshot that this run would only repeat."""
        if table is None:
            return None
        if repeated := _snapshot_of(table, run.id):
            return repeated
        if run.force:
            return None
        content = {"etl.sha256": receipt.sha256}
        if self.mode == "append":
            content["etl.source"] = run.source.fingerprint or "unknown"
        ours = self._ours(table) if self.mode == "append" else list(self._ours(table))[:1]
        return next((snapshot for snapshot in ours if content.items() <= _told(snapshot).items()), None)

    # -- what becomes of it ----------------------------------------------------------------------------------------

    def _begin(self, catalog: Catalog, incoming: pa.Schema) -> Transaction:
        """A transaction in which the table exists and has the right columns. Nothing is to be seen of it so far."""
        from pyiceberg.io.pyarrow import UnsupportedPyArrowTypeException, schema_to_pyarrow

        from etl.iceberg.files import additions, check_types

        table = self._find(catalog)
        if table is None:
            catalog.create_namespace_if_not_exists(self.table.rpartition(".")[0])
            try:
                return catalog.create_table_transaction(self.table, incoming)
            except (UnsupportedPyArrowTypeException, ValueError) as error:
                raise DataError(f"{error}. Declare another type in a transformer.") from error
        self._check_unpartitioned(table)
        existing = schema_to_pyarrow(table.schema())
        check_types(incoming, existing)
        transaction = table.transaction()
        if self.schema_changes == "add":
            with transaction.update_schema() as update:
                update.union_by_name(additions(incoming, existing))
        elif set(incoming.names) != set(existing.names):
            raise DataError(_drift(incoming.names, existing.names))
        return transaction

    def _check_unpartitioned(self, table: Table) -> None:
        if not table.spec().is_unpartitioned():
            raise ConfigError(f"{self.uri} is partitioned; IcebergLoader writes tables without partitions only")

    def _publish(self, catalog: Catalog, receipt: Receipt, run: Run) -> Snapshot | None:
        from etl.iceberg.files import DataFiles

        transaction = self._begin(catalog, receipt.detail["incoming"])
        if transaction.table_metadata.schema() != receipt.detail["schema"]:
            raise RetryLater(f"the columns of {self.uri} were changed while rows were being written; run again")
        rewritten = DataFiles(transaction, f"{_stem(run)}-kept", self.parquet, self.max_file_bytes)
        try:
            self._stage(transaction, rewritten, receipt, run)
        except BaseException:
            rewritten.remove()
            raise
        try:
            transaction.commit_transaction()
        except (CommitFailedException, ValidationException, TableAlreadyExistsError):
            rewritten.remove()
            raise
        except Exception:
            # The commit may have been made, or may yet be: no file of it is to be removed.
            receipt.detail["paths"] = []
            landed = _snapshot_of(self._find(catalog), run.id)
            if landed is None:
                raise
            return landed
        return transaction._table.current_snapshot()

    def _stage(self, transaction: Transaction, rewritten: DataFiles, receipt: Receipt, run: Run) -> None:
        """Put one snapshot into the transaction. ``rewritten`` takes rows that stay, of files that lose others."""
        from pyiceberg.expressions import AlwaysTrue

        from etl.iceberg.files import Survivors, data_files

        update = transaction.update_snapshot(snapshot_properties=_summary(receipt, run))
        paths = receipt.detail["paths"]
        is_empty = transaction.table_metadata.current_snapshot() is None
        if is_empty or self.mode == "append" or (self.mode == "upsert" and not paths):
            with update.fast_append() as append:
                for file in data_files(transaction, paths):
                    append.append_data_file(file)
            return
        if self.mode == "replace":
            replaced = [task.file for task in transaction._table.scan().plan_files()]
        else:
            survivors = Survivors(transaction, paths, self.keys)
            rewritten.write(survivors.tables())
            replaced = survivors.replaced
        with update.overwrite() as overwrite:
            overwrite.delete_by_predicate(AlwaysTrue())  # it has seen all rows: any that are added meanwhile conflict
            for file in replaced:
                overwrite.delete_data_file(file)
            for file in data_files(transaction, [*rewritten.paths, *paths]):
                overwrite.append_data_file(file)

    def _with_unique_keys(self, batches: Iterator[DataFrame], index: Any) -> Iterator[DataFrame]:
        for batch in batches:
            repeats, conflicts = index.check(batch, self.keys)
            bad = (repeats | conflicts) | batch[list(self.keys)].isna().any(axis="columns").to_numpy()
            if bad.any():
                row = batch[bad].iloc[0]
                values = ", ".join(f"{key} = {row[key]}" for key in self.keys)
                number = source_row(batch.index[bad][0])
                raise DataError(f"row {number:,}: {values} is null or came before; an upsert needs unique keys")
            yield batch


def _beside(table: Table, name: str) -> str:
    return f"{table.location().rstrip('/').rpartition('/')[0]}/{name}"


def _stem(run: Run) -> str:
    return f"etl-{run.id}-{secrets.token_hex(3)}"


def _summary(receipt: Receipt, run: Run) -> dict[str, str]:
    told = {
        "etl.run-id": run.id,
        "etl.pipeline": run.pipeline,
        "etl.recipe": run.recipe,
        "etl.source": run.source.fingerprint,
        "etl.sha256": receipt.sha256,
    }
    return {name: value for name, value in told.items() if value}


def _id(snapshot: Snapshot | None) -> str | None:
    return str(snapshot.snapshot_id) if snapshot else None


def _told(snapshot: Snapshot) -> dict[str, str]:
    return snapshot.summary.additional_properties if snapshot.summary else {}


def _history(table: Table) -> Iterator[Snapshot]:
    """The snapshots that led to the current one, newest first, as far as they were not expired."""
    snapshot = table.current_snapshot()
    while snapshot is not None:
        yield snapshot
        parent = snapshot.parent_snapshot_id
        snapshot = table.snapshot_by_id(parent) if parent is not None else None


def _snapshot_of(table: Table | None, run_id: str) -> Snapshot | None:
    snapshots = _history(table) if table else ()
    return next((snapshot for snapshot in snapshots if _told(snapshot).get("etl.run-id") == run_id), None)


def _drift(incoming: Sequence[str], existing: Sequence[str]) -> str:
    new = ", ".join(name for name in incoming if name not in existing)
    gone = ", ".join(name for name in existing if name not in incoming)
    parts = [f"the table has no column {new}" if new else "", f"the rows have no column {gone}" if gone else ""]
    return f'{"; ".join(filter(None, parts))}. Select columns in a transformer, or set schema_changes = "add"'
