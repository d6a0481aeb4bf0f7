"""Reads the pages of a JSON API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, SecretStr, model_validator

from etl.base import Extractor
from etl.errors import DataError
from etl.files.formats import JsonType
from etl.http.request import WebSession
from etl.incremental.options import IncrementalOption
from etl.ledger import Account
from etl.options import DifferentColumns
from etl.redact import redact
from etl.rest.api import Api, ApiOptions
from etl.run import Source

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.incremental.options import Cursor


class RestExtractor(ApiOptions, Extractor):
    """Asks a JSON API for page after page of records and reads them as one table, typed as JSON files are.

    A row's number counts the records of all pages. An API tells no fingerprint, so it is read in every run; what turns
    out to be published already is not published again.
    """

    columns: DifferentColumns = Field(
        default=(), description="The fields to read, in this order. Default: those of the first 10,000 records."
    )
    types: dict[str, JsonType] = Field(
        default={},
        description="Types of fields: text, int64, float64, bool, timestamp[UTC] (of ISO 8601 text), or json (any "
        "value, as JSON text). Default: told from the first 10,000 records.",
    )
    incremental: IncrementalOption = None
    allow_empty: bool = Field(default=False, description="Whether no records at all are in order.")

    @model_validator(mode="after")
    def _can_be_continued(self) -> Self:
        if self.incremental is None:
            if self.since_param:
                raise ValueError("since_param needs [extract.incremental]")
            return self
        self.incremental.check_declared(self.columns)
        for name in self.columns:
            if name not in self.types:
                raise ValueError(
                    f"incremental needs types for all columns, as few new rows cannot tell that of {name!r}"
                )
        return self

    def inspect(self) -> Source:
        return Source(self._uri)

    def check(self) -> str:
        """Ask for the first page, once."""
        with WebSession() as session:
            api = Api(self.model_copy(update={"attempts": 1}), session)
            elements = api.page(api.first_request()).elements
        fields = ", ".join(elements[0]) if elements and isinstance(elements[0], dict) else "none"
        return f"reachable: {self._uri}, {len(elements):,} records in the first page, fields: {fields}"

    def since(self, value: Cursor) -> Self:
        asked: dict[str, Any] = {}
        if self.since_param:
            mark = _just_before(value, unix=self.since_format == "unix")
            if self.method == "POST":
                asked = {"body": {**self.body, self.since_param: mark}}
            else:
                asked = {"params": {**self.params, self.since_param: SecretStr(str(mark))}}
        return self.model_copy(update={"allow_empty": True, **asked})

    def read(self, account: Account) -> Iterator[DataFrame]:
        from etl.files.json_columns import JsonTable
        from etl.files.json_types import arrow_schema
        from etl.rest.reading import records_of
        from etl.tables.numbered import numbered_frames

        with WebSession() as session:
            records = records_of(Api(self, session), account)
            columns, tables = JsonTable(self.columns, self.types, account, self._uri).tables(records, None)
            if not columns:
                raise DataError(f"{self._uri}: no record has a field, so there are no columns; declare them in types")
            problem = None if self.allow_empty else f"{self._uri}: has no records"
            yield from numbered_frames(tables, arrow_schema(columns), self.batch_rows, account, problem)

    @property
    def _uri(self) -> str:
        return redact(self.url)


def _just_before(value: Cursor, *, unix: bool) -> str | int:
    """A little less than ``value``: some APIs give only what is later, and some compare whole seconds."""
    if isinstance(value, int):
        return value - 1
    if not isinstance(value, date):
        return str(value)
    time = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
    time = time.replace(microsecond=0, tzinfo=UTC)
    with suppress(OverflowError):
        time -= timedelta(seconds=1)
    return int(time.timestamp()) if unix else time.isoformat().replace("+00:00", "Z")
