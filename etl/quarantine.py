"""Quarantine: rejected rows are written to a local file during the run, and kept beside the data at its end."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etl.drafts import disk_errors
from etl.errors import DataError, translated
from etl.ledger import Reject, source_rows
from etl.privacy import Veil
from etl.run import Run

if TYPE_CHECKING:
    from pandas import DataFrame


class Quarantine:
    """Collects rejects as JSON lines, one for each rule that a row broke.

    The keys of a line: run, pipeline, source, row, step, column, value, rule and raw, the whole row as it was read.
    What a step of the pipeline hides is hidden here too, and ``hidden`` names the columns of raw that it concerns.
    ``in_part`` is there if other parts of the row were good.
    ``arrow_schema``: of the rows as they were read, in base64; None if all is text, as JSON has it.
    ``limit``: how many rows may be rejected, a count or a share of the rows read such as "1%".
    """

    def __init__(self, run: Run, limit: int | str, veil: Veil) -> None:
        self._run = run
        self._limit = limit
        self.veil = veil
        self.arrow_schema: str | None = None

    def __enter__(self) -> Quarantine:
        self._folder = tempfile.TemporaryDirectory(prefix="etl-")
        self.path = Path(self._folder.name) / "rejects.jsonl"
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(OSError):  # a full disk was told when rows were written
            self._file.close()
        self._folder.cleanup()

    @translated("Quarantine")
    def add(self, rejects: Collection[Reject], batch: DataFrame, result: DataFrame) -> None:
        """Write down the rejects of a batch. ``batch``: as extracted; ``result``: what the last transformer made of it.

        A line that never became a row brings its own text.
        """
        if not rejects:
            return
        self.arrow_schema = self.arrow_schema or _schema_of(batch)
        source = batch.attrs.get("source", self._run.source.uri)
        read = _rows(batch, [reject.row for reject in rejects])
        good = set(source_rows(result.index).tolist()).intersection(reject.row for reject in rejects)
        for reject in rejects:
            raw, hidden = self.veil.raw(read.get(reject.row) if reject.raw is None else reject.raw)
            value = self.veil.value(reject.step, reject.column, reject.value)
            about = {"run": self._run.id, "pipeline": self._run.pipeline, "source": source}
            entry = {**about, **asdict(reject), "value": value, "raw": raw}
            if hidden:
                entry["hidden"] = hidden
            if reject.row in good:
                entry["in_part"] = True
            with disk_errors(self.path):
                self._file.write(json.dumps(entry, ensure_ascii=False, default=str) + "\n")

    @translated("Quarantine")
    def close(self) -> Path:
        """All rejects are in; the file that holds them."""
        with disk_errors(self.path):
            self._file.close()
        return self.path

    def check(self, rows_rejected: int, rows_read: int) -> None:
        """Raise DataError if too many rows were rejected."""
        limit = Decimal(self._limit) if isinstance(self._limit, int) else _part_of(rows_read, self._limit)
        if rows_rejected > limit:
            raise DataError(
                f"{rows_rejected:,} of {rows_read:,} rows were rejected, more than max_rejects = {self._limit!r} "
                "allows; nothing was published"
            )


def read_rejects(content: bytes) -> Iterable[dict[str, Any]]:
    """The lines that a quarantine wrote."""
    return map(json.loads, BytesIO(content))


def _part_of(rows: int, share: str) -> Decimal:
    """``share`` percent, exactly: to a float, 29 % of 100 is less than 29."""
    return Decimal(share.rstrip("% ")) * rows / 100


def _schema_of(batch: DataFrame) -> str | None:
    import base64

    import pyarrow as pa

    schema = pa.Schema.from_pandas(batch.iloc[:0], preserve_index=False).remove_metadata()
    all_text = all(pa.types.is_string(kind) for kind in schema.types)
    return None if all_text else base64.b64encode(schema.serialize()).decode()


def _rows(batch: DataFrame, numbers: list[int]) -> dict[int, dict[str, Any]]:
    """The rows of the batch that have these numbers, each as a mapping."""
    from etl.tables.arrow import python_values

    rows = batch[batch.index.isin(numbers)]
    names = [str(name) for name in rows.columns]
    cells = zip(*(python_values(values) for _, values in rows.items()), strict=True)
    return {number: dict(zip(names, row, strict=True)) for number, row in zip(rows.index.tolist(), cells, strict=True)}
