"""Makes Arrow tables of one schema out of batches; types may change from one to the next if that loses nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, starmap
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from etl.errors import DataError, EtlError
from etl.tables.arrow import arrow_columns, is_bytes, is_text, plain_type

if TYPE_CHECKING:
    from pandas import DataFrame

_HEAD_ROWS = 131_072
_KINDS = (
    (pa.types.is_integer, pa.types.is_floating),
    (pa.types.is_integer, pa.types.is_decimal),
    (is_text,),
    (is_bytes,),
    (pa.types.is_date,),
    (pa.types.is_time,),
    (pa.types.is_duration,),
)


def arrow_tables(batches: Iterable[DataFrame]) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """The schema, and an Arrow table of it for each batch. The types are those of the first batch.

    A column that holds only nulls there takes its type from the first batch that knows better, if it comes soon.
    Raises DataError for a batch with other columns, or with values that these types cannot hold.
    """
    tables = map(_placed, batches)  # neither this nor starmap holds on to a table while the next is made
    head: deque[tuple[pa.Table, str]] = deque()
    typed: dict[str, pa.Field[Any]] = {}
    rows = 0
    for table, place in tables:
        head.append((table, place))
        typed |= {name: table.schema.field(name) for name in _names_with_values(table) if name not in typed}
        rows += table.num_rows
        if rows >= _HEAD_ROWS or typed.keys() >= set(table.column_names):
            break
    if not head:
        raise EtlError("was given no batch, not even an empty one")
    first, _ = head[0]
    schema = pa.schema([typed.get(field.name, field) for field in first.schema])
    return schema, starmap(partial(_fitted, schema), chain(_drained(head), tables))


def _drained(head: deque[tuple[pa.Table, str]]) -> Iterator[tuple[pa.Table, str]]:
    while head:
        yield head.popleft()


def _placed(batch: DataFrame) -> tuple[pa.Table, str]:
    return _table(batch), _place(batch)


def _place(batch: DataFrame) -> str:
    return f"the batch at row {batch.index[0]:,}" if len(batch) else "an empty batch"


def _table(batch: DataFrame) -> pa.Table:
    try:
        columns = arrow_columns(batch)
        if columns is not None:  # far quicker than to have pyarrow find out
            table = pa.table(list(columns.values()), names=[str(name) for name in columns])
        else:
            table = pa.Table.from_pandas(batch, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowException, ValueError) as error:
        what = ": ".join(map(str, error.args))
        raise DataError(f"{_place(batch)} has values without a common type: {what}. Declare the types.") from error
    for number, field in enumerate(table.schema):
        plain = plain_type(field.type)  # which values are in a dictionary depends on the batch, and few can read views
        if plain != field.type:
            table = table.set_column(number, field.name, table.column(number).cast(plain))
    return table


def _names_with_values(table: pa.Table) -> list[str]:
    columns = zip(table.column_names, table.columns, strict=True)
    return [name for name, column in columns if column.null_count < table.num_rows]


def _fitted(schema: pa.Schema, table: pa.Table, place: str) -> pa.Table:
    if table.schema == schema:
        return table
    if table.column_names != schema.names:
        raise DataError(f"{place} has the columns {table.column_names}, the first batch had {schema.names}")
    try:
        return with_types(table, schema)
    except pa.ArrowException as error:
        changed = zip(table.schema, schema, strict=True)
        types = "; ".join(f"{new.name} is {new.type}, was {old.type}" for new, old in changed if new.type != old.type)
        raise DataError(f"{place} changed types: {types}. Declare the types in a transformer.") from error


def with_types(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the types of ``schema``, which has its columns. Raises ArrowException if that changes a value."""
    for position, (new, old) in enumerate(zip(table.schema, schema, strict=True)):
        if new.type == old.type:
            continue
        if table.column(position).null_count == table.num_rows:
            table = table.set_column(position, old, pa.nulls(table.num_rows, old.type))
        elif not same_kind(new.type, old.type):
            raise pa.ArrowInvalid(f"{new.type} is no kind of {old.type}")
    return table.cast(schema)


def same_kind(new: Any, old: Any) -> bool:
    """Whether a safe cast between these types keeps values what they are, or fails.

    So never text from numbers, a shorter float, a date from a time, a time in a zone from one in none, or fewer fields.
    """
    new = plain_type(new)
    if new == old or pa.types.is_null(new):
        return True
    if pa.types.is_floating(new) and pa.types.is_floating(old):
        return bool(new.bit_width <= old.bit_width)
    if pa.types.is_timestamp(old):
        zone = new.tz if pa.types.is_timestamp(new) else None
        return (pa.types.is_timestamp(new) or pa.types.is_date(new)) and (zone is None) == (old.tz is None)
    if pa.types.is_struct(new) and pa.types.is_struct(old):
        return all(
            old.get_field_index(field.name) >= 0 and same_kind(field.type, old.field(field.name).type) for field in new
        )
    if pa.types.is_nested(new) and pa.types.is_nested(old):
        return new.num_fields == old.num_fields == 1 and same_kind(new.field(0).type, old.field(0).type)
    return any(any(is_kind(new) for is_kind in kind) and any(is_kind(old) for is_kind in kind) for kind in _KINDS)
