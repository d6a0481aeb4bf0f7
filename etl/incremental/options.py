"""The table ``[extract.incremental]``: which column tells what is new, and how far to look back."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from etl.options import Options
from etl.steps import did_you_mean

Cursor = int | Decimal | date | datetime | str  # a value of the column; a datetime with a zone is in UTC

NEEDS_APPEND = 'only where the next run finds out how far this one came: S3Loader with prefix and mode = "append"'

NO_CURSOR = "null, so that no run can tell whether it is new"  # how the rule begins that such a row breaks
NO_CURSOR_RULE = f'{NO_CURSOR}; nulls = "drop" in [extract.incremental] leaves such rows out'

_LAG = re.compile(r"(\d+)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Incremental(Options):
    """Read what is new since the last run, by a column that only grows: a time of change, or a number."""

    column: str = Field(min_length=1, description="Integer, decimal, date, timestamp or text; more of it in new rows.")
    start: Cursor | None = Field(
        default=None, description="The first run reads from this value on. Default: everything."
    )
    lag: NonNegativeInt | str = Field(
        default=0, description='How late a row may arrive: "90s", "30m", "1h", "2d", "1w"; a number where those are.'
    )
    key: tuple[str, ...] = Field(
        default=(),
        description="Columns that name a row: with an equal cursor it is the same row. Default: all columns.",
    )
    nulls: Literal["reject", "drop"] = Field(
        default="reject", description="What becomes of rows without a value in the column, which every run reads."
    )
    max_window_rows: PositiveInt = Field(
        default=100_000,
        le=1_000_000,
        description="Most rows within lag of the end, 16 bytes of state each.",
    )

    @field_validator("start")
    @classmethod
    def _in_utc(cls, start: Cursor | None) -> Cursor | None:
        return start.astimezone(UTC) if isinstance(start, datetime) and start.tzinfo else start

    @field_validator("lag")
    @classmethod
    def _is_a_time(cls, lag: int | str) -> int | str:
        if isinstance(lag, str):
            _time_of(lag)
        return lag

    def before(self, value: Cursor) -> Cursor:
        """The value that is ``lag`` less. Raises ValueError if ``lag`` is of another kind."""
        if not self.lag:
            return value
        if isinstance(value, str):
            raise ValueError("lag cannot be taken from text; leave it out")
        if isinstance(value, date):
            if isinstance(self.lag, int):
                raise ValueError('lag should be a time, such as "1h"')
            return earlier(value, _time_of(self.lag))
        if isinstance(self.lag, str):
            raise ValueError("lag should be a number, such as 1000")
        return value - self.lag

    def check_declared(self, columns: Collection[str]) -> None:
        """Raise ValueError unless ``columns``, those that every run makes, has what tells the rows apart."""
        if not columns:
            raise ValueError("incremental needs columns: a run with few new rows, or none, cannot tell what they are")
        for name in (self.column, *self.key):
            if name not in columns:
                raise ValueError(
                    f"incremental needs {name!r}, which columns does not have{did_you_mean(name, columns)}"
                )


def _time_of(lag: str) -> timedelta:
    match = _LAG.fullmatch(lag)
    if match is None:
        raise ValueError('should be a time such as "90s", "30m", "1h", "2d" or "1w", or a whole number')
    try:
        return timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError as error:
        raise ValueError("is longer than the calendar") from error


def earlier(value: date, time: timedelta) -> date:
    """A date goes back by whole days, those begun included; nothing goes back beyond the calendar."""
    try:
        if not isinstance(value, datetime) and time % timedelta(days=1):
            time += timedelta(days=1)
        return value - time
    except OverflowError:
        return datetime.min.replace(tzinfo=value.tzinfo) if isinstance(value, datetime) else date.min


IncrementalOption = Annotated[Incremental | None, Field(description="Read only what is new since the last run.")]


def incremental_of(extractor: object) -> Incremental | None:
    """The table ``[extract.incremental]``, if the extractor has that option and it is set."""
    found = getattr(extractor, "incremental", None)
    return found if isinstance(found, Incremental) else None
