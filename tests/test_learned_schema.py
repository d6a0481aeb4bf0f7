"""[schema]: what the first run learns of a source, and what becomes of drift."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas import DataFrame

from etl.errors import ConfigError
from etl.explain import explain
from etl.learned.file import SchemaFile, read_schema, schema_text, write_schema
from etl.learned.inference import ColumnFacts
from etl.learned.step import LearnedSchema
from etl.report import RunReport
from etl.tables.schema import Column
from main import Pipeline
from tests.contracts import TransformerContract

ROWS = [
    "id,code,price,day,at,ok,note",
    "1,01,1.10,2026-01-31,2026-01-31T10:00:00Z,true,",
    "2,02,2,2026-02-01,2026-01-31T10:00:00+01:00,false,hello",
    "3,10,3.5,2026-02-02,2026-02-01T10:00:00Z,true,",
]
TYPES = {
    "id": "int64",
    "code": "text",
    "price": "float64",
    "day": "date",
    "at": "timestamp[UTC]",
    "ok": "bool",
    "note": "text",
}

Run = Callable[..., RunReport]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a pipeline over these lines of a CSV file."""

    def run(
        *lines: str,
        source: str = "orders.csv",
        more: str = "",
        guard: str = "enabled = false",
        dry_run: bool = False,
        **schema: Any,
    ) -> RunReport:
        if lines:
            (tmp_path / "orders.csv").write_text("\n".join(lines) + "\n")
        file = tmp_path / "orders.toml"
        options = "\n".join(f"{name} = {json.dumps(value)}" for name, value in schema.items())
        file.write_text(f"""
            max_rejects = 1
            [extract]
            type = "FilesExtractor"
            path = "{tmp_path}/{source}"
            batch_rows = 2
            [schema]
            {options}
            [guard]
            {guard}
            [load]
            type = "LocalLoader"
            path = "{tmp_path}/orders.parquet"
            {more}
        """)
        return Pipeline.from_file(file).run(dry_run=dry_run)

    return run


def schema_in(folder: Path) -> SchemaFile:
    return read_schema(folder / "orders.schema.toml")


def edit(folder: Path, old: str, new: str) -> None:
    file = folder / "orders.schema.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def published(folder: Path) -> DataFrame:
    return pd.read_parquet(folder / "orders.parquet", dtype_backend="pyarrow")


def test_the_first_run_learns_and_is_typed_itself(run: Run, tmp_path: Path) -> None:
    assert run(*ROWS).status == "published"
    assert {name: column.type for name, column in schema_in(tmp_path).columns.items()} == TYPES
    assert [name for name, column in schema_in(tmp_path).columns.items() if not column.required] == ["note"]
    frame = published(tmp_path)
    assert list(frame["code"]) == ["01", "02", "10"]
    assert list(frame["day"]) == [date(2026, 1, 31), date(2026, 2, 1), date(2026, 2, 2)]
    text = (tmp_path / "orders.schema.toml").read_text()
    assert '[columns.price]\ntype = "float64"  # 1.1 to 3.5\nrequired = true\n' in text
    assert "in 3 rows" in text
    assert run().status == "unchanged"


def test_later_runs_are_cast_to_the_file_as_it_was_edited(run: Run, tmp_path: Path) -> None:
    run(*ROWS)
    edit(tmp_path, 'type = "int64"', 'type = "int16"\nunique = true\ndescription = "its id"')
    assert run().status == "published"
    assert str(published(tmp_path)["id"].dtype) == "int16[pyarrow]"
    description = pq.read_schema(tmp_path / "orders.parquet").field("id").metadata
    assert description == {b"description": b"its id"}


@pytest.mark.parametrize(
    ("lines", "news"),
    [
        (["id,code,price,day,at,ok,note,extra", *(f"{row},1" for row in ROWS[1:])], "new columns extra"),
        ([row.rpartition(",")[0] for row in ROWS], "lost columns note"),
        ([*ROWS[:3], ROWS[3].replace("3.5", "?")], r"price: not a number \(float64\) \(1 rows\)"),
        ([*ROWS[:3], ROWS[3].replace("3.5", "")], r"price: missing \(1 rows\)"),
    ],
    ids=["new", "lost", "misfit", "missing"],
)
def test_drift_stops_a_run_with_the_old_data_in_place(run: Run, tmp_path: Path, lines: list[str], news: str) -> None:
    run(*ROWS)
    before = (tmp_path / "orders.parquet").read_bytes()
    report = run(*lines)
    assert report.exit_code == 65
    assert report.error is not None
    assert pd.Series([report.error["message"]]).str.contains(f"drifted from orders.schema.toml: .*{news}").all()
    assert (tmp_path / "orders.parquet").read_bytes() == before


def test_drift_as_a_warning(run: Run, tmp_path: Path) -> None:
    run(*ROWS)
    lines = [row.replace("price", "amount").replace("3,10", "x,10") for row in ROWS]
    report = run(*lines, on_drift="warn")
    assert report.status == "published", report.error
    assert report.rows_rejected == 1
    warnings = [warning for step in report.steps for warning in step.warnings]
    assert warnings == ["the source has drifted from orders.schema.toml: new columns amount; lost columns price"]
    frame = published(tmp_path)
    assert list(frame.columns) == list(TYPES)
    assert str(frame["price"].dtype) == "double[pyarrow]"
    assert frame["price"].isna().all()


@pytest.mark.parametrize("rule", ["unique = true", 'references = { file = "codes.csv", column = "code" }'])
def test_a_column_with_a_rule_for_the_whole_table_may_be_lost(run: Run, tmp_path: Path, rule: str) -> None:
    run(*ROWS)
    (tmp_path / "codes.csv").write_text("code\n01\n02\n10\n")
    edit(tmp_path, "[columns.code]", f"[columns.code]\n{rule}".replace('"codes', f'"{tmp_path}/codes'))
    report = run(*(row.replace("code", "sku") for row in ROWS), on_drift="warn")
    assert report.status == "published", report.error
    assert published(tmp_path)["code"].isna().all()


def test_what_people_wrote_stays_when_a_column_is_widened(run: Run, tmp_path: Path) -> None:
    run(*ROWS)
    edit(tmp_path, "[columns.id]", '[columns.id]\nmin = 0\nunique = true\ndescription = "its number"')
    run(*(row.replace("3,10", "3.5,10") for row in ROWS), on_drift="accept")
    column = schema_in(tmp_path).columns["id"]
    assert (column.type, column.min, column.unique, column.description) == ("float64", 0, True, "its number")
    run(*(row.replace("3,10", "x,10") for row in ROWS), on_drift="accept")
    column = schema_in(tmp_path).columns["id"]  # least values are of numbers
    assert (column.type, column.min, column.unique, column.description) == ("text", None, True, "its number")


def test_drift_that_is_accepted_widens_the_file(run: Run, tmp_path: Path) -> None:
    run(*ROWS)
    file = tmp_path / "orders.schema.toml"
    edit(tmp_path, 'type = "date"', 'type = "date"\nmin = 2026-01-01\nunit = "day"')
    lines = [row.replace("price", "amount").replace("3,10", "x,10") for row in ROWS]
    report = run(*lines, on_drift="accept")
    assert report.status == "published", report.error
    found = schema_in(tmp_path).columns
    assert {name: column.type for name, column in found.items()} == {**TYPES, "id": "text", "amount": "float64"}
    assert not found["price"].required
    assert (found["day"].min, found["day"].unit) == (date(2026, 1, 1), "day")
    assert list(published(tmp_path)["id"]) == ["1", "2", "x"]
    changed = file.stat().st_mtime_ns
    assert run(*lines, on_drift="accept").status == "unchanged"
    assert file.stat().st_mtime_ns == changed


def test_a_run_that_publishes_nothing_writes_no_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "orders.schema.toml"
    assert run(*ROWS, dry_run=True).status == "dry-run"
    assert not file.exists()
    assert run().status == "published"
    before = file.read_bytes()
    lines = [row.replace("3,10", "x,10") for row in ROWS]
    assert run(*lines, on_drift="accept", dry_run=True).status == "dry-run"
    assert run(*lines, on_drift="accept", guard='columns = "hold"').exit_code == 65
    assert file.read_bytes() == before
    assert run(*lines, on_drift="accept").status == "published"
    assert schema_in(tmp_path).columns["id"].type == "text"
    assert run(on_drift="accept").status == "unchanged"


def test_its_rules_count_as_those_of_a_contract(run: Run, tmp_path: Path) -> None:
    run(*ROWS)
    codes = tmp_path / "codes.csv"
    codes.write_text("code\n01\n02\n10\n")
    edit(
        tmp_path,
        "[columns.code]",
        f'[columns.code]\nunique = true\nreferences.file = "{codes}"\nreferences.column = "code"',
    )
    step = LearnedSchema(file=tmp_path / "orders.schema.toml")
    assert step.keyed_by() == ("code",)
    assert run().error is None
    codes.write_text("code\n01\n02\n11\n")
    assert "not in code of codes.csv" in run().summary()


def test_the_file_tells_no_values_that_a_step_hides(run: Run, tmp_path: Path) -> None:
    run(*ROWS, more='[[transform]]\ntype = "MaskColumns"\ncolumns = ["price"]\nmethod = "redact"')
    text = (tmp_path / "orders.schema.toml").read_text()
    assert 'type = "float64"\n' in text
    assert "1.1" not in text


def test_without_a_file_there_is_nothing_to_explain_with(run: Run, tmp_path: Path) -> None:
    run(*ROWS)
    (tmp_path / "orders.schema.toml").unlink()
    with pytest.raises(ConfigError, match=r"orders\.schema\.toml: there is none yet; .* run the pipeline"):
        explain(Pipeline.from_file(tmp_path / "orders.toml"), "1")


def test_columns_whose_type_cannot_be_declared_stay_as_they_are(run: Run, tmp_path: Path) -> None:
    table = pa.table(
        {
            "a": pa.array([1, 2, 3], pa.uint8()),
            "b": [b"x", None, None],
            "c": ["2026-01-01", None, None],
            "at": pa.array([0, None, None], pa.timestamp("us", "+05:30")),
            "nan": [1.5, float("nan"), 2.5],
        }
    )
    pq.write_table(table, tmp_path / "orders.parq")
    (tmp_path / "orders.parq").rename(tmp_path / "in.parquet")
    assert run(source="in.parquet").status == "published"
    found = schema_in(tmp_path)
    assert {name: column.type for name, column in found.columns.items()} == {"a": "int16", "c": "date"}
    assert found.as_is == ("b", "at", "nan")
    assert str(published(tmp_path)["b"].dtype) == "binary[pyarrow]"


def test_a_damaged_file_is_a_mistake_of_the_configuration(run: Run, tmp_path: Path) -> None:
    run(*ROWS)
    edit(tmp_path, '"int64"', '"int65"')
    with pytest.raises(ConfigError, match=r"schema: .*orders\.schema\.toml: columns\.id\.type: unknown type 'int65'"):
        run()
    with pytest.raises(ConfigError, match=r"schema\.on_drift"):
        run(on_drift="shrug")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        run(file=".")


@pytest.mark.parametrize("declared", [None, "int64"])
def test_nulls_without_a_type_do_not_decide_the_type(declared: str | None) -> None:
    facts = ColumnFacts(declared)
    facts.see(pa.nulls(2))
    assert facts.type == declared
    for values in (pa.array([3]), pa.nulls(2), pa.array([5])):
        facts.see(values)
    assert (facts.type, facts.has_nulls, facts.note) == ("int64", True, "3 to 5")


def test_days_that_python_does_not_have_are_learned_without_their_range() -> None:
    facts = ColumnFacts()
    facts.see(pa.array([20_000_000], pa.int32()).cast(pa.date32()))
    assert (facts.type, facts.note) == ("date", "")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-20", "0", None], "int64"),
        (["1", "01"], "text"),
        (["1", "+1"], "text"),
        (["1", "9223372036854775808"], "text"),
        (["1", "2.50"], "float64"),
        (["1", "1e5"], "text"),
        (["1234567890.123456"], "text"),
        (["true", "False"], "bool"),
        (["true", "0"], "text"),
        (["2026-01-31", "2026-02-30"], "text"),
        (["2026-01-31", "20260131"], "text"),
        (["2026-01-31 10:00", "2026-01-31T10:00:00.5"], "timestamp"),
        (["2026-01-31T10:00:00Z", "2026-01-31T10:00:00+0100"], "timestamp[UTC]"),
        (["2026-01-31T10:00:00Z", "2026-01-31T10:00:00"], "text"),
        ([None, None], "text"),
    ],
)
def test_types_of_text(values: list[str | None], kind: str) -> None:
    whole, parts = ColumnFacts(), ColumnFacts()
    whole.see(pa.array(values, pa.string()))
    for value in values:
        parts.see(pa.array([value], pa.string()))
    assert whole.type == parts.type == kind
    assert whole.note == parts.note
    assert whole.has_nulls == parts.has_nulls == (None in values)


def test_the_file_holds_every_rule(tmp_path: Path) -> None:
    columns = {
        "a": Column(name="a", type="int32", required=True, unique=True, min=1, max=7, one_of=(1, 7), unit="€"),
        'b "c".d': Column(name='b "c".d', pattern=r"^\d+\\$", min_length=1, max_length=9, description='say "x"\n\x7f'),
        "e": Column(name="e", type="date", min=date(2026, 1, 1)),
        "f": Column(name="f", type="timestamp[UTC]", max=datetime(2026, 1, 1, tzinfo=UTC)),
        "g": Column.model_validate({"name": "g", "references": {"file": "a.csv", "column": "b"}}),
    }
    schema = SchemaFile(columns=columns, as_is=("x", "y z"))
    write_schema(tmp_path / "s.toml", schema_text(schema, {"a": "1 to 7"}, "over\nthere", 2, date(2026, 1, 1)))
    assert read_schema(tmp_path / "s.toml") == schema


class TestContract(TransformerContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = tmp_path / "s.toml"
        columns = {name: Column(name=name, type=kind) for name, kind in (("a", "int64"), ("lost", "date"))}
        schema = SchemaFile(columns=columns, as_is=("kept",))
        write_schema(self.file, schema_text(schema, {}, "here", 1, date(2026, 1, 1)))

    def make(self) -> LearnedSchema:
        return LearnedSchema(file=self.file, on_drift="warn")

    def frame(self) -> DataFrame:
        text = pd.ArrowDtype(pa.string())
        values = {"new": list("vwxyz"), "kept": list("abcde"), "a": ["1", "x", None, "4", "5"]}
        return DataFrame(values, index=range(1, 6), dtype=text)
