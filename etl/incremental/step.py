"""Picks the new rows out of those that an incremental run reads, and works out where the next run continues."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field

from etl.base import Extractor, Loader, Transformer
from etl.errors import ConfigError, DataError
from etl.incremental.options import NEEDS_APPEND, NO_CURSOR_RULE, Cursor, Incremental, incremental_of
from etl.incremental.state import Reached, digests
from etl.incremental.values import cursor_values, fitted, greatest, kind_of, not_later_than
from etl.ledger import Account
from etl.run import Live, Run
from etl.tables.arrow import Values, array_of, check_columns, pc, rows_where

if TYPE_CHECKING:
    from pandas import DataFrame

_STATE = "incremental"

log = logging.getLogger(__name__)


def continued(pipeline: str, extractor: Extractor, loader: Loader, *, force: bool = False) -> tuple[Extractor, NewRows]:
    """The extractor as it reads what is new since the last run, and the step that sorts out what is not.

    Raises ConfigError if the loader cannot tell the next run where this one has ended; or, unless ``force``, if what is
    live does not tell where this pipeline has ended, as after a change of its name: all of it would be added again.
    """
    options = incremental_of(extractor)
    if options is None or not loader.keeps_state():
        raise ConfigError(f"extract.incremental: {NEEDS_APPEND}")
    with loader.blamed():
        live = loader.live()
        new_rows = NewRows.after(live, pipeline, options)
        if live is not None and not new_rows.has_run() and not force:
            raise ConfigError(
                f"{live.uri} holds no cursor of a pipeline {pipeline!r}, which would add all that it reads to what is "
                "there; use the name or the prefix that it had, or --force, once, if that is meant"
            )
    with extractor.blamed():
        first = new_rows.reads_from()
        log.info(
            "reading %s",
            "everything" if first is None else f"what has {options.column} from {first} on",
            extra={"step": extractor.name},
        )
        return (extractor if first is None else extractor.since(first)), new_rows


class NewRows(Transformer):
    """Leaves out what earlier runs have read. The step that a pipeline with ``[extract.incremental]`` begins with."""

    pipeline: str = Field(description="The name under which the state is kept.")
    options: Incremental = Field(description="Those of the extractor.")
    live_run: str | None = Field(description="The run that published what is live now; None if nothing is.")
    live_state: dict[str, Any] = Field(description="What is kept beside it.")
    now: datetime = Field(
        default_factory=lambda: datetime.now(UTC), exclude=True, description="When the run began, before it read."
    )

    @classmethod
    def after(cls, live: Live | None, pipeline: str, options: Incremental) -> NewRows:
        """The step of a run that continues what is ``live``."""
        run_id, state = (live.run_id, dict(live.state)) if live else (None, {})
        return cls(pipeline=pipeline, options=options, live_run=run_id, live_state=state)

    def has_run(self) -> bool:
        """Whether this pipeline, under its name, has a part in what is live."""
        return self.pipeline in self.live_state.get(_STATE, {})

    def reached(self) -> Reached | None:
        """How far the runs so far have come; None if there are none. Raises ConfigError if it does not fit."""
        kept = self.live_state.get(_STATE, {}).get(self.pipeline)
        return None if kept is None else Reached.from_kept(kept, self.options)

    def reads_from(self) -> Cursor | None:
        """The value from which on this run reads; None: everything."""
        reached = self.reached()
        return self.options.start if reached is None else reached.next_from

    def start(self) -> _Window:
        return _Window(self.options, self.now, self.reached(), self.reads_from())

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        window: _Window = account.state
        column = self.options.column
        check_columns(batch, (column, *self.options.key))
        values = cursor_values(batch[column])
        missing = rows_where(pc.is_null(values), batch.index)
        if self.options.nulls == "reject":
            account.reject(missing, NO_CURSOR_RULE, column=column)
        else:
            account.drop(missing, f"{column} is null")
        if values.null_count == len(values):
            return batch
        window.fit(values)
        if window.first is not None:
            wanted = pc.greater_equal(values, window.first)
            account.drop(rows_where(pc.invert(wanted), batch.index), f"{column} is before {window.first}")
            values = pc.if_else(wanted, values, None)
        account.drop(batch.index[window.known(batch, values)], "read by an earlier run")
        return batch

    def concluded(self, run: Run, account: Account) -> Run:
        """The run with the state that is to be committed: as it was, if nothing new was read.

        Raises DataError if the next run could not tell which rows it reads again.
        """
        window: _Window | None = account.state
        others = self.live_state.get(_STATE, {})
        kept = others.get(self.pipeline)
        if window is not None and window.new_rows:
            with self.blamed():
                kept = window.reached_now().kept(self.options)
        state = {**self.live_state, _STATE: {**others, self.pipeline: kept}}
        return replace(run, state=state, after=self.live_run)

    def has_news(self, run: Run) -> bool:
        """Whether there is something to commit that is not live already."""
        return run.force or self.live_run is None or run.state != self.live_state


@dataclass
class _Window:
    """What a run remembers: the rows that the next run will read again, as far as can be told yet.

    ``rows``: cursor and ``columns`` of at most ``max_window_rows``. ``forgotten``: the latest that had no place there.
    ``unmet``: fingerprints of rows that earlier runs have seen and this one has not met yet.
    """

    options: Incremental
    now: datetime
    reached: Reached | None
    first: Cursor | None
    columns: tuple[str, ...] = ()
    latest: Any = None
    new_rows: int = 0
    rows: pa.Table | None = None
    forgotten: Any = None
    unmet: Counter[bytes] = field(default_factory=Counter)

    def fit(self, values: Values) -> None:
        """Take ``start``, or what was kept, as values of this column. Raises ConfigError or DataError otherwise."""
        if self.latest is not None:
            return
        if self.first is not None:
            self.first = fitted(self.first, values)
        if self.reached is not None:
            self.reached = self.reached.fitted(values)
            self.unmet = Counter(self.reached.seen)
        self.latest = self.reached.latest if self.reached else greatest(values)
        try:
            self.options.before(self.latest)
        except ValueError as error:
            raise ConfigError(
                f"extract.incremental: {error}; the values of {self.options.column} are of kind {kind_of(self.latest)}"
            ) from error

    def known(self, batch: DataFrame, values: Values) -> list[int]:
        """Positions of the rows that were read by earlier runs; null in ``values`` are rows that do not count."""
        latest = greatest(values)
        if latest is None:
            return []
        self.latest = max(self.latest, latest)
        self.columns = self.columns or self._identity(batch)
        identity = [array_of(batch[column]) for column in self.columns]
        rows = pa.table([values, *identity], names=["cursor", *map(str, range(len(identity)))])
        known = self._met_again(rows)
        self.new_rows += len(values) - values.null_count - len(known)
        self._remember(rows)
        return known

    def reached_now(self) -> Reached:
        """How far this run has come. Raises DataError if more rows are in the window than may be."""
        value, low = self._value(), self._low()
        seen = Counter(digests(self.rows.columns[1:]) if self.rows is not None else [])
        if self.reached is not None and value == self.reached.value:
            seen |= self.reached.seen  # what has vanished may come back
        if seen.total() > self.options.max_window_rows or (self.forgotten is not None and self.forgotten >= low):
            raise DataError(
                f"more than {self.options.max_window_rows:,} rows have {self.options.column} from {low} on, which "
                "the next run will read again: shorten incremental.lag, or raise incremental.max_window_rows"
            )
        return Reached(value, self.latest, low, seen, self.columns)

    def _identity(self, batch: DataFrame) -> tuple[str, ...]:
        """The columns that tell one row from another, the same in every run."""
        if self.reached is not None:
            lost = [name for name in self.reached.columns if name not in batch.columns]
            if lost:
                raise DataError(
                    f"earlier runs told rows apart by {', '.join(lost)} too, which the source does not have any more; "
                    "bring it back, or publish to another prefix"
                )
            return self.reached.columns
        names = {self.options.column, *self.options.key} if self.options.key else map(str, batch.columns)
        return tuple(sorted(names))

    def _met_again(self, rows: pa.Table) -> list[int]:
        """Positions of the rows that earlier runs have seen, each as many times as they have."""
        if self.reached is None:
            return []
        old = pc.fill_null(pc.less_equal(rows["cursor"], self.reached.latest), False)
        positions = pc.indices_nonzero(old)
        known = []
        for position, digest in zip(positions.to_pylist(), digests(rows.take(positions).columns[1:]), strict=True):
            if self.unmet[digest]:
                self.unmet[digest] -= 1
                known.append(position)
        return known

    def _value(self) -> Any:
        value = not_later_than(self.now, self.latest)
        return max(value, self.reached.value) if self.reached else value

    def _low(self) -> Any:
        """Where the next run begins to read, as far as can be told yet; never before what this one has read."""
        low: Any = self.options.before(self._value())
        return low if self.first is None else max(low, self.first)

    def _remember(self, rows: pa.Table) -> None:
        both = rows if self.rows is None else pa.concat_tables([self.rows, rows], promote_options="permissive")
        window = both.filter(pc.greater_equal(both["cursor"], self._low()))
        most = self.options.max_window_rows
        if window.num_rows > most:
            window = window.sort_by([("cursor", "descending")])
            self.forgotten = greatest(window["cursor"][most:])
        self.rows = window.slice(0, most).combine_chunks()
