"""The guard: compares what a run would publish with the last good run, and holds back what has another shape."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from etl.errors import AccessError, ConfigError, DataError
from etl.options import Options
from etl.steps import did_you_mean

if TYPE_CHECKING:
    from etl.base import Loader, Transformer
    from etl.run import Live

_FEWEST_ADDED_ROWS = 100  # of fewer, a share says nothing

log = logging.getLogger("etl.pipeline")

Share = Annotated[str, Field(pattern=r"^\d+(\.\d+)?\s*%$")]
Shape = Mapping[str, Any]  # as ``Figures.as_dict`` gives it


class Guard(Options):
    """The limits of ``[guard]``. A first run has nothing to be compared with; then only having no rows is suspicious.

    Where runs add rows, instead of replacing them all, any number of them is right: then only columns are compared.
    """

    enabled: bool = Field(default=True, description="Whether to compare at all.")
    fewer_rows: Share = Field(default="20%", description="How many of the rows may be missing.")
    more_rows: Share = Field(default="100%", description="How many more rows there may be.")
    more_nulls: Share = Field(
        default="20%", description="By how much the share of nulls in a column may rise, in points: from 5 % to 25 %."
    )
    lost_range: Share = Field(
        default="20%",
        description="How much of the way from the lowest to the highest value of a key may be missing.",
    )
    keys: tuple[str, ...] = Field(
        default=(),
        description="Columns of numbers, dates or times whose range is compared, beside those by which steps tell rows "
        "apart.",
    )
    columns: Literal["hold", "allow"] = Field(
        default="hold", description="Whether a new column, a lost one, or another type holds a run back."
    )
    allow_empty: bool = Field(default=False, description="Whether to publish a table without any rows.")

    def findings(self, now: Shape, last: Shape | None, keys: Sequence[str], *, adds: bool) -> list[str]:
        """What is suspicious. ``last``: of the last good run; ``keys``: by which steps tell rows apart.

        ``adds``: the run adds rows, instead of replacing them all. Raises ConfigError for keys that have no range.
        """
        self._check_keys(now)
        if not adds and not now["rows"]:
            return [] if self.allow_empty else ["there are no rows (allow_empty = false)"]
        if not last:
            return []
        found = [*self._columns(now, last), *self._nulls(now, last, adds=adds)]
        return found if adds else [*self._rows(now, last), *found, *self._ranges(now, last, {*self.keys, *keys})]

    def _check_keys(self, now: Shape) -> None:
        for key in self.keys:
            if key not in now["columns"]:
                raise ConfigError(f"guard.keys: there is no column {key!r}{did_you_mean(key, now['columns'])}")
            facts = now["columns"][key]
            if (facts["low"], facts["high"]) == (None, None) and facts["nulls"] < now["rows"]:
                raise ConfigError(f"guard.keys: {key} is {facts['type']}; only numbers, dates and times have a range")

    def _rows(self, now: Shape, last: Shape) -> Iterator[str]:
        if not last["rows"]:
            return
        change = (now["rows"] - last["rows"]) / last["rows"]
        for limit, share in (("fewer_rows", -change), ("more_rows", change)):
            if share > _share(getattr(self, limit)) + 1e-9:
                told = self._limit(limit)
                yield f"{now['rows']:,} rows instead of {last['rows']:,} ({change:+.1%}, {told})"

    def _columns(self, now: Shape, last: Shape) -> Iterator[str]:
        if self.columns == "allow":
            return
        new, old = now["columns"], last["columns"]
        yield from (f"column {name} is gone" for name in old if name not in new)
        yield from (f"column {name} is new" for name in new if name not in old)
        for name in new:
            if name in old and new[name]["type"] != old[name]["type"]:
                yield f"{name} is {new[name]['type']}, was {old[name]['type']}"

    def _nulls(self, now: Shape, last: Shape, *, adds: bool) -> Iterator[str]:
        fewest = _FEWEST_ADDED_ROWS if adds else 1
        if min(now["rows"], last["rows"]) < fewest:
            return
        for name, facts in now["columns"].items():
            if name not in last["columns"]:
                continue
            share, before = facts["nulls"] / now["rows"], last["columns"][name]["nulls"] / last["rows"]
            if share - before > _share(self.more_nulls) + 1e-9:
                yield f"{name} is null in {share:.1%} of the rows, was in {before:.1%} ({self._limit('more_nulls')})"

    def _ranges(self, now: Shape, last: Shape, keys: set[str]) -> Iterator[str]:
        for name in sorted(keys & now["columns"].keys() & last["columns"].keys()):
            new, old = now["columns"][name], last["columns"][name]
            low, high, lowest, highest = (_position(each[end]) for each in (old, new) for end in ("low", "high"))
            if None in (low, high, lowest, highest) or low == high:  # no values, or endless ones
                continue
            lost = max(lowest - low, 0) + max(high - highest, 0)
            if lost / (high - low) > _share(self.lost_range) + 1e-9:
                ranges = f"goes from {new['low']} to {new['high']}, went from {old['low']} to {old['high']}"
                yield f"{name} {ranges} ({lost / (high - low):.1%} lost, {self._limit('lost_range')})"

    def _limit(self, name: str) -> str:
        return f"{name} = {getattr(self, name)!r}"


def check_shape(
    guard: Guard, now: Shape, live: Live | None, loader: Loader, transformers: Sequence[Transformer], *, accept: bool
) -> None:
    """Raise DataError if the table is suspicious, unless a person has accepted that. ``now``: its figures."""
    if not guard.enabled:
        return
    keys = [name for step in transformers for name in step.keyed_by() or ()]
    findings = "; ".join(guard.findings(now, _last(loader, live), keys, adds=loader.adds_rows()))
    if findings and not accept:
        raise DataError(f"held back, what was published stays: {findings}. If that is right: run with --accept")
    if findings:
        log.warning("Accepted: %s", findings)


def _last(loader: Loader, live: Live | None) -> Shape | None:
    if live is None:
        return None
    try:
        with loader.blamed():
            return loader.figures(live)
    except AccessError as error:
        log.warning("The guard has nothing to compare with: %s", error)
        return None


def _share(text: str) -> float:
    return float(text.rstrip("% ")) / 100


def _position(value: Any) -> Any:
    """Where a number, date or time is on a line, to measure distances; None if there is none."""
    if not isinstance(value, str):
        return value
    moment = datetime.fromisoformat(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
