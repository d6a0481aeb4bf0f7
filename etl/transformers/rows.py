"""Transformers that leave rows out, each with its reason in the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from etl.base import Transformer
from etl.tables.expressions import Expression

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.ledger import Account
    from etl.tables.keys import KeyIndex


class FilterRows(Transformer):
    """Keeps the rows for which a condition (``etl/tables/expressions.py``) is true; drops the others."""

    keep: Expression = Field(description='The condition, such as year >= 2000 and theme in ["City", "Space"].')
    keep_unknown: bool = Field(
        default=False, description="Whether to keep rows for which it cannot be told, as a value is null."
    )

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import pc, rows_where
        from etl.tables.evaluation import condition

        kept = condition(self.keep, batch, "keep")
        shown = " ".join(self.keep.split())
        account.drop(rows_where(pc.invert(kept), batch.index), f"does not hold: {shown}")
        if not self.keep_unknown:
            account.drop(rows_where(pc.is_null(kept), batch.index), f"cannot be told: {shown}")
        return batch


class DropDuplicates(Transformer):
    """Keeps the first row of each key, exactly over the whole table; null is a key like any other.

    A row that repeats the first one in all columns is dropped; one that tells other facts is rejected, or dropped too.
    Memory is bounded: keys beyond some million go to a temporary file.
    """

    keys: tuple[str, ...] = Field(default=(), description="The columns that make the key. Default: all of them.")
    conflicts: Literal["reject", "drop"] = Field(
        default="reject", description="What becomes of a row whose key came before with other facts."
    )

    def start(self) -> KeyIndex:
        from etl.tables.keys import KeyIndex

        return KeyIndex()

    def keyed_by(self) -> tuple[str, ...] | None:
        return self.keys or None

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import check_columns, key_text

        check_columns(batch, self.keys)
        index: KeyIndex = account.state
        repeats, conflicts = index.check(batch, self.keys or [str(name) for name in batch.columns])
        key = ", ".join(self.keys)
        account.drop(batch.index[repeats], f"identical repeat of {key or 'a row'}")
        if self.conflicts == "drop":
            account.drop(batch.index[conflicts], f"repeat of {key} with other facts")
        elif conflicts.any():
            rows = batch[conflicts]
            rule = "the same came before with other facts"
            account.reject(rows.index, rule, column=key, values=key_text(rows, self.keys))
        return batch
