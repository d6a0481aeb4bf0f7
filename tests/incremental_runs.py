"""What every source of an incremental pipeline must do: each row that is new is published once, whatever fails."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any

import pytest
from pandas import DataFrame
from pydantic import Field

import etl
from etl.base import Extractor, Transformer
from etl.errors import DataError
from etl.incremental.options import NO_CURSOR_RULE, incremental_of
from etl.incremental.step import NewRows
from etl.ledger import Account
from etl.loaders.s3 import S3Loader
from etl.report import RunReport
from etl.run import Live, Run, Source, new_run_id
from main import Pipeline
from tests.conftest import Bucket

NOON = "2026-01-31 12:00:00"
Order = tuple[int, str | None]
PIPELINE_FILE = """
[extract]
type = "SqlExtractor"
url = "{url}"
table = "orders"
[extract.incremental]
column = "updated_at"
key = ["id"]
[load]
type = "S3Loader"
bucket = "{bucket}"
{load}
"""


def next_run(extractor: Extractor, live: Live | None) -> tuple[int, list[Any], Live]:
    """How many rows the next run reads, the ids of those that are new, and what is live after it."""
    options = incremental_of(extractor)
    assert options is not None
    step = NewRows.after(live, "orders", options)
    first = step.reads_from()
    reading, sorting, found = Account("extract"), Account("new"), list[Any]()
    for batch in (extractor if first is None else extractor.since(first)).extract(reading):
        found += step.transform(batch, sorting)["id"].tolist()
    run, now_live = concluded(step, sorting)
    assert step.has_news(run) == (live is None or bool(found))
    assert sorting.balances()
    return reading.rows_in, sorted(found), now_live


def concluded(step: NewRows, account: Account) -> tuple[Run, Live]:
    """The run as it is committed, and what is live then."""
    run = step.concluded(Run(new_run_id(), step.pipeline, Source("test:")), account)
    return run, Live("test:", run.id, state=json.loads(json.dumps(run.state)))


class IncrementalRuns(ABC):
    """MUST write ``extractor``, ``begin``, ``insert`` and ``clear``, and a fixture ``_database``.

    They are about orders (id, updated_at), of which there are three; a time is UTC, or null.
    """

    @abstractmethod
    def extractor(self, **incremental: Any) -> Extractor: ...

    @abstractmethod
    def begin(self) -> None:
        """Make a place for orders, without any."""

    @abstractmethod
    def insert(self, *orders: Order) -> None: ...

    @abstractmethod
    def clear(self) -> None:
        """Delete all orders."""

    @pytest.fixture(autouse=True)
    def _orders(self, _database: None, bucket: Bucket) -> None:
        self.bucket = bucket
        self.begin()
        self.insert((1, "2026-01-31 00:00:00"), (2, NOON), (3, NOON))

    def pipeline(self, *transformers: Transformer, name: str = "orders", **options: Any) -> Pipeline:
        extractor = self.extractor(**{"column": "updated_at", "key": ["id"], **options})
        return Pipeline(name, extractor, transformers, self.loader(), max_rejects=10)

    def loader(self) -> S3Loader:
        return S3Loader(bucket=self.bucket.name, prefix="orders", mode="append")

    def published(self) -> list[int]:
        return sorted(etl.read_dataset(f"s3://{self.bucket.name}/orders/")["id"].tolist())

    def added(self, *transformers: Transformer, **options: Any) -> int | None:
        """How many rows the next run publishes; None if it finds nothing new."""
        report = self.pipeline(*transformers, **options).run()
        status, _, rows = outcome(report)
        assert status == ("published" if rows else "unchanged")
        return rows or None

    def test_each_new_row_is_added_once(self) -> None:
        assert self.added() == 3
        assert self.added() is None
        self.insert((4, "2026-02-01 00:00:00"), (5, "2026-02-02 08:30:00"))
        assert self.added() == 2
        assert self.added() is None
        assert self.published() == [1, 2, 3, 4, 5]

    def test_rows_of_the_same_instant_are_neither_lost_nor_doubled(self) -> None:
        for number in (4, 5):
            self.added()
            self.insert((number, NOON))
            assert self.added() == 1
        assert self.added() is None
        assert self.published() == [1, 2, 3, 4, 5]

    def test_late_rows_are_found_within_lag(self) -> None:
        self.added(lag="1h")
        self.insert((4, "2026-01-31 11:00:00"), (5, "2026-01-31 10:59:59"))
        assert self.added(lag="1h") == 1
        self.insert((6, "2026-01-31 13:00:00"), (7, "2026-01-31 11:30:00"))
        assert self.added(lag="1h") == 2
        assert self.added(lag="1h") is None
        assert self.published() == [1, 2, 3, 4, 6, 7]

    def test_the_first_run_begins_at_start(self) -> None:
        start = datetime(2026, 1, 31, 11, tzinfo=UTC)
        assert self.added(start=start) == 2
        self.insert((4, "2026-02-01 00:00:00"))
        assert self.added(start=start) == 1
        assert self.published() == [2, 3, 4]

    def test_a_failed_run_does_not_advance(self) -> None:
        self.added()
        self.insert((4, "2026-02-01 00:00:00"), (5, "2026-02-02 00:00:00"))
        assert self.pipeline(Broken(id=5)).run().exit_code == 65
        assert self.published() == [1, 2, 3]
        assert self.added() == 2
        assert self.published() == [1, 2, 3, 4, 5]

    def test_rows_without_a_cursor_are_read_by_every_run(self) -> None:
        self.insert((4, None))
        for news in (3, 0):
            report = self.pipeline().run()
            assert outcome(report)[2] == news
            assert report.steps[1].rejected == {f"updated_at: {NO_CURSOR_RULE}": 1}
        rejects = self.bucket.body(f"orders/_rejects/{report.run_id}.jsonl").decode()
        assert json.loads(rejects.splitlines()[-1])["column"] == "updated_at"
        report = self.pipeline(nulls="drop").run()
        assert outcome(report)[2] == 0
        assert report.steps[1].dropped["updated_at is null"] == 1

    def test_a_source_that_was_emptied_has_nothing_new(self) -> None:
        self.added()
        self.clear()
        assert self.added() is None
        self.insert((4, NOON))
        assert self.added() == 1
        assert self.published() == [1, 2, 3, 4]


def outcome(report: RunReport) -> tuple[str, int, int]:
    """How a run ended, how many rows it read, and how many it published."""
    assert report.error is None, report.error
    return report.status, report.steps[0].rows_in, report.steps[-1].rows_out


class Broken(Transformer):
    """Fails when it meets a row of this id."""

    id: int = Field(description="The id.")

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        if (batch["id"] == self.id).any():
            raise DataError(f"met {self.id}")
        return batch
