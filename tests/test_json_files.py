"""JSON lines and JSON arrays: records found, typed, or rejected."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.errors import ConfigError, DataError
from etl.extractors.files import FilesExtractor
from etl.files.json_columns import JsonTable, flattened
from etl.files.json_records import Record, json_array, json_lines
from etl.ledger import Account
from tests.files import JSON_ARRAY, JSON_LINES, RECORDS, Dribble, Put, lines
from tests.reading import frame_of, rejects_of, rows_of, types_of


@pytest.mark.parametrize(("name", "content"), [("sets.jsonl", JSON_LINES), ("sets.json", JSON_ARRAY)])
def test_fields_become_typed_columns(put: Put, name: str, content: bytes) -> None:
    frame = frame_of(FilesExtractor(path=put(name, content)))
    assert types_of(frame) == {
        "id": "int64",
        "name": "string",
        "size.w": "int64",
        "size.h": "double",
        "tags": "string",
        "ok": "bool",
    }
    assert frame["tags"].tolist() == ['["a",1]', "[]", pd.NA, pd.NA, '[{"b":null}]']
    assert frame["size.w"].tolist() == [1, 2, pd.NA, 4, pd.NA]
    assert frame["name"].tolist()[2:] == ["Ümläut", pd.NA, ""]


def test_types_do_not_change_after_the_first_records(put: Put) -> None:
    """The 10,001st record and those after it cannot change a column: they are rejected, as they were read."""
    good: list[Any] = [{"id": number, "name": "n", "price": 0.5, "empty": None} for number in range(10_000)]
    late: list[Any] = [
        {"id": "x1", "name": "n"},
        {"id": 1, "name": 5},
        {"id": 2, "price": 10},
        {"id": 3, "more": 1},
        {"id": 4, "more": None},
        {"id": 1.5},
        {"id": True},
        {"id": 5, "empty": 0},
        {"id": 2**63},
        {"id": 6, "price": 2**53 + 1},
    ]
    frame, rejects = rejects_of(FilesExtractor(path=put("a.jsonl", lines(*good, *late)), batch_rows=3_000))
    assert frame["id"].tolist()[10_000:] == [2, 4]
    assert frame.index[-2:].tolist() == [10_003, 10_005]
    assert [(reject.row, reject.rule) for reject in rejects] == [
        (10_001, "id: not an int64"),
        (10_002, "name: not text"),
        (10_004, "more: a field that the first records do not have"),
        (10_006, "id: not an int64"),
        (10_007, "id: not an int64"),
        (10_008, "empty: not text"),
        (10_009, "id: not an int64"),
        (10_010, "price: not a float64"),
    ]
    assert rejects[0].raw == '{"id": "x1", "name": "n"}'


def test_first_records_that_disagree_must_be_settled(put: Put) -> None:
    path = put("a.jsonl", lines({"v": 1}, {"v": "one"}, {"v": [1]}, {"v": {"w": 1}}))
    with pytest.raises(DataError, match=r"'v' has several types: record 1 has 1, record 2 has 'one', .*types = \{ ."):
        rows_of(FilesExtractor(path=path))
    assert rows_of(FilesExtractor(path=path, types={"v": "json"})) == [("1",), ('"one"',), ("[1]",), ('{"w":1}',)]
    frame, rejects = rejects_of(FilesExtractor(path=path, types={"v": "int64"}, columns=("v",)))
    assert frame["v"].tolist() == [1, pd.NA]
    assert [reject.row for reject in rejects] == [2, 3]
    assert rows_of(
        FilesExtractor(path=put("b.jsonl", lines({"v": 1.5}, {"v": True}, {"v": "x"})), types={"v": "text"})
    ) == [
        ("1.5",),
        ("true",),
        ("x",),
    ]
    with pytest.raises(DataError, match="beyond int64"):
        rows_of(FilesExtractor(path=put("c.jsonl", lines({"v": 2**64}))))


def test_declared_columns_stay_in_their_place(put: Put) -> None:
    path = put("a.jsonl", b'{"a": 1, "b": 0.1234567890123456789, "c": {"d": 1.10}}\n')
    with pytest.raises(DataError, match="'b' holds numbers with more digits than a float64 keeps; declare it"):
        rows_of(FilesExtractor(path=path))
    frame = frame_of(FilesExtractor(path=path, types={"c": "json", "b": "text", "z": "bool"}))
    assert list(frame.columns) == ["a", "b", "c", "z"]
    assert frame.iloc[0].tolist() == [1, "0.1234567890123456789", '{"d":1.1}', pd.NA]
    assert frame_of(FilesExtractor(path=path, types={"b": "float64"}))["b"].tolist() == [0.12345678901234568]


def test_columns_choose_and_order(put: Put) -> None:
    path = put("a.jsonl", lines(*RECORDS))
    frame = frame_of(FilesExtractor(path=path, columns=("size.h", "id")))
    assert list(frame.columns) == ["size.h", "id"]
    with pytest.raises(ConfigError, match=r"no field 'size\.d'; did you mean 'size\.w'"):
        rows_of(FilesExtractor(path=path, columns=("size.d",)))


def test_fields_left_out_are_named(put: Put) -> None:
    account = Account("test")
    frame_of(FilesExtractor(path=put("a.jsonl", lines(*RECORDS)), columns=("id", "name", "size.w")), account)
    assert [warning.partition(": ")[2] for warning in account.warnings] == [
        "fields that are not in columns: ok, size.h, tags"
    ]


def test_lines_that_are_no_records(put: Put) -> None:
    content = b"\xef\xbb\xbf" + b"\r\n".join(
        [
            b'{"id": 1}',
            b"",
            b'{"id": 2',
            b"[1]",
            b'{"id": 3, "id": 4}',
            b'{"id": NaN}',
            b'{"id": "\xff"}',
            b'{"id": 5} {"id": 6}',
            b'{"id": 7, "long": "' + b"x" * 2_000_000 + b'"}',
            b'{"a.b": 1, "a": {"b": 2}}',
            b'{"id": ' + b"[" * 100_000 + b"1",
            b'{"id": 8}',
        ]
    )
    frame, rejects = rejects_of(FilesExtractor(path=put("a.jsonl", content), max_record_bytes=1_000_000))
    assert frame["id"].tolist() == [1, 8]
    assert frame.index.tolist() == [1, 11]
    assert [(reject.row, reject.rule.partition(":")[0]) for reject in rejects] == [
        (2, "not JSON"),
        (3, "not a JSON object"),
        (4, "names 'id' twice"),
        (5, "not JSON"),
        (6, "not UTF-8"),
        (7, "not JSON"),
        (8, "longer than max_record_bytes = 1,000,000"),
        (9, "has two values for 'a.b'"),
        (10, "nested too deeply"),
    ]
    assert max(len(reject.raw) for reject in rejects) <= 4_000


def test_what_is_json_and_fits_nowhere_costs_its_record_alone(put: Put) -> None:
    content = b"\n".join(
        [
            b'{"id": 1, "v": [0.5]}',
            b'{"id": 2, "v": ' + b"[" * 700 + b"0.1234567890123456789" + b"]" * 700 + b"}",
            b'{"id": 3, "v": [1e99999999999999999999]}',
            b'{"id": 4, "v": [1e-99999999999999999999]}',
            b'{"id": 5, "\\ud83d": 1}',
            b'{"id": 6, "\\ud83d\\ude00": 1}',
        ]
    )
    frame, rejects = rejects_of(FilesExtractor(path=put("a.jsonl", content)))
    assert list(frame.columns) == ["id", "v", "😀"]
    assert frame["id"].tolist() == [1, 6]
    assert [(reject.row, reject.rule) for reject in rejects] == [
        (2, "v: not JSON"),
        (3, "v: not JSON"),
        (4, "v: not JSON"),
        (5, r"\ud83d: a name that is no text"),
    ]


def test_a_name_that_is_no_text_can_be_left_out(put: Put) -> None:
    account = Account("test")
    path = put("a.jsonl", b'{"id": 1, "\\ud83d": 1}\n')
    assert len(frame_of(FilesExtractor(path=path, columns=("id",)), account)) == 1
    assert account.warnings == [rf"{path}: fields that are not in columns: \ud83d"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"id": 1}', "begins with '{'; if each line is an object, set format = \"jsonl\""),
        (b"", "begins with ''"),
        (b'[{"id": 1}, {"id": 2}', "should be a comma after record 2"),
        (b'[{"id": 1}, {"id": 2', "record 2 is cut short or no JSON"),
        (b'[{"id": 1} {"id": 2}]', "should be a comma after record 1"),
        (b'[{"id": 1},]', "record 2 is cut short or no JSON"),
        (b'[{"id": 1}] x', "something follows the array: 'x'"),
        (b'[{"id": 1}, {"id": nope}]', "record 2 is cut short or no JSON: Expecting value"),
        (b'[{"id": 1}, {"id": "\xff"}]', "after record 1 it is not UTF-8"),
        (b'[{"id": 1}, {"id": "' + b"x" * 3_000_000 + b'"}]', "longer than max_record_bytes = 1,000,000"),
    ],
)
def test_arrays_that_cannot_be_read_on(put: Put, content: bytes, problem: str) -> None:
    with pytest.raises(DataError) as failure:
        rows_of(FilesExtractor(path=put("a.json", content), max_record_bytes=1_000_000))
    assert problem in str(failure.value)


def test_an_element_of_an_array_may_be_rejected(put: Put) -> None:
    frame, rejects = rejects_of(FilesExtractor(path=put("a.json", b'[{"id": 1}, 5, {"id": 1, "id": 2}, {"id": 4}]')))
    assert frame["id"].tolist() == [1, 4]
    assert [(reject.row, reject.rule, reject.raw) for reject in rejects] == [
        (2, "not a JSON object", "5"),
        (3, "names 'id' twice", '{"id": 1, "id": 2}'),
    ]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=5), st.lists(st.integers(1, 9), min_size=1))
def test_records_do_not_depend_on_how_the_bytes_arrive(records: list[Any], sizes: list[int]) -> None:
    array = json.dumps(records, indent=len(records) % 3 or None, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if b"\xed" not in array:
        assert [record.document for record in json_array(Dribble(array, sizes), 1 << 20, "x")] == records
    text = b"\n".join(json.dumps(record).encode() for record in records)
    assert [record.document for record in json_lines(Dribble(text, sizes), 1 << 20)] == records


def test_a_document_nested_too_deeply_to_be_flattened_costs_its_record_alone() -> None:
    """Since Python 3.12 the parser goes deeper than Python code may."""
    document: dict[str, Any] = {}
    for _ in range(5_000):
        document = {"a": document}
    account = Account("test")
    records = [Record(1, '{"id":1}', {"id": 1}), Record(2, "deep", document)]
    _, tables = JsonTable((), {}, account, "x").tables(records, None)
    assert [table.num_rows for table in tables] == [1]
    assert [(reject.row, reject.rule) for reject in account.take_rejects()] == [(2, "nested too deeply")]


def test_names_that_are_data_make_no_columns(put: Put) -> None:
    """A column for each of 10,000 records took 32 s and 2 GB."""
    path = put("a.jsonl", lines(*({"id": number, "prices": {f"p{number}": 1}} for number in range(5_000))))
    with pytest.raises(DataError, match=r"a\.jsonl: more than 5,000 different fields, such as 'prices\.p4999'"):
        frame_of(FilesExtractor(path=path))
    assert len(frame_of(FilesExtractor(path=path, types={"prices": "json"})).columns) == 2
    assert frame_of(FilesExtractor(path=path, columns=("id",)))["id"].tolist() == list(range(5_000))


def test_the_name_that_comes_twice_is_found_in_a_linear_time(put: Put) -> None:
    """To count each name among all 300,000 would take a quarter of an hour."""
    names = ",".join(f'"n{number}":1' for number in range(300_000))
    path = put("a.jsonl", f'{{"id":1}}\n{{{names},"z":1,"z":2}}\n'.encode())
    _, rejects = rejects_of(FilesExtractor(path=path))
    assert [(reject.row, reject.rule) for reject in rejects] == [(2, "names 'z' twice")]


def test_flattening() -> None:
    assert flattened({"a": {"b": {"c": 1}, "d": {}}, "e": [{"f": 1}]}) == {"a.b.c": 1, "e": [{"f": 1}]}
    assert flattened({"a": {"b": {"c": 1}}}, frozenset({"a.b"})) == {"a.b": {"c": 1}}
