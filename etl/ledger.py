"""The ledger: what happened to every row in every step of a run.

A step writes into its own ``Account``: rows it read, rejected, dropped, and values it repaired. The base
classes do the counting and check after every batch that no row went missing without a reason.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from etl.errors import EtlError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pandas import DataFrame, Index, Series

    Rows = Series[bool] | Index[Any]

MAX_SAMPLES = 3
EVIDENCE_CHARS = 4_000
_MOST_REASONS, _OTHER_REASONS = 100, "other reasons"
PART_BITS = 40  # the label of a row: its number in the source, and above these bits which part of that row it is

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reject:
    """One rule broken by one row. ``raw`` is the whole row as read: a mapping, or the text of a line."""

    row: int
    step: str
    column: str | None
    value: str | None
    rule: str
    raw: Any = None


@dataclass
class Repair:
    """How many values one cleaning rule changed, with a few (row, before, after) samples."""

    count: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Account:
    """One step's share of the ledger, and the only thing a step writes to while it runs.

    ``state`` belongs to the step: whatever ``Transformer.start()`` returned for this run.
    """

    step: str
    rows_in: int = 0
    rows_out: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    added: Counter[str] = field(default_factory=Counter)
    repaired: dict[str, Repair] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    waited: float = 0.0
    state: Any = None
    _rejects: list[Reject] = field(default_factory=list)
    _leaving: set[int] = field(default_factory=set)
    _adding: int = 0

    # -- what a step calls ------------------------------------------------------------------------

    def reject(self, rows: Rows, rule: str, *, column: str | None = None, values: Any = None) -> None:
        """Send ``rows`` to quarantine, because they broke ``rule``. They are given by a mask or by their index.

        ``values``: a Series that holds the offending raw values. A row may be rejected for
        several rules; it is counted under the first and listed under each. The base class takes the rows out.
        """
        labels = labels_of(rows)
        self._leave(labels, self.rejected, f"{column}: {rule}" if column else rule)
        texts = [None] * len(labels) if values is None else _texts(values.loc[labels])
        self._rejects.extend(
            Reject(source_row(label), self.step, column, text, rule) for label, text in zip(labels, texts, strict=True)
        )

    def reject_line(self, row: int, rule: str, line: str) -> None:
        """For extractors: source row ``row`` could not be made into a row at all; the beginning of its text is kept."""
        _count(self.rejected, rule, 1)
        self._rejects.append(Reject(row, self.step, None, None, rule, raw=line[:EVIDENCE_CHARS]))

    def drop(self, rows: Rows, reason: str) -> None:
        """Leave ``rows`` out on purpose; they are given by a mask or by their index. The base class takes them out."""
        self._leave(labels_of(rows), self.dropped, reason)

    def add(self, reason: str, count: int) -> None:
        """Say that the step makes this many rows more than it was given: it makes several of one."""
        if count:
            self.added[reason] += count
            self._adding += count

    def repair(self, rule: str, before: Series[Any], after: Series[Any]) -> None:
        """Count, with samples, the values that differ between two Series of the same index (null equals null).

        Costs nothing if ``after`` is ``before`` itself: give that back where there was nothing to change.
        """
        if after is before:
            return
        equal = before == after
        same = equal.fillna(False) | (before.isna() & after.isna())
        count = len(same) - int(same.sum())
        if count == 0:
            return
        samples = []
        if len(self._repair(rule).samples) < MAX_SAMPLES:
            rows = labels_of(~same)[:MAX_SAMPLES]
            evidence = zip(rows, _texts(before.loc[rows]), _texts(after.loc[rows]), strict=True)
            samples = [{"row": source_row(row), "before": old, "after": new} for row, old, new in evidence]
        self.count_repairs(rule, count, samples)

    def count_repairs(self, rule: str, count: int, samples: list[dict[str, Any]] | None = None) -> None:
        """Count repairs that are not a comparison of two Series."""
        repair = self._repair(rule)
        repair.count += count
        repair.samples += (samples or [])[: MAX_SAMPLES - len(repair.samples)]

    def warn(self, message: str) -> None:
        """Say something once that a person should know; it goes to the log and to the report."""
        if message not in self.warnings:
            self.warnings.append(message)
            log.warning(message, extra={"step": self.step})

    # -- what the base classes and the pipeline call ------------------------------------------------

    @property
    def next_row(self) -> int:
        """The number in the source of the row that an extractor reads next."""
        return self.rows_out + self.rejected.total() + 1

    def leaving(self, index: Index[Any]) -> Series[bool]:
        """Mask over ``index``: the rows that this batch has rejected or dropped so far."""
        from pandas import Index, RangeIndex, Series

        labels = list(self._leaving)
        if not labels or not isinstance(index, RangeIndex):
            return Series(index.isin(labels) if labels else False, index=index, dtype=bool)
        mask = Series(False, index=index)
        places = index.get_indexer(Index(labels))  # a subtraction, where isin would hash the labels of all rows
        mask.iloc[places[places >= 0]] = True
        return mask

    def settle(self, rows_in: int, result: DataFrame) -> DataFrame:
        """Take rejected and dropped rows out of ``result`` and check that the batch balances."""
        gone = len(self._leaving)
        if gone:
            from etl.tables.arrow import rows_kept

            result = rows_kept(result, ~self.leaving(result.index).to_numpy())
            self._leaving = set()
        missing = rows_in + self._adding - gone - len(result)
        self._adding = 0
        if missing > 0:
            raise EtlError(
                f"lost {missing:,} rows without giving a reason (use account.drop or account.reject)", step=self.step
            )
        if missing < 0:
            raise EtlError(f"returned {-missing:,} rows more than it was given", step=self.step)
        self.rows_in += rows_in
        self.rows_out += len(result)
        return result

    def take_rejects(self) -> list[Reject]:
        """The rejects since the last call."""
        taken, self._rejects = self._rejects, []
        return taken

    def balances(self) -> bool:
        return self.rows_in + self.added.total() == self.rows_out + self.rejected.total() + self.dropped.total()

    def close(self) -> None:
        """Let the step's state go: it may hold temporary files."""
        close = getattr(self.state, "close", None)
        if close is not None:
            close()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time spent inside to ``seconds``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started

    def as_dict(self) -> dict[str, Any]:
        """The account as it stands in a run report."""
        return {
            "name": self.step,
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "rejected": dict(self.rejected),
            "dropped": dict(self.dropped),
            "added": dict(self.added),
            "repaired": {rule: {"count": r.count, "samples": r.samples} for rule, r in self.repaired.items()},
            "warnings": self.warnings,
            "seconds": round(self.seconds, 3),
            "waited": round(self.waited, 3),
        }

    def _leave(self, labels: list[int], counted: Counter[str], reason: str) -> None:
        """Note the rows that leave. A row that leaves already is counted no second time."""
        fresh = [label for label in labels if label not in self._leaving]
        if fresh:
            self._leaving.update(fresh)
            _count(counted, reason, len(fresh))

    def _repair(self, rule: str) -> Repair:
        return self.repaired.setdefault(rule, Repair())


def account_names(steps: Iterable[str]) -> list[str]:
    """A name a step; a class that is used twice gets a number, as in ``CastTypes-2``."""
    seen: Counter[str] = Counter()
    names = []
    for step in steps:
        seen[step] += 1
        names.append(step if seen[step] == 1 else f"{step}-{seen[step]}")
    return names


def source_row(label: int) -> int:
    """The number in the source of the row that has this label, or of which it is a part."""
    return label & ((1 << PART_BITS) - 1)


def source_rows(index: Index[Any]) -> NDArray[np.int64]:
    """The numbers in the source of the rows that have these labels."""
    rows: NDArray[np.int64] = index.to_numpy() & ((1 << PART_BITS) - 1)
    return rows


def quoted(evidence: str | None) -> str:
    """Evidence as people see it: in quotes, or null. A backslash, as in ``Caf\\xe9`` for a byte, is not doubled."""
    return "null" if evidence is None else repr(evidence).replace("\\\\", "\\")


def labels_of(rows: Rows) -> list[int]:
    """The labels of the rows that a mask or an index selects."""
    from pandas import Index

    selected = rows if isinstance(rows, Index) else rows.index[rows.fillna(False).to_numpy(dtype=bool)]
    return [int(label) for label in selected.tolist()]


def _count(counted: Counter[str], reason: str, count: int) -> None:
    """Count under the reason, or with others once there are very many: some name what they found in a row."""
    counted[reason if reason in counted or len(counted) < _MOST_REASONS else _OTHER_REASONS] += count


def _texts(values: Series[Any]) -> list[str | None]:
    """Values as evidence: text, or None for any kind of null."""
    from etl.tables.arrow import python_values

    return [None if value is None or _is_nan(value) else str(value) for value in python_values(values)]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value
