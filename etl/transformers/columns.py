"""Transformers that choose, name, split and derive columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from etl.base import Transformer
from etl.errors import DataError
from etl.options import different
from etl.tables.expressions import Expression, parse

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.ledger import Account
    from etl.tables.arrow import Values

_Name = Annotated[str, Field(min_length=1)]
_Names = Annotated[tuple[_Name, ...], AfterValidator(different), Field(min_length=1)]


class RenameColumns(Transformer):
    """Gives columns other names: those in ``names`` as it says, the others in a style."""

    names: dict[str, _Name] = Field(default={}, description="Old name -> new name.")
    style: Literal["snake_case"] | None = Field(
        default=None, description='"snake_case": bricksetURL and Brickset URL become brickset_url.'
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.names and self.style is None:
            raise ValueError('give names, such as names = { old = "new" }, or style = "snake_case"')
        return self

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import check_columns

        check_columns(batch, self.names)
        names = [self._new_name(str(name)) for name in batch.columns]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            clash = [old for old, new in zip(batch.columns, names, strict=True) if new in twice]
            raise DataError(f"{' and '.join(clash)} would both be named {', '.join(sorted(twice))}; set other names")
        return batch.set_axis(names, axis="columns")

    def made_from(self, column: str, columns: Sequence[str]) -> Sequence[str]:
        return [name for name in columns if self._new_name(name) == column]

    def _new_name(self, name: str) -> str:
        return self.names.get(name) or (snake_case(name) if self.style else name)


def snake_case(name: str) -> str:
    """``US_retailPrice`` -> ``us_retail_price``; a name without any letter or digit stays as it is."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub(r"[\W_]+", "_", words).strip("_").lower() or name


class SelectColumns(Transformer):
    """Keeps these columns, in this order, and leaves the others out."""

    columns: _Names = Field(description="The columns to keep.")

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import check_columns

        check_columns(batch, self.columns)
        return batch[list(self.columns)]


class DropColumns(Transformer):
    """Leaves these columns out."""

    columns: _Names = Field(description="The columns to leave out.")

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import check_columns

        check_columns(batch, self.columns)
        return batch.drop(columns=list(self.columns))


class DeriveColumns(Transformer):
    """Computes columns from others, row by row (``etl/tables/expressions.py``). What cannot be computed is null.

    A column that exists already is replaced, and what changed in it is reported.
    """

    columns: dict[_Name, Expression] = Field(
        min_length=1, description="Column -> how to compute it, in order; a later one may use an earlier one."
    )

    def made_from(self, column: str, columns: Sequence[str]) -> Sequence[str]:
        needed = {column}
        for name, expression in reversed(self.columns.items()):
            if name in needed:
                needed = needed - {name} | set(parse(expression).columns.values())
        return [name for name in columns if name in needed]

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import array_of, as_text, reported, with_columns
        from etl.tables.evaluation import evaluate

        for name, expression in self.columns.items():
            result = evaluate(expression, batch, f"columns.{name}")
            if name in batch.columns:
                before = as_text(array_of(batch[name]))
                reported(account, f"{name}: derived", before, as_text(result), batch[name])
            batch = with_columns(batch, {name: result})
        return batch


class SplitColumn(Transformer):
    """Splits a text at a separator into several columns: missing parts are null, and the last one holds the rest."""

    column: str = Field(description="The column to split.")
    into: Annotated[_Names, Field(min_length=2)] = Field(description="The columns for the parts.")
    separator: _Name = Field(description="The text between two parts.")
    keep: bool = Field(default=False, description="Whether to keep the column itself too.")

    def made_from(self, column: str, columns: Sequence[str]) -> Sequence[str]:
        return [self.column] if column in self.into else [column]

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import array_of, as_text, check_columns, with_columns

        check_columns(batch, [self.column])
        taken = [name for name in self.into if name in batch.columns and (name != self.column or self.keep)]
        if taken:
            raise DataError(f"there is a column {', '.join(taken)} already; split {self.column} into other names")
        parts = _parts(as_text(array_of(batch[self.column])), self.separator, len(self.into))
        rest = batch if self.keep else batch.drop(columns=self.column)
        return with_columns(rest, dict(zip(self.into, parts, strict=True)))


def _parts(text: Values, separator: str, count: int) -> list[Values]:
    from etl.tables.arrow import pc

    lists = pc.split_pattern(text, separator, max_splits=count - 1)
    padded = pc.list_slice(lists, 0, count, return_fixed_size_list=True)
    return [pc.list_element(padded, number) for number in range(count)]
