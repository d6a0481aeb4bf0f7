"""Makes batches of the documents of a source, all with the same columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from etl.documents.options import DocumentOptions
from etl.documents.values import DOCUMENT_TYPES
from etl.errors import DataError
from etl.files.json_columns import JsonTable
from etl.files.json_records import Record
from etl.files.json_types import Columns, arrow_schema
from etl.ledger import Account
from etl.tables.numbered import numbered_frames

if TYPE_CHECKING:
    from pandas import DataFrame


class DocumentTable:
    """Turns documents into batches, by the rule in ``etl.files.json_columns``."""

    def __init__(self, source: DocumentOptions, account: Account) -> None:
        declared = source.columns or source.types
        self._table = JsonTable(list(source.columns), declared, account, source.address, DOCUMENT_TYPES)
        self._source = source
        self._account = account

    def columns(self, documents: Iterable[Record]) -> Columns:
        """Those declared, or else those of the first documents."""
        columns, _ = self._table.tables(documents, self._source.columns or None)
        return self._checked(columns)

    def frames(self, documents: Iterable[Record], columns: Columns | None, batch_rows: int) -> Iterator[DataFrame]:
        """Batches with ``columns``, or with those of the first documents. Raises DataError if there are none."""
        found, tables = self._table.tables(documents, columns or self._source.columns or None)
        schema = arrow_schema(self._checked(found), DOCUMENT_TYPES)
        may_be_empty = self._source.allow_empty or columns is not None
        problem = None if may_be_empty else f"{self._source.address}: has no documents"
        yield from numbered_frames(tables, schema, batch_rows, self._account, problem)

    def _checked(self, columns: Columns) -> Columns:
        if not columns:
            raise DataError(f"{self._source.address}: has no documents that tell the columns; declare them in columns")
        return columns
