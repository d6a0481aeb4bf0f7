"""Reads a table of DynamoDB, or what a query of it finds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from pydantic import Field, PositiveFloat, field_validator, model_validator

from etl.documents.extractor import DocumentExtractor
from etl.dynamodb.values import attribute_of, plain_item
from etl.files.json_records import Record


class DynamoDbExtractor(DocumentExtractor):
    """Scans a table, or queries it for a ``key_condition``; nested attributes become columns, as in JSON files.

    Whole numbers become int64, other numbers decimals, exactly; lists and sets become JSON text, and text a time where
    that is declared. Of each item the key's columns come first, then the others by name. An item with a value that does
    not fit its column, or with an attribute that is new, is rejected. Items that are written meanwhile may be read or
    not. Splits are the segments of a parallel scan.

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

    def check(self) -> str:
        """Look at the table, and read one item."""
        from etl.dynamodb.client import make_client
        from etl.dynamodb.requests import described, pages, request_of

        client = make_client(self.region)
        table = described(client, self)
        next(pages(client, {**request_of(self, None), "Limit": 1}, self))
        return f"reachable: {self.address}, about {table['ItemCount']:,} items, {table['TableSizeBytes']:,} bytes"

    def parts(self) -> list[tuple[int, int]]:
        """The segments of a parallel scan: which, of how many."""
        return [(number, self.split_into) for number in range(self.split_into)]

    def documents(self, first: int) -> Iterator[Record]:
        from etl.dynamodb.client import make_client
        from etl.dynamodb.requests import described, pages, request_of, since_of

        client = make_client(self.region)
        needs_keys = not self.columns or (self.key_condition and self._since)
        table = described(client, self) if needs_keys else {}
        key = {part["AttributeName"]: place for place, part in enumerate(table.get("KeySchema", ()))}
        since = since_of(self, table, *self._since) if self._since else None
        number = first
        for page in pages(client, request_of(self, self._part, since), self):
            size = int(page["ResponseMetadata"]["HTTPHeaders"].get("content-length", 0)) // max(page["Count"], 1)
            for item in page["Items"]:
                yield Record(number, "", plain_item(item, key), size=size)
                number += 1
