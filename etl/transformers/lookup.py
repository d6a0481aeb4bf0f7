"""A transformer that adds columns from a small file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from etl.base import Transformer
from etl.errors import ConfigError, DataError
from etl.options import different

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.ledger import Account
    from etl.tables.arrow import Values


def _same_names(names: Any) -> Any:
    """``["a", "b"]`` as ``{a = "a", b = "b"}``."""
    return {name: name for name in names} if isinstance(names, list | tuple) else names


def _to_different_names(names: dict[str, str]) -> dict[str, str]:
    different(names.values())
    return names


_Names = Annotated[
    dict[str, str],
    BeforeValidator(_same_names, json_schema_input_type=dict[str, str] | tuple[str, ...]),
    AfterValidator(_to_different_names),
    Field(min_length=1),
]


class Lookup(Transformer):
    """Adds columns from the one row of a small CSV or Parquet file that has the same key; null is nobody's key.

    The columns of a CSV file are text. Raises DataError if a key comes twice in the file.
    """

    file: Path = Field(description="A CSV (UTF-8, commas, with a header) or Parquet file that fits into memory.")
    on: _Names = Field(description="The columns that make the key: names, or name here -> name in the file.")
    take: _Names = Field(description="The columns to add: names, or name in the file -> name here.")
    unmatched: Literal["null", "reject", "drop"] = Field(
        default="null", description="What becomes of a row whose key is not in the file: it gets nulls, or leaves."
    )

    def start(self) -> _Table:
        from etl.tables.small_tables import read_small_table

        return _Table(self.file, read_small_table(self.file, (*self.on.values(), *self.take)))

    def ingredients(self) -> tuple[str, ...]:
        """Stands for the file in the recipe of a run: another content, another result."""
        from etl.tables.small_tables import fingerprint

        return (fingerprint(self.file),)

    def made_from(self, column: str, columns: Sequence[str]) -> Sequence[str]:
        return [] if column in self.take.values() else [column]

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import array_of, check_columns, with_columns

        check_columns(batch, self.on)
        taken = [name for name in self.take.values() if name in batch.columns]
        if taken:
            raise ConfigError(f"take: there is a column {', '.join(taken)} already; set other names")
        table: _Table = account.state
        found = table.find({there: array_of(batch[here]) for here, there in self.on.items()})
        self._report_unmatched(batch[found.is_null().to_numpy(zero_copy_only=False)], account)
        return with_columns(batch, {new: table.take(old, found) for old, new in self.take.items()})

    def _report_unmatched(self, rows: DataFrame, account: Account) -> None:
        from etl.tables.arrow import key_text

        if self.unmatched == "drop":
            account.drop(rows.index, f"{', '.join(self.on)} not in {self.file.name}")
        elif self.unmatched == "reject" and len(rows):
            values = key_text(rows, tuple(self.on))
            account.reject(rows.index, f"not in {self.file.name}", column=", ".join(self.on), values=values)


class _Table:
    """The rows of the file, found by their key."""

    def __init__(self, file: Path, rows: DataFrame) -> None:
        self._file = file
        self._rows = rows
        self._keys: dict[tuple[Any, ...], Any] = {}

    def take(self, column: str, places: Values) -> Values:
        from etl.tables.arrow import array_of

        return array_of(self._rows[column]).take(places)

    def find(self, sought: dict[str, Values]) -> Values:
        """The places of the rows whose key columns hold what is sought; null where there is none."""
        import pyarrow as pa

        from etl.tables.arrow import pc

        kinds = tuple(values.type for values in sought.values())
        wanted = _placed(list(sought.values()))
        if pa.null() in kinds:  # by which Arrow joins nothing
            return pa.nulls(len(wanted), pa.int64())
        if kinds not in self._keys:
            keys = _placed([self._typed(name, values.type) for name, values in sought.items()])
            self._check_unique(keys, list(sought))
            self._keys[kinds] = keys
        on = wanted.column_names[:-1]
        joined = wanted.join(self._keys[kinds], on, join_type="left outer", right_suffix=" found", use_threads=False)
        return pc.scatter(joined.column("place found"), joined.column("place")).combine_chunks()

    def _typed(self, name: str, kind: Any) -> Values:
        """A key column in the type of the column that looks for it."""
        from etl.tables.arrow import array_of
        from etl.tables.casting import cast

        keys = array_of(self._rows[name])
        typed = cast(keys, kind)
        if typed.null_count > keys.null_count:
            misfit = keys.filter(typed.is_null()).drop_null()[0]
            raise DataError(f"{self._file}: {name} holds {misfit}, and the column that looks for it is {kind}")
        return typed

    def _check_unique(self, keys: Any, names: list[str]) -> None:
        from etl.tables.arrow import key_text, pc

        places = keys.drop_null().column("place")
        first = keys.group_by(keys.column_names[:-1], use_threads=False).aggregate([("place", "min")])
        repeated = places.filter(pc.invert(pc.is_in(places, value_set=first.column("place_min"))))
        if len(repeated):
            example = key_text(self._rows, names).iloc[repeated[0].as_py()]
            raise DataError(f"{self._file}: {', '.join(names)} should be unique, and {example!r} comes twice or more")


def _placed(columns: list[Values]) -> Any:
    """A table of these columns, and of the place of each row. Arrow joins and groups by no types of an extension."""
    import numpy as np
    import pyarrow as pa

    names = [str(number) for number in range(len(columns))]
    columns = [values.storage if isinstance(values, pa.ExtensionArray) else values for values in columns]
    return pa.table([*columns, pa.array(np.arange(len(columns[0])))], names=[*names, "place"])
