"""Reads a collection of MongoDB, or the part of it that a filter finds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pymongo  # noqa: F401  (before bson, which it brings: what is missing is then called by the name to install)
from bson.errors import BSONError
from pydantic import Field, SecretStr, field_validator

from etl.documents.extractor import DocumentExtractor
from etl.files.json_records import Record
from etl.mongodb.client import check_uri, connected, hosts_of, kind_of
from etl.mongodb.values import CODEC, from_toml, plain

if TYPE_CHECKING:
    from pymongo.collection import Collection

    from etl.mongodb.reading import Condition


class MongoExtractor(DocumentExtractor):
    """Reads the documents of a collection in the order of ``_id``; nested fields become columns, as in JSON files.

    ObjectIds and UUIDs become text, dates timestamps in UTC, integers int64, Decimal128 decimals, arrays JSON text.
    A document with a value that does not fit its column, or with a field that is new, is rejected.

    A lost cursor or connection is taken up after the last ``_id``, so no document is missing or twice. Documents that
    are written meanwhile may be read or not. Splits are ranges of ``_id``.
    """

    uri: SecretStr = Field(description="Such as mongodb://user:password@host:27017; from the environment.")
    database: str = Field(min_length=1, description="Name of the database.")
    collection: str = Field(min_length=1, description="Name of the collection or view.")
    filter: dict[str, Any] = Field(
        default={},
        description="Which documents to read, in MongoDB's query language and extended JSON, such as "
        '{ status = "paid", total = { "$gte" = 10 } }.',
    )
    projection: dict[str, bool] = Field(
        default={}, description='Fields to read, as in { name = 1, "address.city" = 1 }, or not to, as in { note = 0 }.'
    )

    @field_validator("uri")
    @classmethod
    def _is_a_uri(cls, uri: SecretStr) -> SecretStr:
        check_uri(uri.get_secret_value())
        return uri

    @field_validator("filter")
    @classmethod
    def _is_a_filter(cls, filter_: dict[str, Any]) -> dict[str, Any]:
        try:
            from_toml(filter_)
        except (ValueError, TypeError, BSONError) as error:
            raise ValueError(f"should be extended JSON: {error}") from error
        return filter_

    @field_validator("projection")
    @classmethod
    def _includes_or_excludes(cls, projection: dict[str, bool]) -> dict[str, bool]:
        if len({wanted for name, wanted in projection.items() if name != "_id"}) > 1:
            raise ValueError("should name fields to read (1), or fields not to read (0); only _id may differ")
        return projection

    @property
    def address(self) -> str:
        return f"mongodb://{hosts_of(self.uri.get_secret_value())}/{self.database}.{self.collection}"

    def check(self) -> str:
        """Connect, look for the collection, and read one document."""
        with self._opened() as (collection, _):
            collection.find_one(self._condition())
            return f"reachable: {self.address}, about {collection.estimated_document_count():,} documents"

    def parts(self) -> list[list[Condition]]:
        """Ranges of ``_id`` with about as many documents each."""
        from etl.mongodb.reading import edges, ranges

        with self._opened() as (collection, _):
            return ranges(edges(collection, self._condition(), self.split_into))

    def documents(self, first: int) -> Iterator[Record]:
        from etl.mongodb.reading import read

        fields = {name: wanted for name, wanted in self.projection.items() if name != "_id" or wanted}
        with_id = self.projection.get("_id", True)
        with self._opened() as (collection, resumes):
            found = read(collection, self._condition(), fields, resumes=resumes)
            for number, (bson, size, problem) in enumerate(found, first):
                if problem:
                    yield Record(number, str(bson), None, problem, size)
                    continue
                document = plain(bson)
                if not with_id:
                    document.pop("_id", None)
                yield Record(number, "", document, size=size)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Collection[dict[str, Any]], bool]]:
        """The collection, and whether its ``_id`` are unique, as they need not be in a view."""
        with connected(self.uri.get_secret_value(), self.address) as client:
            kind = kind_of(client, self.database, self.collection, self.address)
            yield client[self.database].get_collection(self.collection, CODEC), kind == "collection"

    def _condition(self) -> Condition:
        """Which documents to read: those of the filter, of this split, and what is new."""
        from etl.mongodb.reading import all_of, not_less

        new = not_less(*self._since) if self._since else {}
        return all_of([from_toml(self.filter), new, *(self._part or ())])
