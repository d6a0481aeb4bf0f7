"""Makes batches of the documents of a source, all with the same columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from etl.documents.extractor import DocumentExtractor
from etl.documents.values import DOCUMENT_TYPES
from etl.errors import DataError
from etl.files.json_columns import JsonTable
from etl.files.json_types import Columns, arrow_schema
from etl.ledger import Account
from etl.tables.numbered import numbered_frames

if TYPE_CHECKING:
    import pyarrow as pa
    from pandas import DataFrame


def columns_of(source: DocumentExtractor) -> Columns:
    """Those declared, or else those of the first documents."""
    columns, _ = _tables(source, Account("shape"), None)
    return columns


def frames_of(source: DocumentExtractor, account: Account, columns: Columns | None) -> Iterator[DataFrame]:
    """Batches with ``columns``, or with those of the first documents. Raises DataError if there are no documents."""
    found, tables = _tables(source, account, columns)
    may_be_empty = source.allow_empty or columns is not None
    problem = None if may_be_empty else f"{source.address}: has no documents"
    yield from numbered_frames(tables, arrow_schema(found, DOCUMENT_TYPES), source.batch_rows, account, problem)


def _tables(source: DocumentExtractor, account: Account, columns: Columns | None) -> tuple[Columns, Iterator[pa.Table]]:
    """The columns and the tables, by the rule in ``etl.files.json_columns``."""
    declared = source.columns or source.types
    table = JsonTable(list(source.columns), declared, account, source.address, DOCUMENT_TYPES)
    found, tables = table.tables(source.documents(account.next_row), columns or source.columns or None)
    if not found:
        raise DataError(f"{source.address}: has no documents that tell the columns; declare them in columns")
    return found, tables
