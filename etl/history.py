"""The history of what was published: listing it, going back in it, and removing what it no longer needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from etl.errors import ConfigError

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.base import Loader

SHORTEST_GRACE = timedelta(days=1)


@dataclass(frozen=True)
class Version:
    """Something that was published by a run. ``rows`` is None where nobody wrote it down."""

    run_id: str
    published_at: datetime
    rows: int | None
    bytes: int
    live: bool


@dataclass(frozen=True)
class Garbage:
    """Something that no published version needs: a file of the data, or an unfinished upload (``bytes`` 0)."""

    uri: str
    bytes: int
    modified: datetime


class History(ABC):
    """What a loader offers whose destination remembers earlier runs."""

    @abstractmethod
    def versions(self) -> list[Version]:
        """What was published, the newest first."""

    @abstractmethod
    def rollback(self, run_id: str) -> Version:
        """Make what ``run_id`` published live again, in one act. Raises ConfigError if it cannot be found."""

    @abstractmethod
    def sweep(self, grace: timedelta, *, apply: bool = False) -> list[Garbage]:
        """What no version needs and is older than ``grace``; with ``apply`` it is removed.

        ``grace`` must be longer than the longest run and reader: files of a run under way look like garbage.
        """


class Replays(ABC):
    """What a loader offers whose destination can take more rows of an earlier run, without writing the others again."""

    @abstractmethod
    def check(self, run_id: str) -> str | None:
        """The run that has replayed ``run_id`` already, if any. Raises ConfigError unless its rows are live."""

    @abstractmethod
    def columns(self) -> list[str]:
        """Of what is live."""

    @abstractmethod
    def rows(self, run_id: str, columns: Sequence[str]) -> Iterator[DataFrame]:
        """These columns of the live rows that are of ``run_id``, and of those that replayed it, and so on."""


# -- what the command line does with it --------------------------------------------------------------------------


def show_versions(loader: Loader) -> int:
    """Print what was published, the newest first."""
    versions = _history(loader).versions()
    if not versions:
        print("nothing has been published yet")
        return 0
    rows = [("", "run", "published", "rows", "bytes")]
    for version in versions:
        count = "?" if version.rows is None else f"{version.rows:,}"
        when = f"{version.published_at:%Y-%m-%d %H:%M:%S} UTC"
        rows.append(("live" if version.live else "", version.run_id, when, count, f"{version.bytes:,}"))
    print_table(rows, right=(3, 4))
    return 0


def roll_back(loader: Loader, run_id: str) -> int:
    """Make what ``run_id`` published live again, and print that."""
    version = _history(loader).rollback(run_id)
    rows = "" if version.rows is None else f", {version.rows:,} rows"
    print(f"live again: {version.run_id} of {version.published_at:%Y-%m-%d %H:%M:%S} UTC{rows}")
    print("The next run publishes what the source gives then. Stop the schedule until what went wrong is mended.")
    return 0


def sweep(loader: Loader, grace: timedelta, *, apply: bool) -> int:
    """Print what no published version needs, and remove it if ``apply``."""
    if grace < SHORTEST_GRACE:
        raise ConfigError("the grace period must be a day at least: the files of a run under way look like garbage")
    garbage = _history(loader).sweep(grace, apply=apply)
    print_table([(each.uri, f"{each.bytes:,}", f"{each.modified:%Y-%m-%d %H:%M}") for each in garbage], right=(1,))
    total = f"{len(garbage):,} of them, {sum(each.bytes for each in garbage):,} bytes"
    if not garbage:
        print(f"nothing to remove that is older than {grace.days} days")
    elif apply:
        print(f"removed {total}")
    else:
        print(f"would remove {total}; add --apply to do it")
    return 0


def _history(loader: Loader) -> History:
    if not isinstance(loader, History):
        raise ConfigError(f"{loader.name} keeps no history of what it published")
    return loader


def print_table(rows: Sequence[tuple[str, ...]], right: Sequence[int] = ()) -> None:
    """Print rows of cells in columns; ``right``: the numbers of those that are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
