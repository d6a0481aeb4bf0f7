"""Regrouping of Arrow tables, so that what is written does not depend on how the rows arrived."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

import pyarrow as pa


def regroup(tables: Iterable[pa.Table], rows: int, piece_rows: int | None = None) -> Iterator[pa.Table]:
    """Yield tables of exactly ``rows`` rows; the last may be shorter, and is left out if empty.

    Each has one chunk. With ``piece_rows`` it has chunks that end at multiples of that, and at the table's end: so
    nearly all rows stay where they are, and only the pieces in which two of the given tables meet are copied.
    Rows that were yielded are not held any longer: whoever iterates should let go of them too before the next.
    """
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        del table
        while count >= rows:
            group, waiting = _split(waiting, rows)
            count -= rows
            group = _joined(group, piece_rows)
            yield group
            del group
    if count:
        yield _joined(pa.concat_tables(waiting), piece_rows)


def _split(tables: list[pa.Table], rows: int) -> tuple[pa.Table, list[pa.Table]]:
    """The first ``rows`` rows, and what is left. Empty slices would keep their rows in memory."""
    joined = pa.concat_tables(tables)
    rest = joined.slice(rows)
    return joined.slice(0, rows), [rest] if rest.num_rows else []


def _joined(table: pa.Table, piece_rows: int | None) -> pa.Table:
    if piece_rows is None:
        return table.combine_chunks()
    return pa.concat_tables(_pieces(table, piece_rows))


def _pieces(table: pa.Table, size: int) -> Iterator[pa.Table]:
    """The table in slices of one chunk each, which end at multiples of ``size`` rows."""
    done = 0
    for end in accumulate(batch.num_rows for batch in table.to_batches()):
        whole = end - end % size
        if whole > done:
            yield table.slice(done, whole - done)
            done = whole
        if end > done:
            seam = table.slice(done, size).combine_chunks()
            yield seam
            done += seam.num_rows
