"""Regrouping of Arrow tables, so that what is written does not depend on how the rows arrived."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa


def regroup(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield tables of exactly ``rows`` rows in one chunk each; the last may be shorter, and is left out if empty.

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
            yield group
            del group
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


def _split(tables: list[pa.Table], rows: int) -> tuple[pa.Table, list[pa.Table]]:
    """The first ``rows`` rows in one chunk, and what is left. Empty slices would keep their rows in memory."""
    joined = pa.concat_tables(tables)
    rest = joined.slice(rows)
    return joined.slice(0, rows).combine_chunks(), [rest] if rest.num_rows else []
