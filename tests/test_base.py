"""The three base classes and the ledger: counting, blame, and no row lost in silence."""

from __future__ import annotations

import io
import os
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import requests
import urllib3
from pandas import DataFrame, Index, RangeIndex, Series
from pydantic import SecretStr

from etl.base import Extractor, Loader, Transformer
from etl.errors import ConfigError, DataError, EtlError, SourceError, StorageError
from etl.ledger import Account
from etl.run import Published, Receipt, Run, Source


class Numbers(Extractor):
    """Three batches with pandas' own index."""

    url: str = "https://user:pw@example.com/a?token=abc"
    password: SecretStr = SecretStr("hidden")

    def read(self, account: Account) -> Iterator[DataFrame]:
        yield DataFrame({"n": [10, 20]})
        account.reject_line(3, "ragged", "30,30")
        yield DataFrame({"n": [40]}, index=[4])
        yield DataFrame({"n": [50, 60]})


class Change(Transformer):
    """Whatever the test wants."""

    change: Callable[[DataFrame, Account], DataFrame]

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        return self.change(batch, account)


class Forgetful(Loader):
    """Stores one row less than it was given."""

    def write(self, batches: Iterator[DataFrame], run: Run) -> Receipt:
        return Receipt(sum(len(batch) for batch in batches) - 1, 0, "", {})

    def commit(self, receipts: Any, run: Run) -> Published:
        raise NotImplementedError


FRAME = DataFrame({"n": [1, 2, 3, 4]}, index=[1, 2, 3, 4])


def test_rows_get_numbers_that_count_rejected_lines_too() -> None:
    account = Account("read")
    numbers = [list(batch.index) for batch in Numbers().extract(account)]
    assert numbers == [[1, 2], [4], [5, 6]]
    assert (account.rows_in, account.rows_out, dict(account.rejected)) == (6, 5, {"ragged": 1})


def test_chunks_of_pandas_are_numbered_from_1_through_all_of_them() -> None:
    class Chunks(Extractor):
        def read(self, account: Account) -> Iterator[DataFrame]:
            yield from pd.read_csv(io.StringIO("n\n" + "7\n" * 5), chunksize=2)

    account = Account("read")
    assert [list(batch.index) for batch in Chunks().extract(account)] == [[1, 2], [3, 4], [5]]
    assert [list(batch.index) for batch in Chunks().extract(account)] == [[6, 7], [8, 9], [10]]


def test_numbers_of_several_files_that_each_begin_with_1_are_kept() -> None:
    class ShortFileFirst(Extractor):
        def read(self, account: Account) -> Iterator[DataFrame]:
            for rows in (1, 3):
                yield DataFrame({"n": [7] * rows}, index=RangeIndex(1, rows + 1))

    assert [list(batch.index) for batch in ShortFileFirst().extract()] == [[1], [1, 2, 3]]


def test_lines_behind_the_last_row_come_with_a_batch_too() -> None:
    """Or they would be taken for lines of the source that is read next."""

    class TwoFiles(Extractor):
        def read(self, account: Account) -> Iterator[DataFrame]:
            for source in "ab":
                frame = DataFrame({"n": [10]})
                frame.attrs["source"] = source
                yield frame
            account.reject_line(2, "ragged", "20,20")

    account = Account("read")
    found = [(b.attrs["source"], len(b), len(account.take_rejects())) for b in TwoFiles().extract(account)]
    assert found == [("a", 1, 0), ("b", 1, 0), ("b", 0, 1)]
    assert account.balances()


def test_secrets_are_not_in_the_repr() -> None:
    shown = repr(Numbers())
    assert "hidden" not in shown
    assert "pw" not in shown
    assert "abc" not in shown


def test_lost_rows_fail_the_run() -> None:
    with pytest.raises(EtlError, match="Change: lost 3 rows without giving a reason"):
        Change(change=lambda batch, _account: batch.head(1)).transform(FRAME)


def test_a_step_that_forgets_to_return_its_batch_is_told_so() -> None:
    with pytest.raises(EtlError, match="Change: apply returned nothing; it should return the batch"):
        Change(change=lambda _batch, _account: None).transform(FRAME)  # type: ignore[arg-type,return-value]


def test_rows_from_nowhere_fail_the_run() -> None:
    with pytest.raises(EtlError, match="returned 4 rows more"):
        Change(change=lambda batch, _account: pd.concat([batch, batch])).transform(FRAME)


@pytest.mark.parametrize("change", ["reset_index", "merge"])
def test_rows_with_new_numbers_fail_the_run(change: str) -> None:
    changes = {
        "reset_index": lambda batch, _account: batch.reset_index(drop=True),
        "merge": lambda batch, _account: batch.merge(FRAME, on="n"),
    }
    with pytest.raises(EtlError, match="Change: gave its rows new numbers"):
        Change(change=changes[change]).transform(FRAME)


def test_lost_and_rejected_rows_are_told_apart() -> None:
    def change(batch: DataFrame, account: Account) -> DataFrame:
        account.reject(batch["n"] > 3, "too big")
        return batch[batch["n"] != 1]

    with pytest.raises(EtlError, match="lost 1 rows"):
        Change(change=change).transform(FRAME)


def test_rejected_and_dropped_rows_leave_with_their_reason() -> None:
    def change(batch: DataFrame, account: Account) -> DataFrame:
        account.reject(batch["n"] == 2, "is two", column="n", values=batch["n"])
        account.reject(batch["n"] == 2, "is even", column="n", values=batch["n"])
        account.drop(batch["n"].isin([2, 3]), "unwanted")
        return batch

    account = Account("change")
    result = Change(change=change).transform(FRAME, account)
    assert list(result.index) == [1, 4]
    assert dict(account.rejected) == {"n: is two": 1}
    assert dict(account.dropped) == {"unwanted": 1}
    assert [(r.row, r.value, r.rule) for r in account.take_rejects()] == [(2, "2", "is two"), (2, "2", "is even")]
    assert account.take_rejects() == []
    assert account.balances()


@pytest.mark.parametrize("index", [RangeIndex(5, 10), Index([5, 6, 7, 8, 9]), Index([9, 7, 5, 7, 6])])
def test_rows_that_leave_are_known_by_their_labels(index: Index[Any]) -> None:
    """Whatever the index is like, and though one of them is not among the rows that are asked about."""
    account = Account("step")
    account.reject(Index([7, 1]), "bad")
    assert account.leaving(index).tolist() == [label == 7 for label in index]


def test_reasons_are_few_however_many_different_ones_there_are() -> None:
    account = Account("read")
    for row in range(1, 151):
        account.reject_line(row, f"field {row} is new", "{}")
    account.reject_line(151, "field 1 is new", "{}")
    assert len(account.rejected) == 101
    assert (account.rejected["field 1 is new"], account.rejected["other reasons"]) == (2, 50)
    assert account.take_rejects()[149].rule == "field 150 is new"


@pytest.mark.parametrize(
    ("values", "kind", "text"),
    [
        ([[1, 2], None], pa.list_(pa.int64()), "[1, 2]"),
        ([{"a": 1}, None], pa.struct([("a", pa.int64())]), "{'a': 1}"),
        ([pa.scalar(20_000_000, pa.int32()).cast(pa.date32()), None], pa.date32(), "<value out of range: 20000000>"),
    ],
)
def test_evidence_is_given_whatever_the_value_is(values: list[Any], kind: Any, text: str) -> None:
    account = Account("step")
    series = Series(pd.arrays.ArrowExtensionArray(pa.chunked_array([pa.array(values, kind)])), index=[1, 2])
    account.reject(series.index, "bad", column="a", values=series)
    assert [reject.value for reject in account.take_rejects()] == [text, None]
    account.repair("cleaned", series.iloc[:1], series.iloc[1:].set_axis([1]))
    assert account.repaired["cleaned"].samples == [{"row": 1, "before": text, "after": None}]


def test_loader_must_store_every_row() -> None:
    run = Run("id", "test", None)  # type: ignore[arg-type]
    with pytest.raises(EtlError, match="Forgetful: was given 4 rows and stored 3"):
        Forgetful().load([FRAME], run)


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (KeyError("x"), EtlError, "Change: KeyError: 'x'"),
        (MemoryError(), StorageError, "batch_rows"),
        (ModuleNotFoundError(name="nolib"), ConfigError, "nolib is not installed; .*requirements.txt"),
        (OSError(28, "No space left on device", "/tmp/file"), StorageError, "No space left on device: /tmp/file"),
        (DataError("bad"), DataError, "Change: bad"),
    ],
)
def test_failures_name_the_step(raised: Exception, kind: type[EtlError], message: str) -> None:
    def change(_batch: DataFrame, _account: Account) -> DataFrame:
        raise raised

    with pytest.raises(kind, match=message) as failure:
        Change(change=change).transform(FRAME)
    assert type(failure.value) is kind


class Calls(Extractor):
    """Reads by whatever the test wants."""

    call: Callable[[], Any]

    def inspect(self) -> Source:
        return Source(str(self.call()))

    def read(self, account: Account) -> Iterator[DataFrame]:
        yield DataFrame({"n": [self.call()]})


NOBODY = "127.0.0.1:1"


def get_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 0.01) as ours:
        ours.recv(1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: requests.get(f"http://{NOBODY}/", timeout=5),
        lambda: requests.get("no-url", timeout=5),
        lambda: urllib.request.urlopen(f"http://{NOBODY}/"),
        lambda: urllib3.PoolManager(retries=False).request("GET", f"http://{NOBODY}/"),
        lambda: socket.create_connection(("127.0.0.1", 1)),
        lambda: socket.getaddrinfo("127.0.0.1", "no-such-service"),
        get_no_answer,
    ],
)
def test_an_error_of_the_network_is_one_of_the_source(call: Callable[[], Any]) -> None:
    step = Calls(call=call)
    with pytest.raises(SourceError, match=r"Calls: .*; try again later, or check the address"):
        list(step.extract())
    with pytest.raises(SourceError), step.blamed():
        step.inspect()


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: Path("/no/such/file").read_bytes(), StorageError),
        (lambda: os.read(-1, 1), StorageError),
        (lambda: 1 // 0, EtlError),
    ],
)
def test_other_errors_of_an_extractor_are_what_they_are(call: Callable[[], Any], kind: type[EtlError]) -> None:
    with pytest.raises(EtlError) as failure:
        list(Calls(call=call).extract())
    assert type(failure.value) is kind


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        (["a", "b"], ["a", "b"], 0),
        (["a", "b"], ["a", "c"], 1),
        (["a", None], ["a", None], 0),
        (["a", None], ["a", "b"], 1),
        (["a", "b"], ["a", None], 1),
        ([None, "b"], ["b", None], 2),
    ],
)
@pytest.mark.parametrize("dtype", ["string[pyarrow]", "object", pd.ArrowDtype(pa.string())])
def test_repairs_are_counted_with_samples(before: list[Any], after: list[Any], count: int, dtype: Any) -> None:
    account = Account("clean")
    account.repair("rule", Series(before, dtype=dtype), Series(after, dtype=dtype))
    repaired = account.as_dict()["repaired"]
    assert repaired.get("rule", {"count": 0})["count"] == count
    if count:
        assert len(repaired["rule"]["samples"]) == count
        assert {"row", "before", "after"} == set(repaired["rule"]["samples"][0])
