"""Makes batches of the documents of a source, all with the same columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from etl.documents.options import DocumentOptions
from etl.documents.values import DOCUMENT_TYPES
from etl.errors import DataError
from etl.files.json_columns import JsonTable
from etl.files.json_types import Columns, arrow_schema, json_text
from etl.ledger import Account
from etl.tables.numbered import numbered_frames

if TYPE_CHECKING:
    from pandas import DataFrame


class Document(NamedTuple):
    """One document. ``number``: from 1, in the order of reading. ``size``: in bytes, as the database sent it.

    ``document`` is None if ``problem`` says why it cannot be read; ``raw`` is then what is known of it.
    """

    number: int
    size: int
    document: dict[str, Any] | None
    problem: str = ""
    raw: str = ""

    def evidence(self, most_chars: int) -> str:
        if self.document is None:
            return self.raw[:most_chars]
        try:
            return json_text(self.document)[:most_chars]
        except ValueError:  # NaN, which JSON does not have
            return str(self.document)[:most_chars]


class DocumentTable:
    """Turns documents into batches, by the rule in ``etl.files.json_columns``."""

    def __init__(self, source: DocumentOptions, account: Account) -> None:
        declared = source.columns or source.types
        self._table = JsonTable(list(source.columns), declared, account, source.address, DOCUMENT_TYPES)
        self._source = source
        self._account = account

    def columns(self, documents: Iterable[Document]) -> Columns:
        """Those declared, or else those of the first documents."""
        columns, _ = self._table.tables(documents, self._source.columns or None)
        return self._checked(columns)

    def frames(self, documents: Iterable[Document], columns: Columns | None, batch_rows: int) -> Iterator[DataFrame]:
        """Batches with ``columns``, or with those of the first documents. Raises DataError if there are none."""
        before = self._account.rejected.total()
        found, tables = self._table.tables(documents, columns or self._source.columns or None)
        schema = arrow_schema(self._checked(found), DOCUMENT_TYPES)
        for frame in numbered_frames(tables, schema, batch_rows):
            rejected = self._account.rejected.total() - before
            if frame.empty and not rejected and not self._source.allow_empty and columns is None:
                raise DataError(f"{self._source.address}: has no documents; set allow_empty = true if that is right")
            yield frame

    def _checked(self, columns: Columns) -> Columns:
        if not columns:
            raise DataError(f"{self._source.address}: has no documents that tell the columns; declare them in columns")
        return columns
