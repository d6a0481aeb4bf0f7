"""The guard: what it counts, what it finds suspicious, and that it holds runs back until a person accepts them."""

from __future__ import annotations

import datetime
import math
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame

import etl
from etl.base import Extractor
from etl.errors import ConfigError
from etl.figures import Figures, summed
from etl.guard import Guard
from etl.ledger import Account
from etl.loaders.local import LocalLoader
from etl.loaders.s3 import S3Loader
from etl.report import RunReport
from etl.run import Source
from main import Pipeline, main
from tests.any_split import table
from tests.conftest import Bucket
from tests.files import local_pipeline


def shape(frame: DataFrame) -> dict[str, Any]:
    figures = Figures()
    figures.add(frame)
    return figures.as_dict({str(name): str(dtype) for name, dtype in frame.dtypes.items()})


# -- figures ---------------------------------------------------------------------------------------------------


def arrow(kind: Any, *values: Any) -> Any:
    return pd.Series(list(values), dtype=object).astype(pd.ArrowDtype(kind))


def test_figures_of_all_kinds_of_columns() -> None:
    zoned = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
    frame = DataFrame(
        {
            "int": pd.array([3, None, 1], dtype="int16[pyarrow]"),
            "float": [0.5, float("nan"), 2.0],
            "endless": [float("inf"), 1.0, 2.0],
            "decimal": arrow(pa.decimal128(5, 2), Decimal("1.25"), None, Decimal("-7")),
            "date": arrow(pa.date32(), datetime.date(2026, 1, 2), None, None),
            "time": arrow(pa.timestamp("us", "UTC"), zoned, zoned, None),
            "text": pd.array(["b", None, "a"], dtype="string[pyarrow]"),
            "object": ["b", None, 1],
            "nothing": pd.array([None] * 3, dtype="int64[pyarrow]"),
            "numpy": [5, 6, 7],
        }
    )
    columns = shape(frame)["columns"]
    told = {name: (each["nulls"], each["low"], each["high"]) for name, each in columns.items()}
    assert told == {
        "int": (1, 1, 3),
        "float": (1, 0.5, 2.0),
        "endless": (0, 1.0, None),
        "decimal": (1, -7.0, 1.25),
        "date": (2, "2026-01-02", "2026-01-02"),
        "time": (1, "2026-01-02T03:04:00+00:00", "2026-01-02T03:04:00+00:00"),
        "text": (1, None, None),
        "object": (1, None, None),
        "nothing": (3, None, None),
        "numpy": (0, 5, 7),
    }


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        (pa.array([20_000_000], pa.int32()).cast(pa.date32()), (None, None)),
        (pa.array([10**15], pa.int64()).cast(pa.timestamp("s")), (None, None)),
        (pa.array([1.5], pa.float16()), (None, None)),
        (pa.chunked_array([[math.nan], [1.0, 2.0]]), (1.0, 2.0)),
    ],
    ids=["day", "time", "half", "nan"],
)
def test_what_python_cannot_say_has_no_range(values: Any, bounds: tuple[Any, Any]) -> None:
    figures = Figures()
    for chunk in values.chunks if isinstance(values, pa.ChunkedArray) else [values]:
        figures.add(DataFrame({"a": pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array([chunk])))}))
    found = figures.as_dict({})["columns"]["a"]
    assert (found["low"], found["high"]) == bounds


@given(st.lists(st.lists(st.none() | st.integers(-9, 9), max_size=5), min_size=1, max_size=5))
def test_figures_do_not_depend_on_how_rows_arrive(parts: list[list[int | None]]) -> None:
    frames = [table({"a": pa.int64()}, a=part) for part in parts]
    together, apart = shape(pd.concat(frames)), summed(map(shape, frames))
    assert together == apart


def test_infinity_in_one_part_is_in_the_whole() -> None:
    parts = [shape(table({"a": pa.float64()}, a=values)) for values in ([1.0, math.inf], [2.0], [-math.inf, 3.0])]
    for some, low, high in ((parts[:2], 1.0, None), (parts[1::-1], 1.0, None), (parts[1:], None, 3.0)):
        total = summed(some)["columns"]["a"]
        assert (total["low"], total["high"]) == (low, high)


# -- findings --------------------------------------------------------------------------------------------------


def numbers(rows: int, nulls: int = 0, first: int = 0, **more: list[Any]) -> dict[str, Any]:
    values = [None] * nulls + list(range(first, first + rows - nulls))
    return shape(table({"id": pa.int64()}, id=list(range(first, first + rows)), value=list(map(str, values)), **more))


def findings(now: Any, last: Any, *, adds: bool = False, **limits: Any) -> list[str]:
    return Guard(**limits).findings(now, last, ["id"], adds=adds)


def with_nulls(rows: int, nulls: int) -> dict[str, Any]:
    return shape(table({"id": pa.int64()}, id=list(range(rows)), value=[None] * nulls + ["x"] * (rows - nulls)))


def test_nothing_is_suspicious_about_the_same() -> None:
    assert findings(numbers(100), numbers(100)) == []


@pytest.mark.parametrize(("rows", "last", "limits"), [(80, 100, {}), (200, 100, {}), (1, 100, {"fewer_rows": "99%"})])
def test_limits_are_allowed(rows: int, last: int, limits: dict[str, Any]) -> None:
    assert findings(numbers(rows), numbers(last), lost_range="100%", **limits) == []


def test_rows() -> None:
    assert findings(numbers(79), numbers(100), lost_range="100%") == [
        "79 rows instead of 100 (-21.0%, fewer_rows = '20%')"
    ]
    assert findings(numbers(201), numbers(0)) == []
    assert findings(numbers(201), numbers(100)) == ["201 rows instead of 100 (+101.0%, more_rows = '100%')"]


def test_no_rows_are_suspicious_even_at_first() -> None:
    assert findings(numbers(0), None) == ["there are no rows (allow_empty = false)"]
    assert findings(numbers(0), None, allow_empty=True) == []
    assert findings(numbers(0), numbers(9), adds=True) == []


def test_nulls() -> None:
    assert findings(with_nulls(100, 25), with_nulls(100, 5)) == []
    assert findings(with_nulls(100, 100), with_nulls(100, 5)) == [
        "value is null in 100.0% of the rows, was in 5.0% (more_nulls = '20%')"
    ]


def test_few_added_rows_say_nothing_of_a_share() -> None:
    assert findings(with_nulls(99, 99), with_nulls(1000, 0), adds=True) == []
    assert findings(with_nulls(100, 100), with_nulls(1000, 0), adds=True) != []


def test_columns() -> None:
    assert findings(numbers(9, extra=["x"] * 9), numbers(9)) == ["column extra is new"]
    assert findings(numbers(9), numbers(9, extra=["x"] * 9)) == ["column extra is gone"]
    assert findings(numbers(9), numbers(9, extra=["x"] * 9), columns="allow") == []
    typed = shape(table({"id": pa.int64(), "value": pa.int16()}, id=list(range(9)), value=list(range(9))))
    assert findings(typed, numbers(9)) == ["value is int16[pyarrow], was string[pyarrow]"]


def test_ranges_of_keys() -> None:
    assert findings(numbers(100, first=20), numbers(100)) == [
        "id goes from 20 to 119, went from 0 to 99 (20.2% lost, lost_range = '20%')"
    ]
    assert findings(numbers(100, first=19), numbers(100)) == []
    assert findings(numbers(100, first=90), numbers(100), adds=True) == []
    assert findings(numbers(1), numbers(1)) == []  # a single key has no range


def test_endless_values_have_no_range() -> None:
    whole, *endless = (shape(DataFrame({"id": [1.0, 2.0, last]})) for last in (9.0, float("inf"), -float("inf")))
    for other in endless:
        assert findings(other, whole, keys=("id",)) == []
        assert findings(whole, other, keys=("id",)) == []


def test_ranges_of_dates() -> None:
    def days(first: int, last: int) -> dict[str, Any]:
        values = [datetime.date(2026, 1, day) for day in range(first, last + 1)] * 2
        return shape(table({"day": pa.date32()}, day=values[: 2 * (last - first + 1)]))

    last, now = days(1, 31), days(1, 10)
    assert Guard(fewer_rows="100%").findings(now, last, [], adds=False) == []
    assert Guard(fewer_rows="100%", keys=("day",)).findings(now, last, [], adds=False) == [
        "day goes from 2026-01-01 to 2026-01-10, went from 2026-01-01 to 2026-01-31 (70.0% lost, lost_range = '20%')"
    ]


@pytest.mark.parametrize(
    ("key", "error"), [("valu", "there is no column 'valu'; did you mean 'value'"), ("value", "only numbers, dates")]
)
def test_keys_must_have_a_range(key: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        findings(numbers(9), None, keys=(key,))


# -- runs ------------------------------------------------------------------------------------------------------


class Rows(Extractor):
    """Numbers and texts; of which there is what a test wants."""

    count: int
    nulls: int = 0

    def read(self, account: Account) -> Any:
        for start in range(0, max(self.count, 1), 500):
            values = range(start, min(start + 500, self.count))
            frame = table({"id": pa.int64()}, id=list(values), text=[None if n < self.nulls else "x" for n in values])
            yield frame.reset_index(drop=True)

    def inspect(self) -> Source:
        return Source("rows:", f"{self.count} {self.nulls}")


@pytest.fixture
def loader(tmp_path: Path) -> Any:
    return LocalLoader(path=tmp_path / "out" / "a.parquet")


@pytest.fixture(params=["local", "object", "dataset"])
def any_loader(request: pytest.FixtureRequest, loader: Any) -> Any:
    if request.param == "local":
        return loader
    bucket: Bucket = request.getfixturevalue("bucket")
    place: dict[str, Any] = {"key": "a/a.parquet"} if request.param == "object" else {"prefix": "a/"}
    return S3Loader(bucket=bucket.name, **place)


def run(loader: Any, count: int, nulls: int = 0, guard: Guard | None = None, **how: Any) -> RunReport:
    return Pipeline("rows", Rows(count=count, nulls=nulls), (), loader, guard=guard).run(**how)


def test_what_lost_its_shape_is_held_back_until_it_is_accepted(any_loader: Any) -> None:
    loader = any_loader
    first = run(loader, 100)
    held = run(loader, 10, nulls=10)
    assert held.exit_code == 65
    assert "held back, what was published stays: 10 rows instead of 100 (-90.0%, fewer_rows = '20%')" in held.summary()
    assert "text is null in 100.0% of the rows, was in 0.0% (more_nulls = '20%')" in held.summary()
    assert "If that is right: run with --accept" in held.summary()
    assert loader.live().run_id == first.run_id
    accepted = run(loader, 10, nulls=10, accept=True)
    assert accepted.status == "published"
    assert run(loader, 10, nulls=10).status == "unchanged"
    assert run(loader, 11, nulls=11).status == "published"  # compared with what was accepted


def test_a_dry_run_tells_too(loader: Any) -> None:
    run(loader, 100)
    assert run(loader, 10, dry_run=True).exit_code == 65
    assert run(loader, 10, dry_run=True, accept=True).status == "dry-run"


def test_the_guard_can_be_off(loader: Any) -> None:
    run(loader, 100)
    assert run(loader, 10, guard=Guard(enabled=False)).status == "published"


def test_no_rows_at_all(loader: Any) -> None:
    assert run(loader, 0).exit_code == 65
    assert loader.live() is None
    assert run(loader, 0, guard=Guard(allow_empty=True)).status == "published"


def test_files_of_a_run_that_was_held_back_are_not_sent_again(bucket: Bucket) -> None:
    loader = S3Loader(bucket=bucket.name, prefix="a/", max_file_rows=10)
    run(loader, 100)
    before = set(bucket.objects())
    run(loader, 30, nulls=30)
    files = {key for key in set(bucket.objects()) - before if key.startswith("a/data/")}
    assert len(files) == 3
    versions = {key: bucket.versions(key) for key in files}
    run(loader, 30, nulls=30, accept=True)
    assert {key: bucket.versions(key) for key in files} == versions
    assert all(len(ids) == 1 for ids in versions.values())
    assert len(etl.read_dataset(f"s3://{bucket.name}/a/")) == 30


def test_runs_that_append_may_be_of_any_size(bucket: Bucket) -> None:
    loader = S3Loader(bucket=bucket.name, prefix="a/", mode="append")
    for count in (1000, 3, 0, 5000):
        assert run(loader, count).error is None
    assert "text is null in 100.0%" in run(loader, 200, nulls=200).summary()
    assert len(etl.read_dataset(f"s3://{bucket.name}/a/")) == 6003


def test_a_rollback_takes_its_figures_along(bucket: Bucket) -> None:
    loader = S3Loader(bucket=bucket.name, prefix="a/")
    first = run(loader, 100)
    run(loader, 10, accept=True)
    loader.rollback(first.run_id)
    assert run(loader, 11).exit_code == 65
    assert run(loader, 99).status == "published"


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "orders.csv"
    source.write_text("a\n1\n2\n3\n")
    file = local_pipeline(tmp_path, "[guard]\nfewer_rows = '50%'")
    arguments = ["run", str(file), "--env-file", os.devnull]
    assert main(arguments) == 0
    source.write_text("a\n1\n2\n")
    assert main(arguments) == 0
    source.write_text("a\n")
    assert main([*arguments, "--set", "extract.csv.allow_empty=true"]) == 65
    assert "there are no rows" in capsys.readouterr().err
    file.write_text(file.read_text().replace("fewer_rows", "fewer_row"))
    assert main(arguments) == 78
    assert "guard.fewer_row: unknown; did you mean 'fewer_rows'?" in capsys.readouterr().err
