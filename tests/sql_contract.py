"""What SqlExtractor must do on every database, and on every server of one."""

from __future__ import annotations

import json
import logging
import pickle
import socket
import threading
import traceback
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import pandas as pd
import pytest

from etl.errors import AccessError, ConfigError, EtlError, SourceError
from etl.extractors.sql import SqlExtractor
from etl.ledger import Account
from tests.contracts import ExtractorContract
from tests.databases import PASSWORD, OnDatabase, Server
from tests.reading import frame_of, peak_of_reading, rows_of, types_of

NAMES = ["Castle", "Ümläut", None, "Spa ce", "X"]
ODD = 'Odd "name" `of` 100% :x; DROP TABLE sets; --'
INSERT_SETS = (
    "INSERT INTO sets VALUES (1, 10, 'Castle'), (2, NULL, 'Ümläut'), (3, -5, NULL), (4, 10, 'Spa ce'), (5, 7, 'X')"
)


class SqlContract(OnDatabase, ExtractorContract):
    """There is a table ``sets`` of five rows (id, n, name)."""

    quote = '"'
    without_rows: str  # a statement that gives none, and changes no data

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

    def test_times_with_a_zone_are_times_in_utc(self) -> None:
        """As the session has them; some drivers would just leave the zone out."""
        at = datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=1)))
        for query, value in (("= :at", at), ("IN :at", [at])):
            step = self.make(query=f"SELECT id FROM sets WHERE '2026-01-31 12:00:00' {query}", params={"at": value})
            assert len(rows_of(step)) == 5

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

    def test_a_statement_that_gives_no_rows_is_a_mistake(self) -> None:
        with pytest.raises(ConfigError, match="query"):
            rows_of(self.make(query=self.without_rows))

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
    """What needs a server. Its fixture ``_database`` is that of ``tests.databases``."""

    server: Server

    @pytest.fixture(autouse=True)
    def _tables(self, _database: None) -> None:
        self.run(
            "DROP TABLE IF EXISTS sets CASCADE",
            "CREATE TABLE sets (id INTEGER PRIMARY KEY, n INTEGER, name VARCHAR(20))",
            INSERT_SETS,
        )

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
        peaks = [
            peak_of_reading(SqlExtractor, rows, url=self.url, query=self.wide(rows)) for rows in (100_000, 1_000_000)
        ]
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
