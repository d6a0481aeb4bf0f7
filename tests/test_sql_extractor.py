"""SqlExtractor: on SQLite, whose values have types of their own; and its options."""

from __future__ import annotations

import json
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

pytest.importorskip("tests.sql_contract", reason="this needs SQLAlchemy, psycopg[binary] and PyMySQL[rsa]")

from etl.errors import ConfigError, DataError, SourceError
from etl.extractors.sql import SqlExtractor
from etl.paths import PROJECT
from main import Pipeline
from tests.databases import SqliteFile
from tests.reading import frame_of, rejects_of, rows_of, said_by, types_of
from tests.sql_contract import INSERT_SETS, SqlContract


class TestSqlite(SqlContract):
    without_rows = "CREATE TEMPORARY TABLE one (id INTEGER)"

    @pytest.fixture(autouse=True)
    def _database(self, tmp_path: Path) -> None:
        self.server = SqliteFile(tmp_path / "test %.db")
        self.run("PRAGMA journal_mode = WAL", "CREATE TABLE sets (id INTEGER PRIMARY KEY, n INTEGER, name VARCHAR(20))")
        self.run(INSERT_SETS)

    def test_types_are_those_of_the_catalogue(self) -> None:
        self.run(
            "CREATE TABLE typed (i INT, big BIGINT, r REAL, p DECIMAL(10,2), b BOOLEAN, d DATE, t TIME, ts TIMESTAMP,"
            " x BLOB, j JSON, c CLOB, e)",
            "INSERT INTO typed VALUES (1, 9223372036854775807, 2, 19.9, 1, '2026-01-31', '08:30:00.5',"
            " '2026-01-31 12:00:00', x'00ff', '[1]', 'text', 5)",
            "INSERT INTO typed DEFAULT VALUES",
        )
        frame = frame_of(self.make(table="typed", order_by=(), batch_rows=1))
        assert types_of(frame) == {
            "i": "int64",
            "big": "int64",
            "r": "double",
            "p": "decimal128(10, 2)",
            "b": "bool",
            "d": "date32[day]",
            "t": "time64[us]",
            "ts": "timestamp[us]",
            "x": "binary",
            "j": "string",
            "c": "string",
            "e": "int64",
        }
        assert frame.iloc[0].tolist() == [
            1,
            2**63 - 1,
            2.0,
            Decimal("19.90"),
            True,
            date(2026, 1, 31),
            time(8, 30, 0, 500_000),
            pd.Timestamp("2026-01-31 12:00:00"),
            b"\x00\xff",
            "[1]",
            "text",
            5,
        ]
        assert frame.iloc[1].isna().all()

    def test_values_of_another_type_are_rejected(self) -> None:
        """SQLite lets any value into any column."""
        self.run(
            "CREATE TABLE loose (i INTEGER, p DECIMAL(5,2), b BOOLEAN, d DATE)",
            "INSERT INTO loose VALUES (1, 1.5, 0, '2026-01-31'), ('0x1F', 1, 1, NULL), (1, 1.005, 1, NULL),"
            " (1, 1, 2, NULL), (1, 1, 1, '31.1.2026'), (1, 1, 1, '0000-00-00'), (1.5, 1, 1, NULL)",
        )
        frame, rejects = rejects_of(self.make(table="loose", order_by=()))
        assert frame.index.tolist() == [1]
        assert [(reject.row, reject.rule) for reject in rejects] == [
            (2, "i: not an int64"),
            (3, "p: not a decimal(5,2)"),
            (4, "b: not true or false"),
            (5, "d: not a date"),
            (6, "d: not a date"),
            (7, "i: not an int64"),
        ]
        assert json.loads(rejects[0].raw) == {"i": "0x1F", "p": 1, "b": 1, "d": None}

    def test_a_query_has_the_types_of_its_first_rows(self) -> None:
        query = "SELECT id * 2 AS i, id / 2.0 AS f, name || '!' AS t, NULL AS u FROM sets ORDER BY id"
        small, large = (frame_of(self.make(query=query, batch_rows=rows)) for rows in (1, 100))
        assert types_of(small) == types_of(large) == {"i": "int64", "f": "double", "t": "string", "u": "string"}
        with pytest.raises(DataError, match=r"'v' holds values of several types .int and str.; CAST it"):
            rows_of(self.make(query="SELECT 1 AS v UNION ALL SELECT 'x'"))
        late = "WITH RECURSIVE c(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM c WHERE v < 10001) "
        late += "SELECT CASE WHEN v > 10000 THEN 'late' ELSE v END AS v FROM c"
        frame, rejects = rejects_of(self.make(query=late))
        assert (len(frame), rejects[0].row, rejects[0].rule) == (10_000, 10_001, "v: not an int64")

    @pytest.mark.parametrize("query", ["SELECT 1 AS a; SELECT 2 AS a", "-- nothing", "SELECT :time AS a"])
    def test_what_sqlite_is_never_asked(self, query: str) -> None:
        with pytest.raises(ConfigError, match="query"):
            rows_of(self.make(query=query, params={"time": time(8)} if ":time" in query else {}))

    def test_files_that_are_no_database(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="cannot be opened; check its path"):
            rows_of(self.make(url=f"sqlite:///{tmp_path}/missing.db"))
        assert not (tmp_path / "missing.db").exists()
        (tmp_path / "text.db").write_text("just some text " * 100)
        with pytest.raises(DataError, match="no SQLite database"):
            rows_of(self.make(url=f"sqlite:///{tmp_path}/text.db"))

    def test_text_that_is_not_utf8_costs_one_row(self) -> None:
        self.run("CREATE TABLE texts (t TEXT)", "INSERT INTO texts VALUES ('a'), (CAST(x'436166e9' AS TEXT)), ('c')")
        for what in ({"table": "texts", "order_by": ()}, {"query": "SELECT * FROM texts"}):
            frame, rejects = rejects_of(self.make(**what))
            assert frame["t"].tolist() == ["a", "c"]
            assert [(reject.row, reject.rule, reject.raw) for reject in rejects] == [
                (2, "t: not text", r"""{"t": "b'Caf\\xe9'"}""")
            ]

    def test_a_damaged_file_is_an_error(self, tmp_path: Path) -> None:
        self.run("CREATE TABLE long (t TEXT)", *[f"INSERT INTO long VALUES ('{'x' * 4000}')" for _ in range(50)])
        self.run("PRAGMA wal_checkpoint(TRUNCATE)")
        data = bytearray(self.server.path.read_bytes())
        data[-100_000:-80_000] = bytes(20_000)
        (tmp_path / "damaged.db").write_bytes(data)
        with pytest.raises(DataError, match="damaged"):
            rows_of(self.make(url=f"sqlite:///{tmp_path}/damaged.db", table="long", order_by=()))


# -- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"table": "t"}, "url"),
        ({"url": "sqlite:///a.db"}, "set either table or query"),
        ({"url": "sqlite:///a.db", "table": "t", "query": "SELECT 1"}, "set either table or query"),
        ({"url": "localhost", "table": "t"}, "should be like postgresql://"),
        ({"url": "oracle://u:hush-hush@h/d", "table": "t"}, "should begin with postgresql://"),
        ({"url": "postgresql+asyncpg://u:hush-hush@h/d", "table": "t"}, "should begin with postgresql://"),
        ({"url": "postgresql://u:hush-hush@h:port/d", "table": "t"}, "should be like postgresql://"),
        ({"url": "postgresql://u:hush-hush@h", "table": "t"}, "names no database"),
        ({"url": "sqlite://", "table": "t"}, "names no database"),
        ({"url": "sqlite:///:memory:", "table": "t"}, "names no database"),
        ({"url": "sqlite:///a.db", "query": "SELECT 1", "columns": ["a"]}, "write them into the query"),
        ({"url": "sqlite:///a.db", "table": "t", "columns": ["a", "a"]}, "names a column more than once"),
        ({"url": "sqlite:///a.db", "table": "t", "split_into": 2}, "split_into needs split_on"),
        ({"url": "sqlite:///a.db", "table": "t", "params": {"a": 1}}, "params has 'a', which the query does not name"),
        (
            {"url": "sqlite:///a.db", "query": "SELECT :a", "params": {"aa": 1}},
            "the query names :a, which params does not",
        ),
        (
            {"url": "sqlite:///a.db", "query": "SELECT :a", "params": {"a": {"b": 1}}},
            "'a' is a table; set it to a value",
        ),
        ({"url": "sqlite:///a.db", "query": """SELECT '{"x":1}'"""}, r"a plain colon is written \:"),
    ],
)
def test_mistakes_are_found_without_connecting(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as failure:
        SqlExtractor.model_validate(options)
    assert problem in str(failure.value)
    assert "hush-hush" not in str(failure.value)


def test_casts_and_colons_in_queries() -> None:
    SqlExtractor.model_validate({"url": "sqlite:///a.db", "query": r"SELECT id::int, '{\"x\"\:1}' FROM t"})


def test_the_example_can_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET", "some-bucket")
    monkeypatch.setenv("DATABASE_URL", "postgres://user:password@host/db")
    source = Pipeline.from_file(PROJECT / "pipelines" / "sql.toml").extractor.inspect()
    assert source.uri == "postgresql://host/db#public.orders"


@pytest.mark.parametrize(
    ("missing", "url", "hint"),
    [
        (
            "psycopg",
            "postgresql://h/d",
            "ConfigError SqlExtractor: reading postgresql needs psycopg[binary]: pip install",
        ),
        ("pymysql", "mysql://h/d", "ConfigError SqlExtractor: reading mysql needs PyMySQL[rsa]: pip install"),
    ],
)
def test_a_driver_that_is_missing_is_named(missing: str, url: str, hint: str) -> None:
    said = said_by(f"""
        import sys
        sys.modules[{missing!r}] = None
        from etl.extractors.sql import SqlExtractor
        try:
            list(SqlExtractor(url={url!r}, table="t").extract())
        except Exception as error:
            print(type(error).__name__, error)
    """)
    assert said.startswith(hint)


def test_building_a_pipeline_loads_no_heavy_library() -> None:
    said = said_by("""
        import sys
        from etl.extractors.sql import SqlExtractor
        print(SqlExtractor(url="postgresql://h/d", table="t").inspect().uri)
        print([name for name in ("pandas", "pyarrow", "numpy", "psycopg") if name in sys.modules])
    """)
    assert said.splitlines() == ["postgresql://h/d#t", "[]"]
