"""Declared columns: the types, rules and meanings of a table."""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from etl.options import Options
from etl.steps import did_you_mean

if TYPE_CHECKING:
    from pyarrow import DataType

PLAIN_TYPES = ("text", "bool", "int16", "int32", "int64", "float64", "date", "timestamp")
_ARROW_NAMES = {"text": "string", "bool": "bool_", "date": "date32"}
_NUMBERS = ("int16", "int32", "int64", "float64", "decimal")
_TIMES = ("date", "timestamp")
_DECIMAL = re.compile(r"decimal\((\d+), ?(\d+)\)")
_ZONED = re.compile(r"timestamp\[(.+)\]")
_MOST_DIGITS = 38
_BEYOND_INT64 = 1 << 63


# -- the types of columns -------------------------------------------------------------------------------


def known_type(name: str) -> str:
    if decimal := _DECIMAL.fullmatch(name):
        precision, scale = map(int, decimal.groups())
        if not (1 <= precision <= _MOST_DIGITS and scale <= precision):
            raise ValueError(f"{name}: a decimal has 1 to {_MOST_DIGITS} digits, and no more of them after the point")
    elif zoned := _ZONED.fullmatch(name):
        check_zone(zoned[1])
    elif name not in PLAIN_TYPES:
        known = (*PLAIN_TYPES, "decimal(10,2)", "timestamp[UTC]")
        raise ValueError(f"unknown type {name!r}{did_you_mean(name, known)}")
    return name


def check_zone(name: str) -> str:
    """Raise ValueError unless ``name`` is a time zone such as Europe/Amsterdam."""
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:
        raise ValueError(f"unknown time zone {name!r}; use a name such as UTC or Europe/Amsterdam") from error
    return name


ColumnType = Annotated[
    str,
    AfterValidator(known_type),
    Field(
        json_schema_extra={
            "format": "column type",
            "anyOf": [
                {"enum": list(PLAIN_TYPES)},
                {"pattern": r"^decimal\(\d+, ?\d+\)$"},
                {"pattern": r"^timestamp\[.+\]$"},
            ],
        }
    ),
]


@cache
def arrow_type(name: str) -> DataType:
    """The Arrow type that a declared type stands for. Times are in microseconds."""
    import pyarrow as pa

    if decimal := _DECIMAL.fullmatch(name):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    zoned = _ZONED.fullmatch(name)
    if zoned or name == "timestamp":
        return pa.timestamp("us", zoned[1] if zoned else None)
    kind: DataType = getattr(pa, _ARROW_NAMES.get(name, name))()
    return kind


# -- the rules of columns -------------------------------------------------------------------------------


def check_pattern(pattern: str) -> str:
    """Raise ValueError unless ``pattern`` is a regular expression that Arrow (RE2) understands too, as far as told."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    if re.search(r"\(\?(<?[=!]|P=|>|\()|\\[1-9]", pattern):
        raise ValueError(f"{pattern!r}: look-around, back-references and conditions are not supported")
    return pattern


def _one_message(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError as error:
        raise ValueError("should be a number, or a date such as 2024-01-31") from error


_BOUND_SCHEMA = WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "format": "date"}]})
Pattern = Annotated[str, AfterValidator(check_pattern)]
Bound = Annotated[int | float | Decimal | date | datetime, WrapValidator(_one_message), _BOUND_SCHEMA]


class Reference(Options):
    """A column of a small CSV or Parquet file."""

    file: Path = Field(description="A CSV or Parquet file that fits into memory.")
    column: str = Field(description="The column of it that holds the allowed values.")


class Column(Options):
    """A column of a declared table: its type, its rules and its meaning. Null breaks no rule but ``required``."""

    name: str = Field(default="", description="Its name, in a list of columns; a table of columns gives it already.")
    type: ColumnType = Field(
        default="text",
        description="text, bool, int16/32/64, float64, decimal(p,s), date, timestamp or timestamp[ZONE].",
    )
    required: bool = Field(default=False, description="Whether null is refused.")
    unique: bool = Field(default=False, description="Whether a value may occur only once in the whole table.")
    min: Bound | None = Field(default=None, description="The least value allowed: a number, or a date.")
    max: Bound | None = Field(default=None, description="The greatest value allowed: a number, or a date.")
    min_length: int | None = Field(default=None, ge=0, description="The fewest characters allowed.")
    max_length: int | None = Field(default=None, ge=0, description="The most characters allowed.")
    pattern: Pattern | None = Field(default=None, description="A regular expression that the whole text must match.")
    one_of: tuple[str | int | float, ...] | None = Field(default=None, min_length=1, description="The values allowed.")
    references: Reference | None = Field(default=None, description="A file's column in which the value must occur.")
    description: str = Field(default="", description="What the column means; it is published with the data.")
    unit: str = Field(default="", description="The unit of the values; it is published with the data.")

    @property
    def arrow_type(self) -> DataType:
        return arrow_type(self.type)

    @property
    def facts(self) -> dict[str, str]:
        """What is published with the data: description and unit, where given."""
        return {name: told for name in ("description", "unit") if (told := getattr(self, name))}

    @model_validator(mode="after")
    def _rules_fit_the_type(self) -> Self:
        for name in ("min", "max"):
            self._check_bound(name, getattr(self, name))
        for name in ("min_length", "max_length", "pattern"):
            if getattr(self, name) is not None and self.type != "text":
                raise ValueError(f"{name} is a rule for text; this column is {self.type}")
        if self.one_of is not None and self.type != "text" and not self.type.startswith("int"):
            raise ValueError(f"one_of is a rule for text and whole numbers; this column is {self.type}")
        for value in self.one_of or ():
            if not isinstance(value, str if self.type == "text" else int):
                raise ValueError(f"one_of: {value!r} does not fit a column of type {self.type}")
        for least, most in ((self.min, self.max), (self.min_length, self.max_length)):
            if least is not None and most is not None and _is_above(least, most):
                raise ValueError(f"nothing is between {least} and {most}")
        return self

    def _check_bound(self, name: str, bound: Any) -> None:
        if bound is None:
            return
        if isinstance(bound, int) and abs(bound) >= _BEYOND_INT64:
            raise ValueError(f"{name} = {bound} is beyond 64 bits")
        if isinstance(bound, datetime) and bound.tzinfo and self.type == "timestamp":
            raise ValueError(f"{name} = {bound} has a zone, and the times of this column have none")
        fitting = {_NUMBERS: (int, float, Decimal), _TIMES: (date,)}
        for types, bounds in fitting.items():
            if self.type.startswith(types):
                if not isinstance(bound, bounds):
                    raise ValueError(f"{name} = {bound} does not fit a column of type {self.type}")
                return
        raise ValueError(f"{name} is a rule for numbers and dates; this column is {self.type}")


def _is_above(least: Any, most: Any) -> bool:
    try:
        return bool(least > most)
    except TypeError as error:
        raise ValueError(
            f"{least} and {most} cannot be compared: give both a time, and both or neither a zone"
        ) from error


def _by_name(columns: Any) -> Any:
    """A list of columns as a table: name -> column."""
    if not isinstance(columns, list | tuple):
        return columns
    named: dict[str, Any] = {}
    for column in columns:
        name = column.get("name") if isinstance(column, dict) else getattr(column, "name", None)
        if not name:
            raise ValueError('each column of a list needs a name, as in { name = "year", type = "int16" }')
        if name in named:
            raise ValueError(f"{name} is declared twice")
        named[name] = column
    return named


def _with_names(columns: dict[str, Column]) -> dict[str, Column]:
    for name, column in columns.items():
        if column.name not in ("", name):
            raise ValueError(f"{name} has another name inside: {column.name}")
    return {name: column.model_copy(update={"name": name}) for name, column in columns.items()}


Columns = Annotated[
    dict[str, Column],
    BeforeValidator(_by_name, json_schema_input_type=dict[str, Column] | tuple[Column, ...]),
    AfterValidator(_with_names),
    Field(
        min_length=1,
        validate_default=True,
        description="The columns and their rules, as [transform.columns.NAME] tables or as a list.",
    ),
]
