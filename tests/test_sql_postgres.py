"""SqlExtractor on a real PostgreSQL: its types, snapshots and failures."""

from __future__ import annotations

import io
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from time import sleep

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas import DataFrame
from pydantic import Field

pytest.importorskip("tests.sql_contract", reason="this needs SQLAlchemy, psycopg[binary] and PyMySQL[rsa]")

from etl.base import Transformer
from etl.errors import AccessError, ConfigError, DataError, EtlError, RetryLater, SourceError
from etl.ledger import Account
from etl.loaders.s3 import S3Loader
from main import Pipeline
from tests.conftest import Bucket
from tests.databases import PASSWORD, OnPostgres
from tests.reading import frame_of, rejects_of, rows_of, types_of
from tests.sql_contract import ServerContract


class TestPostgres(OnPostgres, ServerContract):
    without_rows = "SET search_path TO public"

    def create_user(self, name: str) -> None:
        self.run(f"DROP ROLE IF EXISTS {name}", f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")

    def many(self, rows: int) -> str:
        return f"SELECT generate_series(1, {rows}) AS id, 'some text' AS name"  # in FROM it would be stored first

    def test_types_are_kept(self) -> None:
        self.run(
            "DROP SCHEMA IF EXISTS shop CASCADE",
            "CREATE SCHEMA shop",
            "CREATE TYPE shop.mood AS ENUM ('ok', 'so-so')",
            "CREATE DOMAIN shop.price AS numeric(10,2)",
            "CREATE TYPE shop.span AS RANGE (subtype = float8)",
            "CREATE TABLE shop.typed (i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, p numeric(10,2),"
            " w numeric(50,5), u numeric, dom shop.price, b bool, d date, t time, ts timestamp, tz timestamptz,"
            " x bytea, j jsonb, js json, id uuid, iv interval, m shop.mood, v varchar(5), c char(3), ip inet,"
            " r int4range,"
            " ai int[], an numeric[], ab bool[], aj jsonb[], at text[], am shop.mood[], aa int[][], ad date[],"
            " ar shop.span[])",
            "INSERT INTO shop.typed VALUES (-1, 2, 9223372036854775807, 1.1, 0.1, 1.10, 12345678901234567890.5,"
            " 1e30, 2.5, true, '2026-01-31', '08:30:00.5', '2026-01-31 12:00:00.123456', '2026-01-31 12:00+01',"
            """ '\\x00ff', '{"a": 1.10}', '{"a":  1.10}', '00000000-0000-0000-0000-000000000001', '1 day 02:00',"""
            " 'so-so', 'text', 'a', '10.0.0.1', '[1,5)', '{1,NULL}', '{1.50,NaN}', '{true,false}', "
            """ ARRAY['{"a": 1}'::jsonb], ARRAY['a"b,c', NULL, ''], '{ok,so-so}', '{{1,2},{3,4}}', '{2026-01-31}',"""
            """ ARRAY['[1,2)'::shop.span])""",
            "INSERT INTO shop.typed DEFAULT VALUES",
        )
        frame = frame_of(self.make(table="shop.typed", order_by=(), batch_rows=1))
        found = {name: (dtype, frame[name].iloc[0]) for name, dtype in types_of(frame).items()}
        assert found == {
            "i2": ("int16", -1),
            "i4": ("int32", 2),
            "i8": ("int64", 2**63 - 1),
            "f4": ("float", pytest.approx(1.1)),
            "f8": ("double", 0.1),
            "p": ("decimal128(10, 2)", Decimal("1.10")),
            "w": ("decimal256(50, 5)", Decimal("12345678901234567890.50000")),
            "u": ("string", "1" + "0" * 30),
            "dom": ("decimal128(10, 2)", Decimal("2.50")),
            "b": ("bool", True),
            "d": ("date32[day]", date(2026, 1, 31)),
            "t": ("time64[us]", time(8, 30, 0, 500_000)),
            "ts": ("timestamp[us]", pd.Timestamp("2026-01-31 12:00:00.123456")),
            "tz": ("timestamp[us, tz=UTC]", pd.Timestamp("2026-01-31 11:00:00+00:00")),
            "x": ("binary", b"\x00\xff"),
            "j": ("string", '{"a": 1.10}'),
            "js": ("string", '{"a":  1.10}'),
            "id": ("string", "00000000-0000-0000-0000-000000000001"),
            "iv": ("string", "P1DT2H"),
            "m": ("string", "so-so"),
            "v": ("string", "text"),
            "c": ("string", "a  "),
            "ip": ("string", "10.0.0.1"),
            "r": ("string", "[1,5)"),
            "ai": ("string", "[1,null]"),
            "an": ("string", '[1.50,"NaN"]'),
            "ab": ("string", "[true,false]"),
            "aj": ("string", '[{"a": 1}]'),
            "at": ("string", '["a\\"b,c",null,""]'),
            "am": ("string", '["ok","so-so"]'),
            "aa": ("string", "[[1,2],[3,4]]"),
            "ad": ("string", '["2026-01-31"]'),
            "ar": ("string", '["[1,2)"]'),
        }
        assert frame.iloc[1].isna().all()

    def test_types_do_not_depend_on_the_settings_of_the_server(self) -> None:
        self.run("ALTER ROLE etl SET timezone = 'Asia/Kolkata'", "ALTER ROLE etl SET datestyle = 'German'")
        self.run("ALTER ROLE etl SET extra_float_digits = -5", "ALTER ROLE etl SET bytea_output = 'escape'")
        query = (
            "SELECT timestamptz '2026-01-31 12:00+00' t, date '2026-01-31' d, 0.1::float8 + 0.2 f, '\\x00ff'::bytea b"
        )
        found = rows_of(self.make(query=query))
        self.run("ALTER ROLE etl RESET ALL")
        noon = pd.Timestamp("2026-01-31 12:00:00+00:00")
        assert found == [(noon, date(2026, 1, 31), 0.1 + 0.2, b"\x00\xff")]

    def test_values_that_do_not_fit_are_rejected(self) -> None:
        values = {
            "d": "DATE 'infinity'",
            "ts": "TIMESTAMP '-infinity'",
            "tz": "TIMESTAMPTZ '0044-03-15 12:00 BC'",
            "t": "TIME '24:00'",
            "far": "DATE '12026-01-01'",
        }
        for name, value in values.items():
            query = f"SELECT x AS id, CASE WHEN x = 2 THEN {value} END AS {name} FROM generate_series(1, 3) x"
            frame, rejects = rejects_of(self.make(query=query))
            assert frame["id"].tolist() == [1, 3], name
            assert [(reject.row, reject.rule.partition(": not a")[0]) for reject in rejects] == [(2, name)]
        self.run("DROP TABLE IF EXISTS prices", "CREATE TABLE prices (p numeric(10,2))")
        self.run("INSERT INTO prices VALUES (1), ('NaN'), (3)")
        frame, rejects = rejects_of(self.make(table="prices", order_by=()))
        assert [(reject.row, reject.rule) for reject in rejects] == [(2, "p: not a decimal(10,2)")]

    def test_a_database_without_an_encoding_is_read_as_utf8(self) -> None:
        self.run("DROP DATABASE IF EXISTS ascii", "CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
        url = self.server.url(database="ascii")
        assert rows_of(self.make(url=url, query="SELECT 1 AS n, 'Ümläut' AS t")) == [(1, "Ümläut")]
        with pytest.raises(DataError, match="invalid byte sequence for encoding"):
            rows_of(self.make(url=url, query=r"SELECT E'Caf\xe9' AS t"))

    def test_nan_and_infinity_are_floats(self) -> None:
        query = "SELECT 'NaN'::float8 a UNION ALL SELECT '-Infinity' UNION ALL SELECT NULL"
        column = pa.array(frame_of(self.make(query=query))["a"])
        assert [str(value) for value in column.to_pylist()] == ["nan", "-inf", "None"]

    def test_splits_by_dates_and_times(self) -> None:
        query = """
            SELECT x AS id, DATE '2026-01-01' + x AS d, TIMESTAMPTZ '2026-01-01' + x * INTERVAL '1 hour' AS tz,
                   9000000000000000000 + x AS big
            FROM generate_series(1, 50) x UNION ALL SELECT 0, NULL, NULL, NULL
        """
        for column in ("d", "tz", "big"):
            splits = self.make(query=query, split_on=column, split_into=4).splits()
            sizes = [len(frame_of(split)) for split in splits]
            assert (len(sizes), sum(sizes)) == (4, 51), column
            assert all(size >= 12 for size in sizes)

    def test_splits_to_infinity_are_refused(self) -> None:
        query = "SELECT DATE 'infinity' AS d UNION ALL SELECT DATE '2026-01-01'"
        with pytest.raises(ConfigError, match="split_on: 'd' goes to infinity"):
            self.make(query=query, split_on="d", split_into=2).splits()

    def test_views_and_tables_of_other_schemas(self) -> None:
        self.run("CREATE SCHEMA IF NOT EXISTS other", "DROP VIEW IF EXISTS other.seen")
        self.run("CREATE VIEW other.seen AS SELECT id FROM sets")
        assert len(rows_of(self.make(table="other.seen"))) == 5
        with pytest.raises(ConfigError, match=r"did you mean 'other\.seen'"):
            rows_of(self.make(table="other.sen"))

    def test_a_query_that_fails_for_some_row(self) -> None:
        with pytest.raises(DataError, match=r"the query cannot be computed for some row .division by zero"):
            rows_of(self.make(query="SELECT 1 / (id - 3) AS x FROM sets"))
        with pytest.raises(DataError, match=r"computed for some row .more than one row returned by a subquery"):
            rows_of(self.make(query="SELECT (SELECT id FROM sets) AS x"))
        with pytest.raises(ConfigError, match=r'column "nme" does not exist'):
            rows_of(self.make(query="SELECT nme FROM sets"))

    def test_functions_cannot_change_anything_either(self) -> None:
        self.run("DROP SEQUENCE IF EXISTS counter", "CREATE SEQUENCE counter")
        with pytest.raises(ConfigError, match="it would change data, and this session may only read"):
            rows_of(self.make(query="SELECT nextval('counter') AS n"))

    @pytest.mark.parametrize(
        ("statement", "kind", "said"),
        [
            ("REVOKE CONNECT ON DATABASE test FROM PUBLIC", AccessError, "permission denied for database"),
            ("ALTER ROLE guest CONNECTION LIMIT 0", RetryLater, "too many connections for role"),
        ],
    )
    def test_a_user_whom_the_server_does_not_let_in(self, statement: str, kind: type[EtlError], said: str) -> None:
        self.create_user("guest")
        self.run(statement)
        try:
            with pytest.raises(kind, match=said):
                rows_of(self.make(url=self.url.replace("//etl:", "//guest:")))
        finally:
            self.run("GRANT CONNECT ON DATABASE test TO PUBLIC")

    def test_a_time_limit_of_the_server(self) -> None:
        self.run("ALTER ROLE etl SET statement_timeout = '50ms'")
        try:
            with pytest.raises(SourceError, match="the server ended the query"):
                rows_of(self.make(query="SELECT pg_sleep(10)::text AS t"))
        finally:
            self.run("ALTER ROLE etl RESET ALL")

    def test_a_loader_may_take_its_time(self) -> None:
        """Between two fetches the session is idle in its transaction."""
        self.run("ALTER ROLE etl SET idle_in_transaction_session_timeout = '100ms'")
        batches = self.make(query=self.many(100_000), batch_rows=1_000).extract()
        first = len(next(batches))
        self.run("ALTER ROLE etl RESET ALL")
        sleep(0.5)
        assert first + sum(map(len, batches)) == 100_000

    def test_a_server_that_hangs_up_in_the_middle_of_a_run_changes_nothing(self, bucket: Bucket) -> None:
        loader = S3Loader(bucket=bucket.name, key="sets.parquet")
        before = Pipeline("sql", self.make(), [], loader).run()
        assert before.status == "published", before.error
        extractor = self.make(query=self.many(500_000), batch_rows=1_000)
        report = Pipeline("sql", extractor, [Terminator(url=self.url)], loader).run()
        assert report.exit_code == 69, report.error
        assert report.error
        assert "the connection was lost; nothing of what was read is used" in report.error["message"]
        assert 0 < report.steps[0].rows_out < 500_000
        assert pq.read_table(io.BytesIO(bucket.body("sets.parquet"))).num_rows == 5
        assert len(bucket.versions("sets.parquet")) == 1
        assert bucket.open_uploads() == []

    def test_a_pipeline_of_ten_lines(self, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TEST_DATABASE_URL", self.url)
        pipeline = tmp_path / "sql.toml"
        pipeline.write_text(
            f"""
            [extract]
            type = "SqlExtractor"
            url = "${{TEST_DATABASE_URL}}"
            table = "public.sets"
            order_by = ["id"]
            [load]
            type = "S3Loader"
            bucket = "{bucket.name}"
            key = "sets.parquet"
            """
        )
        report = Pipeline.from_file(pipeline).run()
        assert report.status == "published", report.error
        assert PASSWORD not in report.to_json()
        assert report.published
        assert report.published.schema == {"id": "int32", "n": "int32", "name": "string"}
        assert Pipeline.from_file(pipeline).run().status == "unchanged"

    def wide(self, rows: int) -> str:
        return (
            "SELECT x AS id, x * 2::bigint AS big, (x % 1000)::numeric(10,2) AS price, 'name of ' || x AS name, "
            f"now() AS at, x % 2 = 0 AS even FROM generate_series(1, {rows}) x"
        )


class Terminator(Transformer):
    """Has the server hang up on the extractor once the first batch is there."""

    url: str = Field(description="The server.")

    def start(self) -> dict[str, bool]:
        return {"done": False}

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        if not account.state["done"]:
            import psycopg

            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'etl'"
                )
            account.state["done"] = True
        return batch
