"""SqlExtractor on a real MariaDB: its types, snapshots and failures."""

from __future__ import annotations

from datetime import date, time
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest

pytest.importorskip("tests.sql_contract", reason="this needs SQLAlchemy, psycopg[binary] and PyMySQL[rsa]")

from etl.errors import AccessError, ConfigError, DataError, SourceError
from tests.databases import PASSWORD, OnMariaDb
from tests.reading import frame_of, rejects_of, rows_of, types_of
from tests.sql_contract import ServerContract


class TestMariaDb(OnMariaDb, ServerContract):
    quote = "`"
    without_rows = "DO 1"

    def create_user(self, name: str) -> None:
        self.run(
            f"CREATE OR REPLACE USER {name}@'%' IDENTIFIED BY '{PASSWORD}'", f"GRANT USAGE ON test.* TO {name}@'%'"
        )
        self.run(f"GRANT CREATE ON test.* TO {name}@'%'")

    def many(self, rows: int) -> str:
        return f"SELECT seq AS id, concat('text ', seq) AS name FROM seq_1_to_{rows}"

    def wide(self, rows: int) -> str:
        return (
            "SELECT seq AS id, 2 * seq AS big, cast(seq % 1000 AS decimal(10,2)) AS price, "
            f"concat('name of ', seq) AS name, now() AS at FROM seq_1_to_{rows}"
        )

    def test_types_are_kept(self) -> None:
        self.run(
            "CREATE OR REPLACE TABLE typed (b boolean, ti tinyint, tu tinyint unsigned, su smallint unsigned, i int,"
            " iu int unsigned, bu bigint unsigned, f float, d double, p decimal(10,2), pu decimal(10,2) unsigned,"
            " w decimal(65,30), da date, t time(3), dt datetime(6), ts timestamp NULL, y year, bi bit(10),"
            " x varbinary(5), bl blob, c char(3), tx text, j json, e enum('a','b'), id uuid)",
            "INSERT INTO typed VALUES (true, -5, 200, 65535, -1, 4294967295, 18446744073709551615, 0.5, 0.1,"
            " -1.10, 1.10, 1.5, '2026-01-31', '08:30:00.5', '2026-01-31 12:00:00.123456', '2026-01-31 12:00:00', 2026,"
            """ b'1000000001', x'00ff', x'ff00', 'a', 'Ümläut', '{"a":  1.10}', 'b',"""
            " '00000000-0000-0000-0000-000000000001')",
            "INSERT INTO typed () VALUES ()",
        )
        frame = frame_of(self.make(table="typed", order_by=(), batch_rows=1))
        found = {name: (dtype, frame[name].iloc[0]) for name, dtype in types_of(frame).items()}
        assert found == {
            "b": ("bool", True),
            "ti": ("int16", -5),
            "tu": ("int16", 200),
            "su": ("int32", 65535),
            "i": ("int32", -1),
            "iu": ("int64", 2**32 - 1),
            "bu": ("uint64", 2**64 - 1),
            "f": ("float", 0.5),
            "d": ("double", 0.1),
            "p": ("decimal128(10, 2)", Decimal("-1.10")),
            "pu": ("decimal128(10, 2)", Decimal("1.10")),
            "w": ("decimal256(65, 30)", Decimal("1.5")),
            "da": ("date32[day]", date(2026, 1, 31)),
            "t": ("time64[us]", time(8, 30, 0, 500_000)),
            "dt": ("timestamp[us]", pd.Timestamp("2026-01-31 12:00:00.123456")),
            "ts": ("timestamp[us, tz=UTC]", pd.Timestamp("2026-01-31 12:00:00+00:00")),
            "y": ("int16", 2026),
            "bi": ("uint64", 513),
            "x": ("binary", b"\x00\xff"),
            "bl": ("binary", b"\xff\x00"),
            "c": ("string", "a"),
            "tx": ("string", "Ümläut"),
            "j": ("string", '{"a":  1.10}'),
            "e": ("string", "b"),
            "id": ("string", "00000000-0000-0000-0000-000000000001"),
        }
        assert frame.iloc[1].isna().all()

    def test_floats_have_all_their_digits(self) -> None:
        """The server would write six of them."""
        values = [16_777_213.0, 3.1415927410125732, 52.370216369628906, -0.0, None]
        self.run("CREATE OR REPLACE TABLE floats (id int, `the float` float, at timestamp NULL)")
        self.run(*(f"INSERT INTO floats VALUES ({n}, {v!r}, now())" for n, v in enumerate(values[:-1])))
        self.run("INSERT INTO floats (id) VALUES (9)")
        for options in ({}, {"columns": ["the float"], "order_by": ["the float"]}):
            frame = frame_of(self.make(**{"table": "floats", "order_by": (), **options}))
            assert str(frame["the float"].dtype) == "float[pyarrow]"
            assert set(pa.array(frame["the float"]).to_pylist()) == set(values)

    def test_a_user_who_is_locked_out(self) -> None:
        self.create_user("guest")
        self.run("ALTER USER guest@'%' ACCOUNT LOCK")
        with pytest.raises(AccessError, match="check user and password in url"):
            rows_of(self.make(url=self.url.replace("//etl:", "//guest:")))

    def test_mistakes_in_a_query_are_not_the_servers(self) -> None:
        with pytest.raises(ConfigError, match="check table, columns or query"):
            rows_of(self.make(query="SELECT 1 UNION SELECT 1, 2"))
        with pytest.raises(DataError, match="the query cannot be computed for some row"):
            rows_of(self.make(query="SELECT (SELECT id FROM sets) AS x"))

    def test_times_do_not_depend_on_the_settings_of_the_server(self) -> None:
        self.run("CREATE OR REPLACE TABLE times (ts timestamp)", "SET GLOBAL time_zone = '+05:30'")
        self.run("INSERT INTO times VALUES ('2026-01-31 12:00:00')")
        found = rows_of(self.make(table="times", order_by=()))
        self.run("SET GLOBAL time_zone = 'SYSTEM'")
        assert found == [(pd.Timestamp("2026-01-31 06:30:00+00:00"),)]

    def test_values_that_do_not_fit_are_rejected(self) -> None:
        self.run(
            "SET GLOBAL sql_mode = ''",
            "CREATE OR REPLACE TABLE odd (id int, d date, dt datetime, t time, b boolean)",
        )
        self.run(
            "INSERT INTO odd VALUES (1, '2026-01-31', '2026-01-31', '08:30', 1), (2, '0000-00-00', NULL, NULL, 0),"
            " (3, NULL, '2026-00-31', NULL, 0), (4, NULL, NULL, '-01:00', 0), (5, NULL, NULL, '100:00:00', 0),"
            " (6, NULL, NULL, NULL, 2)"
        )
        self.run("SET GLOBAL sql_mode = DEFAULT")
        frame, rejects = rejects_of(self.make(table="odd"))
        assert frame["id"].tolist() == [1]
        assert [reject.rule for reject in rejects] == [
            "d: not a date",
            "dt: not a timestamp",
            "t: not a time of day",
            "t: not a time of day",
            "b: not true or false",
        ]

    def test_splits_by_dates_and_times(self) -> None:
        self.run(
            "CREATE OR REPLACE TABLE days (id int, d date, dt datetime, ts timestamp NULL, bu bigint unsigned)",
            "INSERT INTO days SELECT seq, date_add('2026-01-01', interval seq day),"
            " date_add('2026-01-01', interval seq hour), date_add('2026-01-01', interval seq hour),"
            " 18446744073709551000 + seq FROM seq_1_to_50",
            "INSERT INTO days (id) VALUES (0)",
        )
        for column in ("d", "dt", "ts", "bu"):
            splits = self.make(table="days", order_by=(), split_on=column, split_into=4).splits()
            sizes = [len(frame_of(split)) for split in splits]
            assert (len(sizes), sum(sizes)) == (4, 51), column
            assert all(size >= 12 for size in sizes)

    def test_a_session_that_is_killed(self) -> None:
        batches = self.make(query=self.many(5_000_000), batch_rows=100).extract()
        next(batches)
        (killed,) = self.server.run("SELECT id FROM information_schema.processlist WHERE info LIKE '%seq_1_to_5000000'")
        self.run(f"KILL {killed[0]}")
        with pytest.raises(SourceError, match="the connection was lost; nothing of what was read is used"):
            list(batches)

    def test_tables_of_other_databases(self) -> None:
        assert list(frame_of(self.make(table="mysql.help_topic", columns=["name"], order_by=())).columns) == ["name"]

    @pytest.mark.parametrize("scheme", ["mariadb", "mysql+pymysql"])
    def test_the_scheme_may_be_another(self, scheme: str) -> None:
        assert len(rows_of(self.make(url=self.url.replace("mysql", scheme, 1)))) == 5
