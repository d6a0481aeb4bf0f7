"""SqlExtractor: on SQLite, on a real PostgreSQL and on a real MariaDB, with their types, snapshots and failures."""

from __future__ import annotations

import io
import json
import logging
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
import traceback
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas import DataFrame
from pydantic import Field, ValidationError

pytest.importorskip("sqlalchemy", reason="SqlExtractor needs SQLAlchemy: pip install SQLAlchemy")
pytest.importorskip("psycopg", reason="its tests need psycopg: pip install 'psycopg[binary]'")
pytest.importorskip("pymysql", reason="its tests need PyMySQL: pip install 'PyMySQL[rsa]'")

from etl.base import Transformer
from etl.errors import AccessError, ConfigError, DataError, EtlError, SourceError
from etl.extractors.sql import SqlExtractor
from etl.ledger import Account, Reject
from etl.loaders.s3 import S3Loader
from etl.paths import PROJECT
from main import Pipeline
from tests.conftest import Bucket
from tests.contracts import ExtractorContract
from tests.databases import PASSWORD, OnDatabase, Server, SqliteFile

NAMES = ["Castle", "Ümläut", None, "Spa ce", "X"]
ODD = 'Odd "name" `of` 100% :x; DROP TABLE sets; --'
INSERT_SETS = (
    "INSERT INTO sets VALUES (1, 10, 'Castle'), (2, NULL, 'Ümläut'), (3, -5, NULL), (4, 10, 'Spa ce'), (5, 7, 'X')"
)


def frame_of(extractor: SqlExtractor, account: Account | None = None) -> DataFrame:
    return pd.concat(extractor.extract(account))


def rows_of(extractor: SqlExtractor) -> list[tuple[Any, ...]]:
    found = frame_of(extractor)
    return [tuple(row) for row in found.astype(object).where(found.notna(), None).itertuples(index=False)]


def rejects_of(extractor: SqlExtractor) -> tuple[DataFrame, list[Reject]]:
    account = Account("test")
    frame = frame_of(extractor, account)
    assert account.balances()
    return frame, account.take_rejects()


def types_of(frame: DataFrame) -> dict[str, str]:
    return {str(name): str(dtype).removesuffix("[pyarrow]") for name, dtype in frame.dtypes.items()}


# -- what is the same everywhere ----------------------------------------------------------------------------------


class SqlContract(OnDatabase, ExtractorContract):
    """There is a table ``sets`` of five rows (id, n, name)."""

    quote = '"'

    def make(self, **options: Any) -> SqlExtractor:
        what = {} if "query" in options else {"table": "sets", "order_by": ("id",)}
        return SqlExtractor.model_validate({"url": self.url, **what, **options})

    def make_broken(self) -> SqlExtractor:
        return self.make(query="SELECT nothing FROM nowhere")

    def quoted(self, name: str) -> str:
        return self.quote + name.replace(self.quote, self.quote * 2) + self.quote

    def test_reads_a_table(self) -> None:
        assert [row[2] for row in rows_of(self.make())] == NAMES

    def test_reads_chosen_columns_in_a_chosen_order(self) -> None:
        extractor = self.make(columns=["name", "id"], order_by=["n", "id"])
        assert list(frame_of(extractor).columns) == ["name", "id"]
        by_n = {row[1]: row[0] for row in rows_of(extractor)}
        assert list(by_n) in ([3, 5, 1, 4, 2], [2, 3, 5, 1, 4])  # databases disagree where null belongs

    def test_reads_a_query_with_parameters(self) -> None:
        query = "SELECT id, name FROM sets WHERE id IN :ids AND name <> :name ORDER BY id; -- and no more"
        extractor = self.make(query=query, params={"ids": [1, 2, 4], "name": "Castle"})
        assert rows_of(extractor) == [(2, "Ümläut"), (4, "Spa ce")]
        assert rows_of(self.make(query="SELECT id FROM sets WHERE name LIKE 'C%'")) == [(1,)]
        sneaky = self.make(query="SELECT id FROM sets WHERE name = :name", params={"name": "x' OR '1'='1"})
        assert rows_of(sneaky) == []
        assert list(frame_of(sneaky).columns) == ["id"]

    def test_names_are_quoted(self) -> None:
        self.run(
            f"DROP TABLE IF EXISTS {self.quoted(ODD)}", f"CREATE TABLE {self.quoted(ODD)} ({self.quoted(ODD)} INTEGER)"
        )
        self.run(f"INSERT INTO {self.quoted(ODD)} VALUES (5), (6)")
        whole = self.make(table=ODD, columns=[ODD], order_by=[ODD])
        assert rows_of(whole) == [(5,), (6,)]
        splits = self.make(table=ODD, order_by=(), split_on=ODD, split_into=2).splits()
        assert [rows_of(split) for split in splits] == [[(5,)], [(6,)]]
        self.run(f"DROP TABLE {self.quoted(ODD)}")

    @pytest.mark.parametrize("name", ["set", 'sets"; DROP TABLE sets; --', "nowhere.sets"])
    def test_tables_must_be_in_the_catalogue(self, name: str) -> None:
        with pytest.raises(ConfigError, match=r"table: .* there is no ") as failure:
            rows_of(self.make(table=name))
        assert failure.value.exit_code == 78
        assert len(rows_of(self.make())) == 5

    def test_the_nearest_name_is_told(self) -> None:
        with pytest.raises(ConfigError, match=r"there is no 'setz'; did you mean 'sets'"):
            self.make(table="setz").check()

    @pytest.mark.parametrize("option", ["columns", "order_by", "split_on"])
    def test_columns_must_be_in_the_catalogue(self, option: str) -> None:
        value = "nme" if option == "split_on" else ["nme"]
        with pytest.raises(ConfigError, match=rf"{option}: .* has no column 'nme'; did you mean 'name'"):
            rows_of(self.make(**{option: value}))

    def test_an_empty_result_has_its_columns_and_types(self) -> None:
        whole = frame_of(self.make())
        self.run("CREATE TABLE empty (id INTEGER, n INTEGER, name VARCHAR(20))")
        assert types_of(frame_of(self.make(table="empty", order_by=()))) == types_of(whole)
        self.run("DROP TABLE empty")

    def test_columns_of_the_same_name_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="names a column more than once: id; give one of them an alias"):
            rows_of(self.make(query="SELECT a.id, b.id FROM sets a, sets b"))

    def test_nothing_can_be_changed(self) -> None:
        with pytest.raises(ConfigError):
            rows_of(self.make(query="DELETE FROM sets WHERE id > 0 RETURNING id"))
        assert len(rows_of(self.make())) == 5

    @pytest.mark.parametrize("parts", [2, 7])
    @pytest.mark.parametrize("column", ["id", "n"])
    def test_splits_read_each_row_once(self, column: str, parts: int) -> None:
        for extractor in (
            self.make(split_on=column, split_into=parts),
            self.make(query="SELECT * FROM sets -- all", split_on=column, split_into=parts),
        ):
            splits = extractor.splits()
            assert 1 < len(splits) <= parts
            found = [row for split in pickle.loads(pickle.dumps(splits)) for row in rows_of(split)]
            assert sorted(row[0] for row in found) == [1, 2, 3, 4, 5]
            account = Account("as a run reads them")
            numbers = [number for split in splits for batch in split.extract(account) for number in batch.index]
            assert numbers == [1, 2, 3, 4, 5]

    def test_splits_of_nothing_to_split(self) -> None:
        empty = self.make(query="SELECT * FROM sets WHERE id > 5", split_on="id", split_into=4)
        assert [rows_of(split) for split in empty.splits()] == [[]]
        one = self.make(query="SELECT * FROM sets WHERE id = 5", split_on="id", split_into=4)
        assert [len(rows_of(split)) for split in one.splits()] == [1]
        with pytest.raises(ConfigError, match="split_on: 'name' is string; choose an integer, date or timestamp"):
            self.make(split_on="name", split_into=2).splits()

    def test_one_state_of_the_table_is_read(self) -> None:
        batches = self.make(batch_rows=1).extract()
        first = next(batches)
        self.run(
            "DELETE FROM sets WHERE id = 5", "INSERT INTO sets VALUES (0, 0, 'new')", "UPDATE sets SET name = 'changed'"
        )
        names = [*first["name"], *(name for batch in batches for name in batch["name"])]
        self.run("DELETE FROM sets", INSERT_SETS)
        assert [None if pd.isna(name) else name for name in names] == NAMES

    def test_check_looks_into_the_catalogue(self) -> None:
        assert self.make().check().endswith("#sets, 3 columns")
        assert self.make(query="SELECT 1 AS one").check().endswith("#query, 1 columns")
        with pytest.raises(EtlError):
            self.make_broken().check()


class ServerContract(SqlContract):
    """What needs a server."""

    server: Server

    def test_no_secret_is_shown(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        other = self.url.replace(f":{PASSWORD}@", "@") + f"?password={PASSWORD}"
        for url in (self.url, other):
            extractor = SqlExtractor(url=url, table="sets")  # type: ignore[arg-type]
            assert len(rows_of(extractor)) == 5
            shown = [repr(extractor), str(extractor), extractor.check(), repr(extractor.inspect())]
            shown.append(json.dumps(extractor.model_dump(mode="json")))
            for bad in ({"table": "nope"}, {"query": "SELECT nothing"}, {"query": f"SELECT '{PASSWORD}"}):
                with pytest.raises(EtlError) as failure:
                    rows_of(SqlExtractor.model_validate({"url": url, **bad}))
                if "query" not in bad:
                    shown.append("".join(traceback.format_exception(failure.value)))
                shown.append(str(failure.value))
            assert PASSWORD not in "".join([*shown[:-1], caplog.text])

    def test_a_wrong_password(self) -> None:
        wrong = PASSWORD[::-1]
        with pytest.raises(AccessError, match="check user and password in url") as failure:
            rows_of(self.make(url=self.server.url(password=wrong)))
        assert failure.value.exit_code == 77
        assert wrong not in "".join(traceback.format_exception(failure.value))

    def test_a_database_that_does_not_exist(self) -> None:
        with pytest.raises(ConfigError, match="check the name of the database in url"):
            rows_of(self.make(url=self.server.url(database="nope")))

    def test_an_option_that_does_not_exist(self) -> None:
        with pytest.raises(ConfigError, match="option"):
            rows_of(self.make(url=self.url + "?no_such_option=1"))

    @pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:5432"])
    def test_a_server_that_is_not_there(self, address: str) -> None:
        with pytest.raises(SourceError, match="cannot reach the database; check host and port") as failure:
            rows_of(self.make(url=f"{self.server.scheme}://etl:x@{address}/test"))
        assert failure.value.exit_code == 69

    def test_a_permission_that_is_missing(self) -> None:
        self.create_user("guest")
        guest = self.url.replace("//etl:", "//guest:")
        with pytest.raises(AccessError, match="ask for SELECT on it"):
            rows_of(self.make(url=guest, query="SELECT * FROM sets"))

    @abstractmethod
    def create_user(self, name: str) -> None: ...

    @pytest.mark.parametrize("cut_after", [3_000, 20_000, 66_666, 200_000])
    def test_a_connection_that_breaks_is_an_error(self, cut_after: int) -> None:
        """However far it got, and even if the stream of bytes just ends."""
        with broken_line(self.server.port, cut_after) as port:
            url = self.url.replace(f":{self.server.port}", f":{port}")
            account = Account("test")
            with pytest.raises(SourceError, match=r"the connection was lost|cannot reach"):
                for _ in self.make(url=url, query=self.many(100_000), batch_rows=100).extract(account):
                    pass
        assert account.rows_out < 100_000

    @abstractmethod
    def many(self, rows: int) -> str:
        """A query with so many rows."""

    @pytest.mark.slow
    def test_memory_does_not_grow_with_the_table(self) -> None:
        """The peak of a process that reads ten times as many rows is the same, give or take the allocator's slack."""
        peaks = [peak_of_reading(self.url, self.wide(rows), rows) for rows in (100_000, 1_000_000)]
        assert peaks[1] - peaks[0] < 64 << 20

    @abstractmethod
    def wide(self, rows: int) -> str:
        """A query with so many rows of 50 bytes and more."""

    def test_stopping_early_does_not_read_the_rest(self) -> None:
        batches = self.make(query=self.many(2_000_000_000), batch_rows=10).extract()
        assert len(next(batches)) == 10
        batches.close()  # type: ignore[attr-defined]


@contextmanager
def broken_line(port: int, cut_after: int) -> Iterator[int]:
    """A port that leads to ``port``, until so many bytes have come back: then the connection just ends."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listener.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            threading.Thread(target=pump, args=(client, server), daemon=True).start()
            left = cut_after
            while left > 0 and (data := server.recv(min(left, 65_536))):
                client.sendall(data)
                left -= len(data)
            for side in (client, server):
                side.shutdown(socket.SHUT_RDWR)

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                target.sendall(data)
        except OSError:
            pass  # the other side is gone, as it should be

    threading.Thread(target=serve, daemon=True).start()
    with listener:
        yield listener.getsockname()[1]


# -- SQLite -------------------------------------------------------------------------------------------------------


class TestSqlite(SqlContract):
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

    def test_files_that_are_no_database(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="cannot be opened; check its path"):
            rows_of(self.make(url=f"sqlite:///{tmp_path}/missing.db"))
        assert not (tmp_path / "missing.db").exists()
        (tmp_path / "text.db").write_text("just some text " * 100)
        with pytest.raises(DataError, match="no SQLite database"):
            rows_of(self.make(url=f"sqlite:///{tmp_path}/text.db"))

    def test_a_damaged_file_is_an_error(self, tmp_path: Path) -> None:
        self.run("CREATE TABLE long (t TEXT)", *[f"INSERT INTO long VALUES ('{'x' * 4000}')" for _ in range(50)])
        self.run("PRAGMA wal_checkpoint(TRUNCATE)")
        data = bytearray(self.server.path.read_bytes())
        data[-100_000:-80_000] = bytes(20_000)
        (tmp_path / "damaged.db").write_bytes(data)
        with pytest.raises(DataError, match="damaged"):
            rows_of(self.make(url=f"sqlite:///{tmp_path}/damaged.db", table="long", order_by=()))


# -- PostgreSQL ---------------------------------------------------------------------------------------------------


class TestPostgres(ServerContract):
    @pytest.fixture(autouse=True)
    def _tables(self, postgres: Server) -> None:
        self.server = postgres
        self.run(
            "DROP TABLE IF EXISTS sets CASCADE", "CREATE TABLE sets (id int, n int, name varchar(20))", INSERT_SETS
        )

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
            "CREATE TABLE shop.typed (i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, p numeric(10,2),"
            " w numeric(50,5), u numeric, dom shop.price, b bool, d date, t time, ts timestamp, tz timestamptz,"
            " x bytea, j jsonb, js json, id uuid, iv interval, m shop.mood, v varchar(5), c char(3), ip inet,"
            " r int4range,"
            " ai int[], an numeric[], ab bool[], aj jsonb[], at text[], am shop.mood[], aa int[][], ad date[])",
            "INSERT INTO shop.typed VALUES (-1, 2, 9223372036854775807, 1.1, 0.1, 1.10, 12345678901234567890.5,"
            " 1e30, 2.5, true, '2026-01-31', '08:30:00.5', '2026-01-31 12:00:00.123456', '2026-01-31 12:00+01',"
            """ '\\x00ff', '{"a": 1.10}', '{"a":  1.10}', '00000000-0000-0000-0000-000000000001', '1 day 02:00',"""
            " 'so-so', 'text', 'a', '10.0.0.1', '[1,5)', '{1,NULL}', '{1.50,NaN}', '{true,false}', "
            """ ARRAY['{"a": 1}'::jsonb], ARRAY['a"b,c', NULL, ''], '{ok,so-so}', '{{1,2},{3,4}}', '{2026-01-31}')""",
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
        with pytest.raises(ConfigError, match=r'column "nme" does not exist'):
            rows_of(self.make(query="SELECT nme FROM sets"))

    def test_functions_cannot_change_anything_either(self) -> None:
        self.run("DROP SEQUENCE IF EXISTS counter", "CREATE SEQUENCE counter")
        with pytest.raises(ConfigError, match="it would change data, and this session may only read"):
            rows_of(self.make(query="SELECT nextval('counter') AS n"))

    def test_a_time_limit_of_the_server(self) -> None:
        self.run("ALTER ROLE etl SET statement_timeout = '50ms'")
        try:
            with pytest.raises(SourceError, match="the server ended the query"):
                rows_of(self.make(query="SELECT pg_sleep(10)::text AS t"))
        finally:
            self.run("ALTER ROLE etl RESET ALL")

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


def peak_of_reading(url: str, query: str, rows: int) -> int:
    """Bytes of memory that a fresh process had at most."""
    code = f"""
        import resource
        from etl.extractors.sql import SqlExtractor
        extractor = SqlExtractor(url={url!r}, query={query!r})
        assert sum(len(batch) for batch in extractor.extract()) == {rows}
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


# -- MariaDB ------------------------------------------------------------------------------------------------------


class TestMariaDb(ServerContract):
    quote = "`"

    @pytest.fixture(autouse=True)
    def _tables(self, mariadb: Server) -> None:
        self.server = mariadb
        self.run(
            "DROP TABLE IF EXISTS sets", "CREATE TABLE sets (id int primary key, n int, name varchar(20))", INSERT_SETS
        )

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
    code = f"""
        import sys
        sys.modules[{missing!r}] = None
        from etl.extractors.sql import SqlExtractor
        try:
            list(SqlExtractor(url={url!r}, table="t").extract())
        except Exception as error:
            print(type(error).__name__, error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout.startswith(hint), done.stderr


def test_building_a_pipeline_loads_no_heavy_library() -> None:
    code = """
        import sys
        from etl.extractors.sql import SqlExtractor
        print(SqlExtractor(url="postgresql://h/d", table="t").inspect().uri)
        print([name for name in ("pandas", "pyarrow", "numpy", "psycopg") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["postgresql://h/d#t", "[]"], done.stderr
