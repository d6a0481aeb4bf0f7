"""Row numbers that travel with a table: as its last column, until it becomes a frame whose index they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from etl.errors import DataError
from etl.ledger import Account
from etl.tables.batches import regroup

_ROW = ""  # told by its place, as a column of data may have any name


def with_numbers(table: pa.Table, numbers: Sequence[int] | Any) -> pa.Table:
    """The table with one more column: the number of each row in its source."""
    return table.append_column(_ROW, pa.array(numbers, pa.int64()))


def numbered_frames(
    tables: Iterable[pa.Table], schema: pa.Schema, batch_rows: int, account: Account, problem: str | None = None
) -> Iterator[pd.DataFrame]:
    """Frames of exactly ``batch_rows`` rows (the last may have fewer) with Arrow-backed columns; one at least.

    ``tables``: of that schema, and with row numbers. Raises DataError with ``problem``, if one is given, when they have
    no rows and none was rejected.
    """
    rejected = account.rejected.total()
    empty = True
    for table in regroup(tables, batch_rows):
        empty = False
        yield _frame(table)
        del table
    if empty:
        if problem and account.rejected.total() == rejected:
            raise DataError(f"{problem}; set allow_empty = true if that is right")
        yield _frame(with_numbers(schema.empty_table(), []))


def _frame(table: pa.Table) -> pd.DataFrame:
    numbers = table.column(table.num_columns - 1).to_numpy()
    data = table.select(list(range(table.num_columns - 1))).replace_schema_metadata(None)
    frame: pd.DataFrame = data.to_pandas(types_mapper=pd.ArrowDtype)
    first = int(numbers[0]) if len(numbers) else 1
    unbroken = len(numbers) == 0 or numbers[-1] - first == len(numbers) - 1
    frame.index = pd.RangeIndex(first, first + len(numbers)) if unbroken else pd.Index(numbers.astype(np.int64))
    return frame
