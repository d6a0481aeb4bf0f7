"""Incremental runs of SQL databases: what each is asked for; and whole runs, with S3, whatever fails between two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pandas import DataFrame
from pydantic import Field

pytest.importorskip("sqlalchemy", reason="SqlExtractor needs SQLAlchemy: pip install SQLAlchemy")
pytest.importorskip("psycopg", reason="its tests need psycopg: pip install 'psycopg[binary]'")
pytest.importorskip("pymysql", reason="its tests need PyMySQL: pip install 'PyMySQL[rsa]'")

import etl
from etl.base import Transformer
from etl.errors import ConfigError, DataError
from etl.explain import explain
from etl.extractors.sql import SqlExtractor
from etl.incremental.options import NO_CURSOR
from etl.ledger import Account
from etl.loaders.s3 import S3Loader
from etl.paths import PROJECT
from etl.replay import replay
from etl.run import Live
from etl.transformers.columns import DeriveColumns, SelectColumns
from etl.transformers.rows import FilterRows
from main import Pipeline
from tests.databases import OnDatabase, OnMariaDb, OnPostgres, OnSqlite
from tests.incremental_runs import NOON, PIPELINE_FILE, IncrementalRuns, Order, next_run, outcome
from tests.s3_front import Call, front_of

# -- reading from databases -------------------------------------------------------------------------------------------


class IncrementalContract(OnDatabase):
    """MUST write ``TIME``, a type. There is a table ``orders`` (id, name, updated_at) of three rows."""

    TIME: str

    @pytest.fixture(autouse=True)
    def _orders(self, _database: None) -> None:
        self.live: Live | None = None
        self.table("orders", f"id INTEGER, name VARCHAR(20), updated_at {self.TIME}")
        self.insert((1, "a", "2026-01-31 10:00:00"), (2, "b", NOON), (3, "c", NOON))

    def table(self, name: str, columns: str) -> None:
        self.run(f"DROP TABLE IF EXISTS {name}", f"CREATE TABLE {name} ({columns})")

    def insert(self, *rows: Sequence[Any], table: str = "orders") -> None:
        listed = (", ".join("NULL" if value is None else f"'{value}'" for value in row) for row in rows)
        self.run(f"INSERT INTO {table} VALUES ({'), ('.join(listed)})")

    def extractor(self, **options: Any) -> SqlExtractor:
        """``options``: of the extractor, or else of its incremental table."""
        own = {name: options.pop(name) for name in tuple(options) if name in SqlExtractor.model_fields}
        what = {} if "query" in own else {"table": "orders"}
        incremental = {"column": "updated_at", "key": ["id"], **options}
        return SqlExtractor.model_validate({"url": self.url, "incremental": incremental, **what, **own})

    def next_run(self, **options: Any) -> tuple[int, list[int]]:
        """How many rows the next run reads, and which of them are new. Its state is kept for the one after it."""
        rows, found, self.live = next_run(self.extractor(**options), self.live)
        return rows, found

    def test_what_is_new_is_found(self) -> None:
        assert self.next_run() == (3, [1, 2, 3])
        assert self.next_run() == (2, [])
        self.insert((4, "d", "2026-02-01"), (5, "e", "2026-02-02"))
        assert self.next_run() == (4, [4, 5])
        assert self.next_run() == (1, [])

    def test_rows_of_the_same_instant_are_neither_lost_nor_doubled(self) -> None:
        self.next_run()
        self.insert((4, "d", NOON))
        assert self.next_run() == (3, [4])
        self.insert((5, "e", NOON))
        assert self.next_run() == (4, [5])
        assert self.next_run() == (4, [])

    def test_late_rows_are_found_within_lag(self) -> None:
        self.next_run(lag="1h")
        self.insert((4, "late", "2026-01-31 11:00:00"), (5, "too late", "2026-01-31 10:59:59"))
        assert self.next_run(lag="1h") == (3, [4])
        self.insert((6, "new", "2026-01-31 13:00:00"), (7, "late", "2026-01-31 11:00:00"))
        assert self.next_run(lag="1h") == (5, [6, 7])
        self.insert((8, "late", NOON))
        assert self.next_run(lag="1h") == (4, [8])

    def test_another_lag_doubles_nothing(self) -> None:
        self.next_run()
        assert self.next_run(lag="1d") == (2, [])
        self.insert((4, "d", "2026-01-31 13:00:00"))
        assert self.next_run(lag="1d") == (3, [4])
        assert self.next_run(lag="1d") == (3, [])
        self.insert((5, "e", "2026-01-31 14:00:00"))
        assert self.next_run() == (4, [5])
        assert self.next_run() == (1, [])

    def test_an_updated_row_comes_in_its_new_version(self) -> None:
        self.next_run(lag="1d")
        self.run("UPDATE orders SET name = 'new', updated_at = '2026-01-31 13:00:00' WHERE id = 2")
        assert self.next_run(lag="1d") == (3, [2])
        self.run("UPDATE orders SET name = 'same' WHERE id = 3")
        assert self.next_run(lag="1d") == (3, [])

    def test_the_first_run_begins_at_start(self) -> None:
        options = {"start": datetime(2026, 1, 31, 11, tzinfo=UTC), "lag": "1d"}
        assert self.next_run(**options) == (2, [2, 3])
        assert self.next_run(**options) == (2, [])
        self.insert((4, "d", "2026-02-01 11:30:00"))
        assert self.next_run(**options) == (3, [4])

    @pytest.mark.parametrize("start", [date(2026, 2, 1), datetime(2026, 2, 1)])  # noqa: DTZ001
    def test_a_start_may_be_a_day_or_have_no_zone(self, start: date) -> None:
        self.insert((4, "d", "2026-02-01"))
        assert self.next_run(start=start) == (1, [4])

    def test_queries_are_read_from_there_too(self) -> None:
        query = "SELECT * FROM orders WHERE id <> 3"
        self.next_run(query=query)
        self.insert((4, "d", NOON), (5, "e", "2026-02-02"))
        assert self.next_run(query=query) == (3, [4, 5])

    @pytest.mark.parametrize("batch_rows", [1, 2])
    def test_batches_of_any_size(self, batch_rows: int) -> None:
        self.insert((4, "d", "2026-02-03"), (5, "e", NOON))
        self.next_run(batch_rows=batch_rows, lag="3d")
        self.insert((6, "f", NOON), (0, "g", "2026-02-04"))
        assert self.next_run(batch_rows=batch_rows, lag="3d") == (7, [0, 6])

    def test_a_date_in_the_future_hides_nothing(self) -> None:
        self.insert((4, "mistyped", "2036-01-01"))
        self.next_run()
        assert self.next_run() == (1, [])
        self.insert((5, "e", f"{datetime.now(UTC) + timedelta(days=300):%Y-%m-%d %H:%M:%S}"))
        assert self.next_run() == (2, [5])

    @pytest.mark.parametrize(
        ("kind", "values"),
        [
            ("INTEGER", ["9", "10", "100"]),
            ("BIGINT", ["-5", str(2**62), str(2**62 + 1)]),
            ("DECIMAL(12,2)", ["9.90", "19.90", "100.00"]),
            ("DATE", ["2026-01-30", "2026-01-31", "2026-10-01"]),
            ("TIMESTAMP", [NOON, "2026-01-31 12:00:01", "2026-10-01 00:00:00"]),
            ("VARCHAR(20)", ["B", "a", "é"]),  # as by their characters, whatever the database's language is
        ],
    )
    def test_cursors_of_every_type(self, kind: str, values: list[str]) -> None:
        self.table("typed", f"id INTEGER, c {kind}")
        for place, value in enumerate(values):
            ids = [2 * place, 2 * place + 1]
            self.insert(*((number, value) for number in ids), table="typed")
            assert self.next_run(table="typed", column="c") == (2 if place == 0 else 4, ids)
            assert self.next_run(table="typed", column="c") == (2, [])


class TestSqlite(OnSqlite, IncrementalContract):
    TIME = "TIMESTAMP"

    def test_times_may_be_written_in_several_ways(self) -> None:
        self.next_run()
        self.insert((4, "d", "2026-01-31T12:00:00"), (5, "e", "2026-02-01"), (6, "f", "2026-01-31T11:59:59.999"))
        assert self.next_run() == (4, [4, 5])
        self.insert((7, "g", "2026-02-01 00:00:00.000"))
        assert self.next_run() == (2, [7])

    def test_times_finer_than_the_database_compares_are_not_doubled(self) -> None:
        self.insert((4, "d", "2026-02-01 00:00:00.000100"), (5, "e", "2026-02-01 00:00:00.000200"))
        self.next_run()
        assert self.next_run() == (2, [])
        self.insert((6, "f", "2026-02-01 00:00:00.000300"))
        assert self.next_run() == (3, [6])


class TestPostgres(OnPostgres, IncrementalContract):
    TIME = "TIMESTAMPTZ"

    @pytest.mark.parametrize("kind", ["numeric", "uuid", "interval"])
    def test_types_that_only_the_database_can_sort_are_refused(self, kind: str) -> None:
        self.table("typed", f"id INTEGER, c {kind}")
        for look in (self.next_run, lambda **options: self.extractor(**options).check()):
            with pytest.raises(ConfigError, match="has a type that is read as text, and sorted otherwise"):
                look(table="typed", column="c")

    @pytest.mark.parametrize("option", [{"column": "updatet_at"}, {"key": ["id", "updatet_at"]}])
    def test_columns_that_do_not_exist(self, option: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match="has no column 'updatet_at'; did you mean 'updated_at'"):
            self.extractor(**option).check()


@pytest.mark.slow
class TestMariaDb(OnMariaDb, IncrementalContract):
    TIME = "TIMESTAMP NULL"

    def run(self, *statements: str) -> None:
        super().run("SET time_zone = '+00:00'", *statements)

    def test_unsigned_numbers(self) -> None:
        self.table("typed", "id INTEGER, c BIGINT UNSIGNED")
        self.insert((1, 0), (2, 2**64 - 2), table="typed")
        assert self.next_run(table="typed", column="c", lag=10) == (2, [1, 2])
        self.insert((3, 2**64 - 1), table="typed")
        assert self.next_run(table="typed", column="c", lag=10) == (2, [3])


# -- whole runs, with S3 ----------------------------------------------------------------------------------------------


class Shop(OnDatabase, IncrementalRuns):
    """There is a table ``orders`` (id, updated_at) of three rows."""

    def begin(self) -> None:
        self.run("DROP TABLE IF EXISTS orders", "CREATE TABLE orders (id INTEGER, updated_at TIMESTAMP)")

    def insert(self, *orders: Order) -> None:
        values = (f"({number}, {repr(time) if time else 'NULL'})" for number, time in orders)
        self.run(f"INSERT INTO orders VALUES {', '.join(values)}")

    def clear(self) -> None:
        self.run("DELETE FROM orders")

    def extractor(self, **incremental: Any) -> SqlExtractor:
        return SqlExtractor.model_validate({"url": self.url, "table": "orders", "incremental": incremental})

    def test_a_run_without_news_publishes_nothing_and_says_so(self) -> None:
        self.pipeline().run()
        before = self.bucket.objects()
        report = self.pipeline().run()
        assert outcome(report) == ("unchanged", 2, 0)
        assert "unchanged" in report.summary()
        assert "read 2 = published 0 + rejected 0 + dropped 2" in report.summary()
        assert [key for key in self.bucket.objects() if key not in before] == [f"orders/_runs/{report.run_id}.json"]
        assert len(self.bucket.versions("orders/_current.json")) == 1

    def test_an_empty_table_is_published_and_continued(self) -> None:
        self.clear()
        assert outcome(self.pipeline().run()) == ("published", 0, 0)
        assert outcome(self.pipeline().run()) == ("unchanged", 0, 0)
        self.insert((1, NOON))
        assert outcome(self.pipeline().run()) == ("published", 1, 1)

    def test_a_dry_run_does_not_advance(self) -> None:
        assert outcome(self.pipeline().run(dry_run=True)) == ("dry-run", 3, 3)
        assert outcome(self.pipeline().run()) == ("published", 3, 3)

    def test_rollback_takes_the_cursor_back(self) -> None:
        first = self.pipeline().run()
        self.insert((4, "2026-02-01"))
        self.pipeline().run()
        self.loader().rollback(first.run_id)
        assert self.published() == [1, 2, 3]
        self.insert((5, "2026-02-02"))
        assert outcome(self.pipeline().run()) == ("published", 4, 2)
        assert self.published() == [1, 2, 3, 4, 5]


class TestShopOnSqlite(OnSqlite, Shop):
    def test_rows_that_are_rejected_or_dropped_are_read_once(self) -> None:
        pipeline = self.pipeline(FilterRows(keep="id != 3"))
        outcome(pipeline.run())
        assert outcome(pipeline.run()) == ("unchanged", 2, 0)
        self.insert((3, "2026-02-01"))
        assert outcome(pipeline.run()) == ("published", 3, 0)  # of its state: the next need not read the row again
        assert outcome(pipeline.run()) == ("unchanged", 1, 0)
        assert self.published() == [1, 2]

    def test_new_rows_that_look_like_old_ones_are_added(self) -> None:
        """Once the cursor's column is left out, the files of two runs may be the same to the byte."""
        kind = DeriveColumns(columns={"kind": '"order"'}), SelectColumns(columns=("kind",))
        for day in ("2026-02-01", "2026-02-02"):
            self.insert((4, day))
            report = self.pipeline(*kind, start=date(2026, 2, 1)).run()
            assert outcome(report)[::2] == ("published", 1)
        files = etl.dataset_files(f"s3://{self.bucket.name}/orders/")
        assert len(set(files)) == 2
        assert len(etl.read_dataset(f"s3://{self.bucket.name}/orders/")) == 2

    def test_two_pipelines_add_to_one_dataset(self) -> None:
        self.pipeline(name="a").run()
        assert outcome(self.pipeline(name="b").run(force=True)) == ("published", 3, 3)
        assert outcome(self.pipeline(name="a").run()) == ("unchanged", 2, 0)
        assert outcome(self.pipeline(name="b").run()) == ("unchanged", 2, 0)

    def test_rows_that_are_replayed_leave_the_cursor_alone(self) -> None:
        report = self.pipeline(Refusing(id=2)).run()
        assert self.published() == [1, 3]
        replayed = replay(self.pipeline(), report.run_id)
        assert replayed is not None
        assert replayed.status == "published", replayed.error
        assert self.published() == [1, 2, 3]
        assert outcome(self.pipeline().run()) == ("unchanged", 2, 0)
        self.insert((4, "2026-02-01"))
        assert outcome(self.pipeline().run()) == ("published", 3, 1)
        assert self.published() == [1, 2, 3, 4]

    def test_rows_without_a_cursor_are_not_replayed(self) -> None:
        """Every run meets them again, and nobody could tell whether one of them has been added."""
        self.insert((4, None))
        report = self.pipeline().run()
        file = f"orders/_rejects/{report.run_id}.jsonl"
        entry = json.loads(self.bucket.body(file))
        for rule in (entry["rule"], NO_CURSOR):  # as it is, and as it was before there was advice in it
            rejects = json.dumps({**entry, "rule": rule}).encode()
            self.bucket.client.put_object(Bucket=self.bucket.name, Key=file, Body=rejects)
            with pytest.raises(DataError, match="1 have nothing that tells whether they are new"):
                replay(self.pipeline(), report.run_id)
        assert self.published() == [1, 2, 3]

    def test_a_row_is_not_explained_by_its_number(self, capsys: pytest.CaptureFixture[str]) -> None:
        """It had another one in the run that read it."""
        with pytest.raises(ConfigError, match=r"--explain 2: each incremental run counts .* name a value"):
            explain(self.pipeline(), "2")
        explain(self.pipeline(), "id=2")
        assert "row 2 of" in capsys.readouterr().out

    def test_another_name_does_not_add_everything_again(self) -> None:
        self.pipeline().run()
        report = self.pipeline(name="renamed").run()
        assert report.exit_code == 78
        assert "holds no cursor of a pipeline 'renamed'" in report.summary()
        assert self.published() == [1, 2, 3]

    def test_who_adds_otherwise_leaves_the_cursor_alone(self) -> None:
        self.pipeline().run()
        self.insert((4, NOON))
        by_hand = SqlExtractor.model_validate({"url": self.url, "table": "orders"})
        assert outcome(Pipeline("by-hand", by_hand, [], self.loader()).run()) == ("published", 4, 4)
        assert outcome(self.pipeline().run()) == ("published", 3, 1)

    def test_a_run_that_was_overtaken_stops(self) -> None:
        self.pipeline().run()
        self.insert((4, "2026-02-01"))
        overtaken = self.pipeline(Meanwhile(pipeline=self.pipeline(name="orders-elsewhere")))
        report = overtaken.run()
        assert report.exit_code == 75, report.error
        assert "lost race" in report.summary()
        assert self.published() == [1, 1, 2, 2, 3, 3, 4]

    def test_another_column_or_key_is_refused(self) -> None:
        self.pipeline().run()
        report = self.pipeline(key=["updated_at"]).run()
        assert report.exit_code == 78
        assert "extract.incremental.key is ['updated_at'], and was ['id']" in report.summary()

    def test_more_rows_than_the_state_may_hold_are_refused(self) -> None:
        report = self.pipeline(max_window_rows=1).run()
        assert report.exit_code == 65
        assert "more than 1 rows have updated_at from 2026-01-31 12:00:00 on" in report.summary()
        self.insert((4, "2026-02-01"))
        assert outcome(self.pipeline(max_window_rows=1).run()) == ("published", 4, 4)

    def test_a_lag_of_another_kind_is_refused(self) -> None:
        report = self.pipeline(lag=5).run()
        assert report.exit_code == 78
        assert 'lag should be a time, such as "1h"; the values of updated_at are of kind timestamp' in report.summary()

    def test_a_loader_that_replaces_is_refused(self) -> None:
        pipeline = self.pipeline()
        loader = S3Loader(bucket=self.bucket.name, prefix="orders")
        report = Pipeline("orders", pipeline.extractor, [], loader).run()
        assert report.exit_code == 78
        assert 'S3Loader with prefix and mode = "append"' in report.summary()

    @pytest.mark.slow
    def test_killed_between_upload_and_commit(self, s3_url: str, tmp_path: Path) -> None:
        self.pipeline().run()
        self.insert((4, "2026-02-01"))
        file = tmp_path / "orders.toml"
        file.write_text(PIPELINE_FILE.format(url=self.url, bucket=self.bucket.name, load='prefix = "orders/"'))
        with front_of(s3_url) as front:
            process = subprocess.Popen(
                [sys.executable, "main.py", "run", str(file), "--set", "load.mode=append"],
                cwd=PROJECT,
                env={**os.environ, "AWS_ENDPOINT_URL": front.url},
            )

            def is_the_commit(call: Call) -> bool:
                if call.method == "PUT" and call.key.endswith("_current.json"):
                    process.kill()
                    return True
                return False

            front.refuse_if(is_the_commit, 503, "SlowDown")
            assert process.wait() == -signal.SIGKILL
        assert any("/_manifests/" in call.key for call in front.calls if call.method == "PUT")
        assert self.published() == [1, 2, 3]
        assert outcome(Pipeline.from_file(file, ["load.mode=append"]).run()) == ("published", 3, 1)
        assert self.published() == [1, 2, 3, 4]


class TestShopOnPostgres(OnPostgres, Shop):
    pass


class Refusing(Transformer):
    """Rejects the rows of this id."""

    id: int = Field(description="The id.")

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        account.reject(batch["id"] == self.id, f"is {self.id}")
        return batch


class Meanwhile(Transformer):
    """Runs another pipeline before the first batch is through."""

    pipeline: Any = Field(description="The other pipeline.")

    def start(self) -> bool:
        assert self.pipeline.run(force=True).status == "published"
        return True

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        return batch
