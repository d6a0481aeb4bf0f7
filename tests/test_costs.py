"""What a run costs, in counts that are alike on every machine: requests, bytes read, batches alive, memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pandas import DataFrame, Series

from benchmarks.data import make_zip
from etl.base import Extractor, Loader, Transformer
from etl.engine import AHEAD
from etl.extractors.files import FilesExtractor
from etl.files.csv_options import CsvOptions
from etl.files.csv_reader import read_csv
from etl.ledger import Account
from etl.run import Published, Receipt, Run
from etl.tables.arrow import array_of
from main import Pipeline
from tests.conftest import PROJECT
from tests.s3_front import Front
from tests.web import WebServer

BATCHES = 40
BATCH_ROWS = 8_192
# Arrow's peak, in batches: those of two queues and three stages, two in a row group that is collected and two in one
# that is written, what the reader has at hand, and some air.
MOST_BATCHES_OF_MEMORY = 20


def calls(front: Front) -> Counter[str]:
    return Counter(f"{call.method} {call.key or '?' + '&'.join(call.query)}" for call in front.calls)


def test_requests_of_a_run(lego: Pipeline, web: WebServer, front: Front) -> None:
    run_id = lego.run().run_id
    assert [request.method for request in web.requests] == ["GET"]
    assert calls(front) == {
        "HEAD lego/lego_sets.parquet": 3,  # has it this recipe; what is there as writing begins; is what arrived whole
        "GET ?list-type&prefix&max-keys&encoding-type": 2,  # nothing was there: because the bucket is missing?
        "PUT lego/lego_sets.parquet": 1,
        "GET ?uploads&prefix": 1,  # that earlier runs left
        f"PUT lego/_rejects/{run_id}.jsonl": 1,
        f"PUT lego/_runs/{run_id}.json": 1,
    }


def test_an_unchanged_run_costs_one_request_on_each_side(lego: Pipeline, web: WebServer, front: Front) -> None:
    lego.run()
    web.requests.clear()
    front.calls.clear()
    assert lego.run().status == "unchanged"
    assert [request.headers["If-None-Match"] for request in web.requests] == ['"1"']
    assert calls(front) == {"HEAD lego/lego_sets.parquet": 1}


def test_a_change_that_changes_no_row_costs_one_request_more(lego: Pipeline, front: Front) -> None:
    first = lego.run()
    changed = Pipeline.from_file("pipelines/lego.toml", ["load.parquet.row_group_rows=100000"])
    front.calls.clear()
    run_id = changed.run().run_id
    (note,) = {call.key for call in front.calls if "_unchanged-" in call.key}
    assert calls(front) == {
        "HEAD lego/lego_sets.parquet": 2,
        f"GET {note}": 1,
        "GET ?list-type&prefix&max-keys&encoding-type": 1,  # there is none: because the bucket is missing?
        f"GET lego/_runs/{first.run_id}.json": 1,  # for the guard
        f"PUT lego/_rejects/{run_id}.jsonl": 1,
        f"PUT {note}": 1,
        f"PUT lego/_runs/{run_id}.json": 1,
    }
    front.calls.clear()
    assert changed.run().steps == []
    assert calls(front) == {"HEAD lego/lego_sets.parquet": 1, f"GET {note}": 1}


def test_every_byte_is_read_once() -> None:
    content = b"id,name\n" + b"".join(b"%d,name of %d\n" % (number, number) for number in range(100_000))
    stream = CountingStream(content)
    rows = sum(map(len, read_csv(stream, CsvOptions(), Account("read"), batch_rows=BATCH_ROWS, source="x")))
    assert (rows, stream.bytes_given) == (100_000, len(content))


class CountingStream:
    def __init__(self, content: bytes) -> None:
        self.bytes_given = 0
        self._content = memoryview(content)

    def read(self, n: int, /) -> bytes:
        data = bytes(self._content[self.bytes_given : self.bytes_given + n])
        self.bytes_given += len(data)
        return data


# -- batches alive --------------------------------------------------------------------------------------------------

alive: set[int] = set()
lock = threading.Lock()
most_alive = 0


class ManyBatches(Extractor):
    """As fast as it can, and counts those of its batches that nobody has let go of yet."""

    def read(self, account: Account) -> Iterator[DataFrame]:
        global most_alive
        for number in range(BATCHES):
            batch = pd.DataFrame({"number": [number] * 10}, index=pd.RangeIndex(number * 10 + 1, number * 10 + 11))
            with lock:
                alive.add(number)
                most_alive = max(most_alive, len(alive))
            weakref.finalize(batch, alive.discard, number)
            yield batch
            del batch


class NewBatch(Transformer):
    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        return batch.copy()


class SlowestOfAll(Loader):
    """Goes on only when the stages before it have done all that they may do ahead."""

    def write(self, batches: Iterator[DataFrame], run: Run) -> Receipt:
        rows = 0
        for batch in batches:
            threading.Event().wait(0.01)
            rows += len(batch)
        return Receipt(rows, 0, "", {}, {})

    def commit(self, receipts: Any, run: Run) -> Published:
        return Published("memory", receipts[0].rows, 0, "", {})


def test_few_batches_are_alive_at_a_time() -> None:
    report = Pipeline("alive", ManyBatches(), [NewBatch()], SlowestOfAll()).run()
    assert report.steps[0].rows_in == BATCHES * 10
    assert 1 < most_alive <= AHEAD + 3  # a queue of them, one on its way in, one being transformed, one just made


# -- memory ---------------------------------------------------------------------------------------------------------

_PEAK = """
import json, sys
import pyarrow as pa
from etl.extractors.files import FilesExtractor
from etl.loaders.local import LocalLoader
from etl.transformers.lego import LegoCleaner
from main import Pipeline

source, target, batch_rows = sys.argv[1:]
extractor = FilesExtractor(path=source, batch_rows=int(batch_rows))
loader = LocalLoader(path=target, parquet={"row_group_rows": 2 * int(batch_rows)})
report = Pipeline("peak", extractor, [LegoCleaner()], loader).run()
print(json.dumps([report.status, report.steps[0].rows_in, pa.default_memory_pool().max_memory()]))
"""


def arrow_peak(rows: int, folder: Path) -> int:
    """The most memory that Arrow held at a time while so many rows went through a process, in bytes."""
    source = make_zip(rows, folder, repeats=True)
    command = [sys.executable, "-c", _PEAK, str(source), str(folder / f"{rows}.parquet"), str(BATCH_ROWS)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    status, read, peak = json.loads(done.stdout)
    assert (status, read) == ("published", rows)
    return int(peak)


def test_memory_is_a_few_batches_however_many_rows_there_are(tmp_path: Path) -> None:
    few, many = (arrow_peak(batches * BATCH_ROWS, tmp_path) for batches in (20, 60))
    extractor = FilesExtractor(path=str(next(tmp_path.glob("*.zip"))), batch_rows=BATCH_ROWS)
    batch = next(extractor.extract()).memory_usage(index=False, deep=True).sum()
    assert many < 1.5 * few  # not three times as much; the threads are not always equally far ahead
    assert many < MOST_BATCHES_OF_MEMORY * batch


def test_a_column_is_looked_at_where_it_lies() -> None:
    """Every step takes every column out of pandas: a copy each time was a sixth of what cleaning cost."""
    texts: Any = pa.array(["1-1", "2-1"])
    found = array_of(Series(texts, dtype=pd.ArrowDtype(pa.string())))
    assert found.equals(texts)
    assert [part.address for part in found.buffers() if part] == [part.address for part in texts.buffers() if part]
