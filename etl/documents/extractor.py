"""What the sources of documents share: which columns to make of them, and how they are split and read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, Field, PositiveInt, PrivateAttr, model_validator

from etl.base import Extractor
from etl.incremental.options import Cursor, IncrementalOption
from etl.ledger import Account
from etl.run import Source
from etl.steps import did_you_mean
from etl.tables.schema import known_type

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.files.json_records import Record

_TYPES = ("text", "bool", "int16", "int32", "int64", "float64", "binary", "json")


def _document_type(name: str) -> str:
    if name not in _TYPES and not name.startswith(("decimal(", "timestamp[")):
        raise ValueError(f"unknown type {name!r}{did_you_mean(name, (*_TYPES, 'decimal(10,2)', 'timestamp[UTC]'))}")
    return name if name in _TYPES else known_type(name)


DocumentType = Annotated[
    str,
    AfterValidator(_document_type),
    Field(
        json_schema_extra={
            "format": "column type",
            "anyOf": [{"enum": list(_TYPES)}, {"pattern": r"^(decimal\(\d+, ?\d+\)|timestamp\[.+\])$"}],
        }
    ),
]


class DocumentExtractor(Extractor):
    """An extractor of documents. MUST write ``address``, ``documents`` and ``parts``."""

    columns: dict[str, DocumentType] = Field(
        default={},
        description="The columns to make, in this order, each with its type; all else is left out. A nested field is "
        'named by its path, such as "address.city". Default: those of the first documents.',
    )
    types: dict[str, DocumentType] = Field(
        default={},
        description="In place of columns: types where the first documents do not tell, and fields they may not have. "
        "text, bool, int16/32/64, float64, decimal(p,s), timestamp[ZONE], binary, or json (any value, as JSON text).",
    )
    incremental: IncrementalOption = None
    split_into: PositiveInt = Field(default=1, le=1_000, description="Into how many independent parts to split.")
    allow_empty: bool = Field(default=False, description="Whether it is in order if there are no documents.")

    _columns: Any = PrivateAttr(default=None)
    _part: Any = PrivateAttr(default=None)
    _since: tuple[str, Cursor] | None = PrivateAttr(default=None)

    @property
    @abstractmethod
    def address(self) -> str:
        """What is read, without secrets."""

    @abstractmethod
    def documents(self, first: int) -> Iterator[Record]:
        """Those of ``_part``, if there is one, that are new by ``_since``; numbered from ``first``."""

    @abstractmethod
    def parts(self) -> Sequence[Any]:
        """What the splits read, each a ``_part``: ``split_into`` of them, or fewer."""

    def inspect(self) -> Source:
        """Say what will be read. Whether it has changed cannot be told without reading it."""
        return Source(self.address)

    def splits(self) -> Sequence[Self]:
        """Independent parts, all with the columns of the first documents."""
        if self.split_into == 1 or self._part:
            return [self]
        from etl.documents.table import columns_of

        with self.blamed():
            parts = self.parts()
            if len(parts) == 1:
                return [self]
            columns = columns_of(self)
        return [self._only(part, columns) for part in parts]

    def since(self, value: Cursor) -> Self:
        copy = self.model_copy(update={"allow_empty": True})
        copy._since = (self.incremental.column, value) if self.incremental else None
        return copy

    def read(self, account: Account) -> Iterator[DataFrame]:
        from etl.documents.table import frames_of

        return frames_of(self, account, self._columns)

    def _only(self, part: Any, columns: Any) -> Self:
        split = self.model_copy()
        split._part = part
        split._columns = columns
        return split

    @model_validator(mode="after")
    def _types_are_declared_once(self) -> Self:
        if self.columns and self.types:
            raise ValueError("columns has the types of its columns already; leave types out")
        return self

    @model_validator(mode="after")
    def _can_be_continued(self) -> Self:
        if self.incremental is not None:
            self.incremental.check_declared(self.columns)
            if self.split_into > 1:
                raise ValueError("incremental takes no splits: what changes while one is read would be missed")
        return self
