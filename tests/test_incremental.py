"""What is new: the step that finds it, any history of runs, and the options."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas import DataFrame
from pydantic import ValidationError

pytest.importorskip("sqlalchemy", reason="SqlExtractor needs SQLAlchemy: pip install SQLAlchemy")

from etl.config import load_pipeline
from etl.errors import ConfigError, DataError
from etl.extractors.sql import SqlExtractor
from etl.incremental.options import Incremental
from etl.incremental.step import NewRows
from etl.ledger import Account
from etl.paths import PROJECT
from etl.run import Live
from main import Pipeline
from tests.contracts import TransformerContract
from tests.incremental_runs import PIPELINE_FILE, concluded

# -- the step by itself -----------------------------------------------------------------------------------------------


class TestNewRows(TransformerContract):
    TIMES = (3, None, 5, 4, 9, 5, 1, 7)

    def make(self) -> NewRows:
        _, live = new_in([(3, 5), (6, 5), (7, 4)], None, KEYED, 100)
        return NewRows.after(live, "p", KEYED)

    def frame(self) -> DataFrame:
        rows = pa.table({"id": range(1, 9), "at": pa.array(self.TIMES, pa.int64())})
        return rows.to_pandas(types_mapper=pd.ArrowDtype).set_axis(range(1, 9), axis="index")

    def test_what_was_read_is_dropped_and_what_is_new_stays(self) -> None:
        frame = self.frame()
        result, told = self.outcome(frame[:3], frame[3:6], frame[6:])
        assert result.index.tolist() == [1, 4, 5, 7, 8]
        assert told["dropped"] == {"read by an earlier run": 2}
        assert len(told["rejects"]) == 1


# -- any history ------------------------------------------------------------------------------------------------------

KEYED = Incremental(column="at", key=("id",), lag=5)
KEYLESS = Incremental(column="at", lag=5)


def new_in(rows: list[tuple[int, int]], live: Live | None, options: Incremental, batch_rows: int) -> Any:
    """What a run finds new in a table of (id, at), read in batches, and what is live after it."""
    step = NewRows.after(live, "p", options)
    first = step.reads_from()
    account, found = Account("new"), list[tuple[int, int]]()
    for start in range(0, len(rows) or 1, batch_rows):
        part = rows[start : start + batch_rows]
        numbers = pd.RangeIndex(start + 1, start + len(part) + 1)
        types = pd.ArrowDtype(pa.int64())
        batch = DataFrame(part, columns=["id", "at"], index=numbers).astype(types)
        if isinstance(first, int):
            batch = batch[batch["at"] >= first - 1]  # a source that is not exact
        kept = step.transform(batch, account)
        found += list(zip(kept["id"].tolist(), kept["at"].tolist(), strict=True))
    return found, concluded(step, account)[1]


@given(data=st.data(), batch_rows=st.sampled_from([1, 3, 100]), keyed=st.booleans())
@settings(max_examples=40)
def test_any_history_is_found_exactly_once(data: st.DataObject, batch_rows: int, keyed: bool) -> None:
    """New rows, equal rows and updates, none later than lag: after each run all versions are there, each once."""
    options = KEYED if keyed else KEYLESS
    table: list[tuple[int, int]] = []
    expected: Counter[tuple[int, int]] = Counter()
    found: Counter[tuple[int, int]] = Counter()
    live, reached, next_id = None, 0, 0
    for _ in range(data.draw(st.integers(1, 6))):
        for _ in range(data.draw(st.integers(0, 5))):
            at = data.draw(st.integers(max(reached - 5, 0), reached + 8))
            action = data.draw(st.sampled_from(["insert", "update", "repeat"]))
            if action == "update" and table:
                place = data.draw(st.integers(0, len(table) - 1))
                if table[place][1] >= at:
                    continue  # an update sets a later time
                row = (table[place][0], at)
                table[place] = row
            elif action == "repeat" and not keyed and table and table[-1][1] >= reached - 5:
                row = table[-1]
                table.append(row)
            else:
                next_id += 1
                row = (next_id, at)
                table.append(row)
        order = data.draw(st.permutations(table))
        new, live = new_in(order, live, options, batch_rows)
        found.update(new)
        reached = max([reached, *(at for _, at in table)])
        expected |= Counter(table)
        assert found == expected


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", ['key = "orders.parquet"', 'prefix = "orders/"', 'prefix = "o/"\nmode = "replace"'])
def test_config_refuses_loaders_that_keep_no_cursor(tmp_path: Path, load: str) -> None:
    file = tmp_path / "orders.toml"
    file.write_text(PIPELINE_FILE.format(url="sqlite:///shop.db", bucket="some-bucket", load=load))
    with pytest.raises(ConfigError, match=r"extract\.incremental: only where .* S3Loader with prefix and mode"):
        load_pipeline(file)


def test_config_names_unknown_options(tmp_path: Path) -> None:
    file = tmp_path / "orders.toml"
    text = PIPELINE_FILE.format(url="sqlite:///shop.db", bucket="some-bucket", load='prefix = "o/"\nmode = "append"')
    file.write_text(text.replace("column =", "colunm ="))
    with pytest.raises(ConfigError, match=r"extract\.incremental\.colunm: unknown; did you mean 'column'"):
        load_pipeline(file)


def test_the_example_can_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET", "some-bucket")
    monkeypatch.setenv("DATABASE_URL", "postgres://user:password@host/db")
    extractor = Pipeline.from_file(PROJECT / "pipelines" / "sql-incremental.toml").extractor
    assert isinstance(extractor, SqlExtractor)
    assert extractor.incremental == Incremental(column="updated_at", key=("id",), lag="1h")


def test_splits_are_refused() -> None:
    """Each has a snapshot of its own: a change between two of them would be missed, and the cursor be past it."""
    options = {"url": "sqlite:///a.db", "table": "t", "split_on": "id", "split_into": 2}
    with pytest.raises(ValidationError, match="takes no splits"):
        SqlExtractor.model_validate({**options, "incremental": {"column": "at"}})


def test_a_row_that_changed_while_the_run_read_is_read_again() -> None:
    """It may have been read before it changed, by a source without a snapshot: the cursor stays where the run began."""
    options = Incremental(column="at", key=("id",))
    before = datetime.now(UTC)
    step, account = NewRows.after(None, "p", options), Account("new")
    during = [before - timedelta(hours=1), datetime.now(UTC) + timedelta(seconds=1)]
    step.transform(pa.table({"id": [1, 2], "at": during}).to_pandas(types_mapper=pd.ArrowDtype), account)
    _, live = concluded(step, account)
    next_from = NewRows.after(live, "p", options).reads_from()
    assert isinstance(next_from, datetime)
    assert before <= next_from <= during[1] - timedelta(seconds=1)


def test_columns_that_told_rows_apart_are_missed() -> None:
    _, live = new_in([(1, 5)], None, KEYLESS, 100)
    step = NewRows.after(live, "p", KEYLESS)
    with pytest.raises(DataError, match=r"told rows apart by id too, .*; bring it back, or publish to another prefix"):
        step.transform(pa.table({"at": [6]}).to_pandas(types_mapper=pd.ArrowDtype))


@pytest.mark.parametrize("lag", ["1 hour", "-1h", "h", -1, "1.5h", "99999999999w", "9" * 5000 + "d"])
def test_a_lag_is_a_time_or_a_number(lag: Any) -> None:
    with pytest.raises(ValidationError):
        Incremental(column="at", lag=lag)


@pytest.mark.parametrize(
    ("lag", "value", "expected"),
    [
        ("90s", datetime(2026, 1, 1, tzinfo=UTC), datetime(2025, 12, 31, 23, 58, 30, tzinfo=UTC)),
        ("2d", date(2026, 1, 1), date(2025, 12, 30)),
        ("1h", date(2026, 1, 1), date(2025, 12, 31)),
        ("1w", date(1, 1, 2), date(1, 1, 1)),
        ("999999999d", datetime(2026, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)),
        ("86399999999999s", date(2026, 1, 1), date(1, 1, 1)),
        (10, 7, -3),
        (1, Decimal("1.5"), Decimal("0.5")),
        (0, "text", "text"),
    ],
)
def test_stepping_back(lag: Any, value: Any, expected: Any) -> None:
    assert Incremental(column="at", lag=lag).before(value) == expected


@pytest.mark.parametrize(("lag", "value"), [("1h", 5), (5, date(2026, 1, 1)), ("1h", "text"), (1, "text")])
def test_stepping_back_by_another_kind(lag: Any, value: Any) -> None:
    with pytest.raises(ValueError, match="lag"):
        Incremental(column="at", lag=lag).before(value)


@pytest.mark.parametrize(
    ("values", "start", "kind", "problem"),
    [
        ([1.5], None, DataError, "'at' is double; choose one of: integer"),
        ([True], None, DataError, "'at' is bool; choose one of: integer"),
        ([5], "2026-01-01", ConfigError, "has values of kind integer, which cannot be compared with '2026-01-01'"),
        (["a"], 5, ConfigError, "has values of kind text, which cannot be compared with 5"),
    ],
)
def test_values_without_an_order_are_refused(
    values: list[Any], start: Any, kind: type[Exception], problem: str
) -> None:
    step = NewRows.after(None, "p", Incremental(column="at", start=start))
    with pytest.raises(kind, match=problem):
        step.transform(pa.table({"at": values}).to_pandas(types_mapper=pd.ArrowDtype))


def test_an_extractor_without_the_option_does_not_have_it(tmp_path: Path) -> None:
    file = tmp_path / "zip.toml"
    text = PIPELINE_FILE.format(url="https://x/y.zip", bucket="some-bucket", load='prefix = "o/"\nmode = "append"')
    file.write_text(text.replace("SqlExtractor", "ZipUrlExtractor").replace('table = "orders"\n', ""))
    with pytest.raises(ConfigError, match=r"extract\.incremental: unknown"):
        load_pipeline(file)
