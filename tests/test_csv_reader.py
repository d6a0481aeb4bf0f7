"""The CSV reader: its rules one by one, then against a slow reader that goes character by character."""

from __future__ import annotations

import csv
import io
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from etl.errors import DataError
from etl.files.csv_options import CsvOptions
from etl.files.csv_reader import CHUNK_BYTES, read_csv
from etl.ledger import Account
from tests.files import Dribble
from tests.reading import said_by

Cells = tuple[str | None, ...]

TOO_LONG = "longer than max_row_bytes"
UNBALANCED = "unbalanced quote"
NUL = "NUL byte"
MENDED = "not UTF-8, read as cp1252"


@dataclass
class Outcome:
    """All that a reading gives, in a form that can be compared."""

    names: list[str]
    rows: dict[int, Cells]
    rejects: list[tuple[int, str, str]]
    mended: int = 0


def frames_of(data: bytes, account: Account, *, batch_rows: int = 1000, **how: Any) -> list[pd.DataFrame]:
    chunk_bytes = how.pop("chunk_bytes", CHUNK_BYTES)
    stream = Dribble(data, how.pop("sizes", [1 << 30]))
    options = how.pop("options", None) or CsvOptions(**how)
    return list(
        read_csv(stream, options, account, batch_rows=batch_rows, source="sets.csv", chunk_bytes=chunk_bytes),
    )


def read(data: bytes, *, batch_rows: int = 1000, **how: Any) -> Outcome:
    """Read everything, and check what must be true of any reading."""
    account = Account("test")
    frames = frames_of(data, account, batch_rows=batch_rows, **how)
    sizes = [len(frame) for frame in frames]
    assert all(size == batch_rows for size in sizes[:-1])
    assert 0 < sizes[-1] <= batch_rows or len(sizes) == 1

    rejects = [(reject.row, reject.rule, reject.raw) for reject in account.take_rejects()]
    assert rejects == sorted(rejects)
    numbers = [int(number) for frame in frames for number in frame.index]
    assert sorted(numbers + [row for row, _, _ in rejects]) == list(range(1, len(numbers) + len(rejects) + 1))
    for frame in frames:
        assert list(frame.columns) == list(frames[0].columns)
        assert set(frame.dtypes) == {pd.ArrowDtype(pa.string())}
        if isinstance(frame.index, pd.RangeIndex):
            assert frame.index.start > 0
        else:
            assert any(later - earlier > 1 for earlier, later in pairwise(frame.index))

    cells = [tuple(None if cell is pd.NA else cell for cell in row) for frame in frames for row in frame.to_numpy()]
    mended = account.repaired[MENDED].count if MENDED in account.repaired else 0
    return Outcome(list(frames[0].columns), dict(zip(numbers, cells, strict=True)), rejects, mended)


def rows_of(data: bytes, **how: Any) -> list[Cells]:
    outcome = read(data, **how)
    assert outcome.rejects == []
    return list(outcome.rows.values())


# -- what a sound file looks like -----------------------------------------------------------------------------------


def test_values_stay_text_and_blank_cells_are_null() -> None:
    assert rows_of(b'id,name\n01,NA\n1e5,\n"",nan\n') == [("01", "NA"), ("1e5", None), (None, "nan")]


def test_null_words_are_matched_whole_and_exactly_quoted_or_not() -> None:
    rows = rows_of(b'a,b\nNA,"NA"\n, NA\nna,NAN\n', null_words=("NA",))
    assert rows == [(None, None), ("", " NA"), ("na", "NAN")]
    assert rows_of(b'a,b\n,""\n', null_words=()) == [("", "")]


def test_quoted_fields_hold_quotes_delimiters_and_line_ends() -> None:
    assert rows_of(b'a,b\n"x, ""y""","1\n2\r\n3\r4"\n') == [('x, "y"', "1\n2\r\n3\r4")]


def test_a_quote_inside_an_unquoted_field_is_a_character() -> None:
    assert rows_of(b'a,b\n5" plate,x\n8"",y"z"\n') == [('5" plate', "x"), ('8""', 'y"z"')]


def test_without_a_quote_character_quotes_are_characters() -> None:
    assert rows_of(b'"a,b\n"1,2"\n"3,"\n', quote="") == [('"1', '2"'), ('"3', '"')]


def test_another_dialect() -> None:
    assert rows_of(b"a|b\n'1|''2'|\"3\n", delimiter="|", quote="'") == [("1|'2", '"3')]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("final", [True, False])
def test_all_line_ends(newline: bytes, final: bool) -> None:
    data = newline.join([b"a,b", b"1,2", b"", b"3,4"]) + (newline if final else b"")
    for chunk_bytes in range(1, 20):
        assert rows_of(data, chunk_bytes=chunk_bytes) == [("1", "2"), ("3", "4")]


def test_line_ends_may_be_mixed() -> None:
    assert rows_of(b"a,b\r1,2\n3,4\r\n5,6\n\r7,8") == [("1", "2"), ("3", "4"), ("5", "6"), ("7", "8")]


def test_blank_lines_are_not_rows_unless_there_is_one_column() -> None:
    assert read(b"\n\na,b\n\n1,2\r\n\r\n3,4\n\n").rows == {1: ("1", "2"), 2: ("3", "4")}
    assert read(b"a\n\n1\r\n\r\n2\n").rows == {1: (None,), 2: ("1",), 3: (None,), 4: ("2",)}


def test_a_blank_row_of_one_column_survives_the_removal_of_the_line_before_it() -> None:
    outcome = read(b"a\n1\r\0\n\n2\n")
    assert outcome.rows == {1: ("1",), 3: (None,), 4: ("2",)}


def test_batches_have_exactly_the_size_asked_for() -> None:
    data = b"a,b\n" + b"1,2\n" * 100
    for batch_rows, sizes in [(30, [30, 30, 30, 10]), (50, [50, 50]), (100, [100]), (101, [100])]:
        frames = frames_of(data, Account("x"), batch_rows=batch_rows, chunk_bytes=37)
        assert [len(frame) for frame in frames] == sizes
        assert [index for frame in frames for index in frame.index] == list(range(1, 101))
        assert all(isinstance(frame.index, pd.RangeIndex) for frame in frames)
        assert all(pa.Table.from_pandas(frame)["a"].num_chunks == 1 for frame in frames)


def test_an_index_has_gaps_only_where_rows_were_rejected() -> None:
    first, second = frames_of(b"a,b\n1,2\nx\n3,4\n5,6\n7,8\n", Account("x"), batch_rows=2)
    assert list(first.index) == [1, 3]
    assert second.index.equals(pd.RangeIndex(4, 6))
    assert isinstance(second.index, pd.RangeIndex)


# -- header -------------------------------------------------------------------------------------------------------


def test_names_are_stripped_and_blank_ones_are_numbered() -> None:
    assert read(b' id ,"",\ttheme\xc2\xa0, \n1,2,3,4\n').names == ["id", "column_2", "theme", "column_4"]


def test_a_header_may_be_quoted_over_lines() -> None:
    assert read(b'"a\nb","c,""d"""\n1,2\n', chunk_bytes=4).names == ["a\nb", 'c,"d"']


def test_a_file_without_a_header() -> None:
    outcome = read(b"1,2\n3,4\n", header=("a", "b"))
    assert outcome.names == ["a", "b"]
    assert outcome.rows == {1: ("1", "2"), 2: ("3", "4")}


def test_a_header_in_the_fallback_encoding_is_read_and_reported() -> None:
    account = Account("x")
    (frame,) = frames_of(b"a,caf\xe9\n1,2\n", account)
    assert list(frame.columns) == ["a", "café"]
    assert account.repaired[MENDED].samples == [{"row": 0, "before": "caf\\xe9", "after": "café"}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "sets.csv: is empty"),
        (b"\n\r\n\r", "sets.csv: is empty"),
        (b"\xef\xbb\xbf", "sets.csv: is empty"),
        (b"a,b\n", "sets.csv: has no rows; set allow_empty"),
        (b"a,b", "sets.csv: has no rows; set allow_empty"),
        (b"a,b,a,c,b\n1,2,3,4,5\n", "sets.csv: the header names a column more than once: a, b"),
        (b"column_2,\n1,2\n", "sets.csv: the header names a column more than once: column_2"),
        (b'"a"x,b\n1,2\n', "sets.csv: the header cannot be read, unbalanced quote: '\"a\"x,b'"),
        (b'a,"b\n1,2\n', "sets.csv: the header cannot be read, unbalanced quote"),
        (b"a,b" * 400_000 + b"\n", "sets.csv: the header cannot be read, longer than max_row_bytes"),
        (b"a" * 200_000 + b"\n", "sets.csv: the header cannot be read, field larger than"),
        (b"a\0,b\n1,2\n", "sets.csv: the header is not text in utf-8"),
        (b"a\x81,b\n1,2\n", "sets.csv: the header is not text in utf-8"),
    ],
)
def test_unusable_files(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match="^" + re.escape(message)):
        read(data)


@pytest.mark.parametrize("data", [b"a,b\n", b"a,b", b"a,b\r\n\r\n"])
def test_no_rows_may_be_allowed(data: bytes) -> None:
    (frame,) = frames_of(data, Account("x"), allow_empty=True)
    assert list(frame.columns) == ["a", "b"]
    assert isinstance(frame.index, pd.RangeIndex)
    assert (frame.index.start, frame.index.stop) == (1, 1)


def test_no_rows_without_a_header() -> None:
    with pytest.raises(DataError, match="has no rows"):
        read(b"", header=("a", "b"))
    assert read(b"", header=("a", "b"), allow_empty=True).names == ["a", "b"]


def test_a_file_of_nothing_but_rejects_has_rows() -> None:
    outcome = read(b"a,b\n1\n2\n")
    assert outcome.rows == {}
    assert [rule for _, rule, _ in outcome.rejects] == ["ragged: 1 field instead of 2"] * 2


# -- encodings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_a_bom_is_stripped_once_and_only_at_the_start(size: int) -> None:
    bom = b"\xef\xbb\xbf"
    outcome = read(bom + b"a,b\n" + bom + b"1,2\n" + bom + bom + b"3,4\n", sizes=[size], chunk_bytes=size)
    assert outcome.names == ["a", "b"]
    assert list(outcome.rows.values()) == [("\ufeff1", "2"), ("\ufeff\ufeff3", "4")]


@pytest.mark.parametrize(
    ("encoding", "bom"),
    [("utf-16", ""), ("utf-16-le", "\ufeff"), ("utf-32-be", "\ufeff"), ("utf-7", "\ufeff"), ("cp1252", "")],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_declared_encodings(encoding: str, bom: str, size: int) -> None:
    outcome = read(f"{bom}a,b\n€,é\n".encode(encoding), encoding=encoding, chunk_bytes=size)
    assert (outcome.names, outcome.rows) == (["a", "b"], {1: ("€", "é")})


@pytest.mark.parametrize("encoding", ["UTF8", "utf-8-sig"])
def test_other_names_of_utf8_have_the_fallback_too(encoding: str) -> None:
    outcome = read(b"\xef\xbb\xbfa,b\n1,\xe9\n", encoding=encoding)
    assert (outcome.names, outcome.rows, outcome.mended) == (["a", "b"], {1: ("1", "é")}, 1)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_wider_bom_tells_its_encoding(encoding: str) -> None:
    with pytest.raises(DataError, match=f'sets.csv: is {encoding.upper()}, not UTF-8; set encoding = "{encoding}"'):
        read("a,b\n1,2\n".encode(encoding), chunk_bytes=1)


@pytest.mark.parametrize(
    ("encoding", "data", "offset"),
    [
        ("ascii", b"a,b\n1,2\n" * 150 + b"\xe9", "1,200"),
        ("utf-16-le", "a,b\n1,".encode("utf-16-le") + b"\x00\xdc\n\0", "12"),
        ("utf-16-le", "a,b\n1,2".encode("utf-16-le") + b"x", "14"),
        ("cp932", b"a,b\n1,\x81\xff\n", "6"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 3, 1000])
def test_a_wrong_declared_encoding_names_the_byte(encoding: str, data: bytes, offset: str, chunk_bytes: int) -> None:
    with pytest.raises(DataError, match=f"sets.csv: not {encoding} at byte {offset} "):
        read(data, encoding=encoding, chunk_bytes=chunk_bytes)


def test_bytes_that_are_not_utf8_are_read_in_the_fallback_and_counted_by_row() -> None:
    account = Account("x")
    (frame,) = frames_of(b"a,b\nna\xc3\xafve \x80,\x93x\x94\nplain,1\n\xe9,2\n\xe9,\xe9\n\xe9,4\n", account)
    assert list(frame["a"]) == ["naïve €", "plain", "é", "é", "é"]
    assert list(frame["b"]) == ["“x”", "1", "2", "é", "4"]
    repair = account.repaired[MENDED]
    assert repair.count == 4
    assert repair.samples[0] == {"row": 1, "before": "naïve \\x80", "after": "naïve €"}
    assert [sample["row"] for sample in repair.samples] == [1, 3, 4]


def test_bytes_undefined_in_the_fallback_reject_the_row() -> None:
    outcome = read(b"a,b\n1,\x81\n2,\xe9\n")
    assert outcome.rows == {2: ("2", "é")}
    assert outcome.rejects == [(1, "not UTF-8 nor cp1252", "1,\\x81")]
    assert outcome.mended == 1


def test_without_a_fallback_such_rows_are_rejected() -> None:
    outcome = read(b"a,b\n1,\xe9\n2,\xc3\xa9\n", fallback_encoding="")
    assert outcome.rows == {2: ("2", "é")}
    assert outcome.rejects == [(1, "not UTF-8", "1,\\xe9")]


def test_another_fallback() -> None:
    assert rows_of(b"a,b\n1,\xa4\n", fallback_encoding="iso8859-15") == [("1", "€")]


def test_encoded_surrogates_are_not_utf8() -> None:
    assert read(b"a,b\n1,\xed\xa0\x80\n").mended == 1


# -- rejects ------------------------------------------------------------------------------------------------------


def test_ragged_records() -> None:
    outcome = read(b'a,b\n1,2\n3\n"4\n4",5,6\r\n7,8\r9,10,11\r')
    assert outcome.rows == {1: ("1", "2"), 4: ("7", "8")}
    assert outcome.rejects == [
        (2, "ragged: 1 field instead of 2", "3"),
        (3, "ragged: 3 fields instead of 2", '"4\n4",5,6'),
        (5, "ragged: 3 fields instead of 2", "9,10,11"),
    ]


def test_a_nul_rejects_its_record() -> None:
    outcome = read(b'a,b\n1,2\n3,\0\n"x\n\0",y\n4,5\n')
    assert outcome.rows == {1: ("1", "2"), 4: ("4", "5")}
    assert outcome.rejects == [(2, NUL, "3,\0"), (3, NUL, '"x\n\0",y')]


def test_text_behind_a_closing_quote_costs_one_line() -> None:
    outcome = read(b'a,b\n1,2\n"3"x,4\n5,6\n')
    assert outcome.rows == {1: ("1", "2"), 3: ("5", "6")}
    assert outcome.rejects == [(2, UNBALANCED, '"3"x,4')]


def test_an_unclosed_quote_costs_one_line_and_not_the_rest_of_the_file() -> None:
    outcome = read(b'a,b\n1,2\n"3,4\n5,6\n7,"8\n8"\n9,10')
    assert outcome.rows == {1: ("1", "2"), 3: ("5", "6"), 4: ("7", "8\n8"), 5: ("9", "10")}
    assert outcome.rejects == [(2, UNBALANCED, '"3,4')]


def test_a_record_that_breaks_on_a_later_line_costs_its_first_line() -> None:
    outcome = read(b'a,b\n1,"2\n3,4"x\n5,6\n')
    assert outcome.rows == {2: ("3", '4"x'), 3: ("5", "6")}
    assert outcome.rejects == [(1, UNBALANCED, '1,"2')]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("chunk_bytes", [1, 2, 5, 1000])
def test_a_row_may_be_as_long_as_max_row_bytes(newline: bytes, chunk_bytes: int) -> None:
    rows = [b"1,234567", b"2,3456789", b"3,4567890123456789", b'"4\n",567', b'"5\n",6789', b"7,8"]
    outcome = read(newline.join([b"a,b", *rows]), max_row_bytes=8, chunk_bytes=chunk_bytes)
    assert outcome.rows == {1: ("1", "234567"), 4: ("4\n", "567"), 7: ("7", "8")}
    assert outcome.rejects[:2] == [(2, TOO_LONG, "2,345678"), (3, TOO_LONG, "3,456789")]
    assert outcome.rejects[2:] == [(5, UNBALANCED, '"5'), (6, UNBALANCED, '",6789')]


def test_the_text_of_a_reject_is_cut() -> None:
    ragged, nul = read(b"a,b\n" + b"x" * 9_000 + b"\n" + "é".encode() * 9_000 + b",\0\n").rejects
    assert ragged[2] == "x" * 4_000
    assert nul[2] == "é" * 4_000


def test_rejects_beyond_the_first_block_have_the_right_numbers() -> None:
    rows = [b"%d,x" % number if number % 1009 else b"%d" % number for number in range(1, 300_000)]
    outcome = read(b"a,b\n" + b"\n".join(rows), batch_rows=65_536, chunk_bytes=1 << 20)
    assert all(cells[0] == str(row) for row, cells in outcome.rows.items())
    assert all(text == str(row) and row % 1009 == 0 for row, _, text in outcome.rejects)
    assert len(outcome.rejects) == 297


# -- bounds -------------------------------------------------------------------------------------------------------


@dataclass
class Endless:
    """A stream of ``start`` and then ``size`` bytes of one pattern."""

    start: bytes
    pattern: bytes
    size: int

    def read(self, n: int, /) -> bytes:
        if self.start:
            start, self.start = self.start, b""
            return start
        n = min(n // len(self.pattern) * len(self.pattern), self.size)
        self.size -= n
        return self.pattern * (n // len(self.pattern))


ENDLESS = {
    "CR only": (b"a,b\n", b"1,%s\r" % (b"2" * 97)),
    "one line": (b"a,b\n", b"abcd"),
    "open quote": (b'a,b\n"', b"1,%s\n" % (b"2" * 97)),
    "one quoted line": (b'a,b\n"', b"abcd"),
    "doubled quotes": (b'a,b\n"', b'"",""%s\r\n' % (b'""' * 50)),
    "blank": (b"a,b\n", b"\r\n\n\r"),
    "only blank": (b"", b"\r\n\n\r"),
    "header": (b"", b"abcd"),
}


@pytest.mark.parametrize(("start", "pattern"), ENDLESS.values(), ids=ENDLESS.keys())
def test_memory_is_bounded(start: bytes, pattern: bytes) -> None:
    stream = Endless(start, pattern, 24 << 20)
    options = CsvOptions(max_row_bytes=100_000)
    account = Account("x")
    tracemalloc.start()
    try:
        for _ in read_csv(stream, options, account, batch_rows=50_000, source="x", chunk_bytes=1 << 18):
            account.take_rejects()
    except DataError:
        assert pattern in (b"\r\n\n\r", b"abcd")
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 16 << 20


def test_many_quotes_that_never_close_take_a_linear_time() -> None:
    """Each line opens a field and looks, from inside one, as if it closed one and opened the next: read anew from every
    line to the end, this would take a quarter of an hour."""
    outcome = read(b"a,b\n" + b'a","b\n' * 50_000)
    assert len(outcome.rejects) == 50_000


def test_options_do_not_load_the_libraries_that_read() -> None:
    code = "import sys, etl.files.csv_options; print({'pandas', 'numpy', 'pyarrow'} & set(sys.modules))"
    assert said_by(code) == "set()\n"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"delimiter": ""}, "one ASCII character"),
        ({"delimiter": ";;"}, "one ASCII character"),
        ({"delimiter": "§"}, "one ASCII character"),
        ({"delimiter": "\n"}, "no line end"),
        ({"delimiter": '"'}, "must differ"),
        ({"quote": "\r"}, "no line end"),
        ({"quote": "''"}, "one ASCII character"),
        ({"header": False}, "needs its column names"),
        ({"header": ()}, "needs its column names"),
        ({"header": ("a", "a")}, "unique"),
        ({"header": ("a", " ")}, "not blank"),
        ({"encoding": "utf-9"}, "unknown text encoding 'utf-9'"),
        ({"encoding": "base64"}, "unknown text encoding 'base64'"),
        ({"fallback_encoding": "nope"}, "unknown text encoding 'nope'"),
        ({"fallback_encoding": "utf-16"}, "single-byte extension of ASCII"),
        ({"fallback_encoding": "gbk"}, "single-byte extension of ASCII"),
        ({"fallback_encoding": "cp037"}, "single-byte extension of ASCII"),
        ({"max_row_bytes": 0}, "greater than 0"),
        ({"delimeter": ";"}, "Extra inputs"),
    ],
)
def test_wrong_options(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CsvOptions(**option)


# -- the same rules, the slow way -----------------------------------------------------------------------------------


def slow_read(data: bytes, options: CsvOptions) -> Outcome:
    """Read a whole UTF-8 file record by record, character by character."""
    assert isinstance(options.header, tuple)
    outcome = Outcome(list(options.header), {}, [])
    width = len(options.header)
    records = slow_records(data.removeprefix(b"\xef\xbb\xbf"), options)
    numbered = enumerate(((raw, fields) for raw, fields in records if raw or width == 1), start=1)
    for row, (raw, fields) in numbered:
        text = raw.decode(errors="backslashreplace")
        if isinstance(fields, str):
            outcome.rejects.append((row, fields, text))
        elif b"\0" in raw:
            outcome.rejects.append((row, NUL, text))
        elif set(bad_bytes(raw)) & set(b"\x81\x8d\x8f\x90\x9d"):
            outcome.rejects.append((row, "not UTF-8 nor cp1252", text))
        else:
            outcome.mended += bool(bad_bytes(raw))
            if len(fields) == width:
                cells = [slow_text(cell) for cell in fields]
                outcome.rows[row] = tuple(None if cell in options.null_words else cell for cell in cells)
            else:
                found = f"{len(fields)} field" + "s" * (len(fields) != 1)
                outcome.rejects.append((row, f"ragged: {found} instead of {width}", slow_text(raw)))
    return outcome


def bad_bytes(raw: bytes) -> bytes:
    return bytes(ord(char) - 0xDC00 for char in raw.decode(errors="surrogateescape") if "\udc80" <= char <= "\udcff")


def slow_text(raw: bytes) -> str:
    text = raw.decode(errors="surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda bad: bytes([ord(bad[0]) - 0xDC00]).decode("cp1252"), text)


def slow_records(data: bytes, options: CsvOptions) -> Iterator[tuple[bytes, list[bytes] | str]]:
    """Yield each record with its fields, or with the rule that it broke."""
    at = 0
    while at < len(data):
        line_end = next(i for i in range(at, len(data) + 1) if data[i : i + 1] in (b"", b"\n", b"\r"))
        fields, end = slow_fields(data, at, options)
        if line_end - at > options.max_row_bytes:
            yield data[at : at + options.max_row_bytes], TOO_LONG
            end = line_end
        elif fields is None or end - at > options.max_row_bytes:
            yield data[at:line_end], UNBALANCED
            end = line_end
        else:
            yield data[at:end], fields
        at = end + (2 if data[end : end + 2] == b"\r\n" else 1)


def slow_fields(data: bytes, at: int, options: CsvOptions) -> tuple[list[bytes] | None, int]:
    """Return the fields of the record at ``at`` and where it ends; no fields if a quote is broken."""
    delimiter, quote = options.delimiter.encode(), options.quote.encode()
    fields = []
    while True:
        field = b""
        if quote and data[at : at + 1] == quote:
            at += 1
            while data[at : at + 1] != quote or data[at : at + 2] == quote * 2:
                if at >= len(data):
                    return None, at
                field += data[at : at + 1]
                at += 2 if data[at : at + 1] == quote else 1
            at += 1
        else:
            while data[at : at + 1] not in (b"", b"\r", b"\n", delimiter):
                field += data[at : at + 1]
                at += 1
        fields.append(field)
        behind = data[at : at + 1]
        if behind != delimiter:
            return (fields if behind in (b"", b"\r", b"\n") else None), at
        at += 1


chunkings = st.fixed_dictionaries(
    {
        "chunk_bytes": st.integers(1, 40) | st.just(CHUNK_BYTES),
        "sizes": st.lists(st.integers(1, 20), min_size=1, max_size=5),
        "batch_rows": st.integers(1, 6) | st.just(1000),
    }
)

structure = [b'"', b'"', b'""', b",", b",", b"\n", b"\n", b"\r\n", b"\r", b'","', b'",\n']
content = [b"x", b"yz", b" ", b'a"b', b"\0", b"\xc3\xa9", b"\xe2\x82\xac", b"\xef\xbb\xbf"]
not_utf8 = [b"\xe9", b"\x81", b"\xe2\x82", b"\xed\xa0\x80"]
scraps = st.sampled_from([*structure, *content, *not_utf8])
dirt = st.lists(scraps, max_size=60).map(b"".join)
text_dirt = st.lists(st.sampled_from(['"', '""', ",", "\n", "\r\n", "\r", '"a"', "b", "é"]), max_size=40).map("".join)


def names_of(width: int) -> tuple[str, ...]:
    return tuple("abcd"[:width])


@settings(max_examples=400)
@given(dirt, st.integers(1, 3), st.sampled_from([3, 8, 20, 1000]), st.sampled_from(['"', ""]), chunkings)
@example(b'q",1\na","b\nc,1\n', 2, 1000, '"', {"chunk_bytes": 1000, "sizes": [1000], "batch_rows": 1000})
@example(b'a"b\r\nz', 1, 8, '"', {"chunk_bytes": 1, "sizes": [1], "batch_rows": 1})
def test_any_bytes_are_read_as_the_slow_reader_reads_them(
    data: bytes, width: int, max_row_bytes: int, quote: str, chunking: dict[str, Any]
) -> None:
    options = CsvOptions(header=names_of(width), max_row_bytes=max_row_bytes, quote=quote, allow_empty=True)
    assert read(data, options=options, **chunking) == slow_read(data, options)


@settings(max_examples=200)
@given(text_dirt, st.integers(2, 3), chunkings)
def test_what_python_accepts_has_the_same_values(text: str, width: int, chunking: dict[str, Any]) -> None:
    """No difference is known for files of several columns, once NUL and bytes that are not text are left out."""
    try:
        expected = [tuple(row) for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error:
        return
    outcome = read(text.encode(), header=names_of(width), allow_empty=True, null_words=(), **chunking)
    assert list(outcome.rows.values()) == [row for row in expected if len(row) == width]
    assert len(outcome.rejects) == sum(len(row) != width for row in expected)


cells = st.text(
    st.sampled_from("\"',;\t ab1é€\ufeff\U0001f9f1") | st.characters(codec="utf-8", exclude_characters="\0")
)


@settings(max_examples=200)
@given(st.data(), chunkings)
def test_tables_written_by_python_come_back(data: st.DataObject, chunking: dict[str, Any]) -> None:
    width = data.draw(st.integers(1, 4))
    # Python leaves a CR unquoted in a file whose lines end with LF, and so does not read its own file back either
    newline = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    minimal = newline == "\r\n" and data.draw(st.booleans())
    delimiter, quote = data.draw(st.sampled_from([(",", '"'), (";", '"'), ("\t", "'"), ("|", '"')]))
    table = data.draw(st.lists(st.tuples(*[cells] * width), max_size=12))
    text = io.StringIO(newline="")
    quoting: Literal[0, 1] = csv.QUOTE_MINIMAL if minimal else csv.QUOTE_ALL
    writer = csv.writer(text, delimiter=delimiter, quotechar=quote, quoting=quoting, lineterminator=newline)
    writer.writerows([names_of(width), *table])

    outcome = read(
        text.getvalue().encode(), delimiter=delimiter, quote=quote, null_words=(), allow_empty=True, **chunking
    )
    assert outcome.rejects == []
    assert outcome.rows == dict(enumerate(table, start=1))


def test_blocks_of_real_size_are_read_as_the_slow_reader_reads_them() -> None:
    lines = [
        b'1,"two ""2"" words"',
        b'2,5" plate',
        b"",
        b'"3,stray',
        b"4,caf\xe9",
        b"5,\0",
        b"6",
        b'7,"a\nb"',
        b"8,\x81",
    ]
    plain = [b"%d,%s" % (number, b"lego" * (number % 9)) for number in range(97)]
    data = b"\r\n".join(b"\r\n".join([*plain, line]) for line in lines * 12)
    options = CsvOptions(header=("a", "b"))
    assert read(data, options=options, chunk_bytes=70_000) == slow_read(data, options)
