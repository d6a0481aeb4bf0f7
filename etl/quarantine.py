"""Quarantine: rejected rows are written to a local file during the run, and kept beside the data at its end."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from etl.errors import DataError
from etl.ledger import Reject
from etl.run import Run

if TYPE_CHECKING:
    from pandas import DataFrame


class Quarantine:
    """Collects rejects as JSON lines, one for each rule that a row broke.

    The keys of a line: run, source, row, step, column, value, rule and raw, the whole row as it was read.
    ``limit``: how many rows may be rejected, a count or a share of the rows read such as "1%".
    """

    def __init__(self, run: Run, limit: int | str) -> None:
        self._run = run
        self._limit = limit

    def __enter__(self) -> Quarantine:
        self._folder = tempfile.TemporaryDirectory(prefix="etl-")
        self.path = Path(self._folder.name) / "rejects.jsonl"
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._folder.cleanup()

    def add(self, rejects: Iterable[Reject], batch: DataFrame) -> None:
        """Write rejects down. ``batch``: the rows as extracted; a line that never became a row brings its own text."""
        for reject in rejects:
            raw = reject.raw if reject.raw is not None else _row(batch, reject.row)
            entry = {"run": self._run.id, "source": self._run.source.uri, **asdict(reject), "raw": raw}
            self._file.write(json.dumps(entry, ensure_ascii=False, default=str) + "\n")

    def close(self) -> Path:
        """All rejects are in; the file that holds them."""
        self._file.close()
        return self.path

    def check(self, rows_rejected: int, rows_read: int | None = None) -> None:
        """Raise DataError if too many rows were rejected. A share can be told only once all rows were read."""
        if isinstance(self._limit, int):
            too_many = rows_rejected > self._limit
        else:
            share = float(self._limit.rstrip("% ")) / 100
            too_many = rows_read is not None and rows_rejected > share * rows_read
        if too_many:
            of = f" of {rows_read:,}" if rows_read is not None else ""
            raise DataError(
                f"{rows_rejected:,}{of} rows were rejected, more than max_rejects = {self._limit!r} allows; "
                "nothing was published"
            )


def _row(batch: DataFrame, row: int) -> dict[str, Any] | None:
    if row not in batch.index:
        return None
    values = batch.loc[row]
    return {
        str(name): None if missing else value
        for (name, value), missing in zip(values.items(), values.isna(), strict=True)
    }
