"""Reads a table of DynamoDB, or what a query of it finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, PositiveFloat, PrivateAttr, field_validator, model_validator

from etl.base import Extractor
from etl.documents.options import DocumentOptions
from etl.dynamodb.values import attribute_of, plain_item
from etl.ledger import Account
from etl.run import Source

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from pandas import DataFrame

    from etl.documents.table import Document, DocumentTable
    from etl.dynamodb.requests import Since
    from etl.incremental.options import Cursor

_KEY_TYPES = {"S": "text", "B": "binary"}  # of a number, only its values tell whether it is whole


class DynamoDbExtractor(DocumentOptions, Extractor):
    """Scans a table, or queries it for a ``key_condition``; nested attributes become columns, as in JSON files.

    Whole numbers become int64, other numbers decimals, exactly; lists and sets become JSON text, and text a time where
    that is declared. The key's columns come first, then the others by name. An item with a value that does not fit its
    column, or with an attribute that is new, is rejected. Items that are written meanwhile may be read or not. Splits
    are the segments of a parallel scan.

    The endpoint is AWS_ENDPOINT_URL_DYNAMODB or AWS_ENDPOINT_URL, where set, as everywhere on AWS.
    """

    table: str = Field(min_length=1, description="Name or ARN of the table.")
    index: str | None = Field(default=None, description="A secondary index to read in place of the table.")
    key_condition: str | None = Field(
        default=None, description='Which part of the table to query, such as "customer = :customer AND #day > :day".'
    )
    filter: str | None = Field(
        default=None, description='Which of the items that are read to keep, such as "amount > :least".'
    )
    names: dict[str, str] = Field(
        default={}, description='What #names in the expressions stand for, as in { "#day" = "day" }.'
    )
    values: dict[str, Any] = Field(
        default={},
        description='What :names in the expressions stand for, as in { ":least" = 10 } or { ":least" = { N = "10" } }.',
    )
    projection: tuple[str, ...] = Field(
        default=(), description='Attributes to read, such as ["id", "address.city"]; all by default.'
    )
    consistent: bool = Field(default=False, description="Whether to see all writes so far, for twice the capacity.")
    patience_s: PositiveFloat = Field(
        default=300,
        exclude=True,  # how long it takes changes no result
        description="How long to go on asking when DynamoDB throttles, in seconds, for each page.",
    )
    region: str | None = Field(
        default=None, description="Region of the table; by default AWS_DEFAULT_REGION or the profile's."
    )

    _columns: Any = PrivateAttr(default=None)
    _segment: tuple[int, int] | None = PrivateAttr(default=None)
    _since: Any = PrivateAttr(default=None)

    @field_validator("values")
    @classmethod
    def _can_be_attributes(cls, values: dict[str, Any]) -> dict[str, Any]:
        for value in values.values():
            attribute_of(value)
        return values

    @model_validator(mode="after")
    def _only_scans_are_split(self) -> Self:
        if self.key_condition and self.split_into > 1:
            raise ValueError("split_into is for scans; a query (key_condition) is not split")
        return self

    @property
    def address(self) -> str:
        return f"dynamodb://{self.table}" + (f"/{self.index}" if self.index else "")

    def inspect(self) -> Source:
        """Say what will be read. Whether it has changed cannot be told without reading it."""
        return Source(self.address)

    def check(self) -> str:
        """Look at the table, and read one item."""
        from etl.dynamodb.client import make_client
        from etl.dynamodb.requests import described, pages, request_of

        client = make_client(self.region)
        table = described(client, self.table, self.address, self.patience_s)
        next(pages(client, {**request_of(self, None), "Limit": 1}, self.address, self.patience_s))
        return f"reachable: {self.address}, about {table['ItemCount']:,} items, {table['TableSizeBytes']:,} bytes"

    def splits(self) -> Sequence[Self]:
        """The segments of a parallel scan, all with the columns of the first items."""
        if self.split_into == 1 or self._segment:
            return [self]
        with self.blamed():
            client, table, key = self._opened(Account("shape"))
            columns = table.columns(self._items(client, key, 1))
        return [self._only((number, self.split_into), columns) for number in range(self.split_into)]

    def since(self, value: Cursor) -> Self:
        copy = self.model_copy(update={"allow_empty": True})
        copy._since = value
        return copy

    def read(self, account: Account) -> Iterator[DataFrame]:
        client, table, key = self._opened(account)
        first = account.rows_out + account.rejected.total() + 1
        yield from table.frames(self._items(client, key, first), self._columns, self.batch_rows)

    def _opened(self, account: Account) -> tuple[DynamoDBClient, DocumentTable, Mapping[str, int]]:
        """A client, what makes batches, and the places of the key's attributes among the columns."""
        from etl.documents.table import DocumentTable
        from etl.dynamodb.client import make_client
        from etl.dynamodb.requests import described

        client = make_client(self.region)
        if self.columns:
            return client, DocumentTable(self, account, self.address), {}
        table = described(client, self.table, self.address, self.patience_s)
        key = [part["AttributeName"] for part in table["KeySchema"]]
        kinds = {each["AttributeName"]: _KEY_TYPES.get(each["AttributeType"]) for each in table["AttributeDefinitions"]}
        known = {name: kind for name in key if (kind := kinds[name]) and name in (self.projection or key)}
        return client, DocumentTable(self, account, self.address, known), {name: at for at, name in enumerate(key)}

    def _items(self, client: DynamoDBClient, key: Mapping[str, int], first: int) -> Iterator[Document]:
        """The items, numbered from ``first``."""
        from etl.documents.table import Document
        from etl.dynamodb.requests import pages, request_of

        number = first
        request = request_of(self, self._segment, self._asked_since(client))
        for page in pages(client, request, self.address, self.patience_s):
            size = int(page["ResponseMetadata"]["HTTPHeaders"].get("content-length", 0)) // max(page["Count"], 1)
            for item in page["Items"]:
                yield Document(number, size, plain_item(item, key))
                number += 1

    def _asked_since(self, client: DynamoDBClient) -> Since | None:
        """What of the items is new, as far as DynamoDB can be asked for that."""
        from etl.dynamodb.requests import Since, described, since_of

        if self.incremental is None or self._since is None:
            return None
        if not self.key_condition:
            return Since(self.incremental.column, self._since)
        table = described(client, self.table, self.address, self.patience_s)
        return since_of(self, table, self.incremental.column, self._since)

    def _only(self, segment: tuple[int, int], columns: Any) -> Self:
        split = self.model_copy()
        split._segment = segment
        split._columns = columns
        return split
