"""The CSV reader against 10,000 damaged files: no row silently wrong or missing.

The judge is Python's own ``csv`` in strict mode, given one record at a time, with a strict decoder behind it; it shares
no code with the reader. Each record must be read with equal values, or be rejected for the reason that the judge has:

- A record begins at a physical line (LF, CRLF or CR) and goes on for as many as ``csv`` needs to close its quotes. If
  it never does, or finds text behind a closing quote, that first line is rejected, and the next one begins a record.
- A record with a NUL is rejected. So is one whose bytes are neither UTF-8 nor, where they are not, cp1252. So is one
  that has not as many fields as the header.
- Blank lines are no records, save in a file of one column. Empty fields, quoted or not, are null.
- A file whose header breaks one of these rules, names a column twice, or has no record behind it, is refused.
"""

from __future__ import annotations

import codecs
import csv
import io
import random
import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import pytest

from etl.errors import DataError
from etl.files.csv_options import CsvOptions
from etl.files.csv_reader import CHUNK_BYTES, read_csv
from etl.ledger import Account

QUICK, ALL = 500, 10_000
WIDE_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
LINE = re.compile(rb"([^\r\n]*)(\r\n|\r|\n|$)")

Values = tuple[str | None, ...]
Chance = random.Random


class Verdict(NamedTuple):
    """What is in a file: names, values by row number, and why other rows are rejected; or that it is refused."""

    names: list[str]
    rows: dict[int, Values]
    rejected: dict[int, str]


REFUSED = Verdict([], {}, {})


# -- the judge -----------------------------------------------------------------------------------------------------


def judged(data: bytes) -> Verdict:
    if data.startswith(WIDE_BOMS):
        return REFUSED
    found = records(data.removeprefix(codecs.BOM_UTF8))
    header = next((fields for fields in found if fields != []), None)
    if header is None or isinstance(header, str) or any("\0" in name for name in header):
        return REFUSED
    names = [name.strip() or f"column_{number}" for number, name in enumerate(header, 1)]
    if len(set(names)) < len(names):
        return REFUSED
    rows: dict[int, Values] = {}
    rejected: dict[int, str] = {}
    number = 0
    for fields in found:
        if fields == [] and len(names) > 1:
            continue
        number += 1
        if isinstance(fields, str):
            rejected[number] = fields
        elif any("\0" in field for field in fields):
            rejected[number] = "NUL"
        elif len(fields or [""]) != len(names):
            rejected[number] = "ragged"
        else:
            rows[number] = tuple(field or None for field in fields or [""])
    return Verdict(names, rows, rejected) if number else REFUSED


def records(data: bytes) -> Iterator[list[str] | str]:
    """Yield each record: its fields, none for a blank line, or the rule that it breaks."""
    lines = [match.groups() for match in LINE.finditer(data) if match.group()]
    at = 0
    while at < len(lines):
        last, fields = one_record(lines, at)
        yield "unbalanced" if fields is None else decoded(fields)
        at = last + 1


def one_record(lines: list[tuple[bytes, ...]], first: int) -> tuple[int, list[bytes] | None]:
    """Its last line and its fields; no fields if its quotes are wrong."""
    fed: list[str] = []
    for last in range(first, len(lines)):
        text, end = (part.decode("latin-1") for part in lines[last])
        try:
            (fields,) = csv.reader([*fed, text], strict=True)
        except csv.Error as error:
            if "unexpected end of data" not in str(error):
                return first, None
            fed.append(text + end)
        else:
            return last, [field.encode("latin-1") for field in fields]
    return first, None


def decoded(fields: list[bytes]) -> list[str] | str:
    if any(b"\0" in field for field in fields):
        return "NUL"
    try:
        return [text_of(field) for field in fields]
    except UnicodeDecodeError:
        return "encoding"


def text_of(field: bytes) -> str:
    """UTF-8; what is not, as cp1252."""
    text = ""
    while True:
        try:
            return text + field.decode()
        except UnicodeDecodeError as error:
            text += field[: error.start].decode() + field[error.start : error.end].decode("cp1252")
            field = field[error.end :]


# -- the reader ----------------------------------------------------------------------------------------------------


def read(data: bytes, chunk_bytes: int, batch_rows: int) -> Verdict:
    account = Account("reader")
    stream = io.BytesIO(data)
    try:
        frames = list(
            read_csv(stream, CsvOptions(), account, batch_rows=batch_rows, source="x", chunk_bytes=chunk_bytes)
        )
    except DataError:
        return REFUSED
    names = [str(name) for name in frames[0].columns]
    rows: dict[int, Values] = {}
    for frame in frames:
        columns = [frame[name].array._pa_array.to_pylist() for name in names]
        rows.update(zip(frame.index.tolist(), zip(*columns, strict=True), strict=True))
    return Verdict(names, rows, {reject.row: kind_of(reject.rule) for reject in account.take_rejects()})


def kind_of(rule: str) -> str:
    kinds = {"ragged": "ragged", "NUL byte": "NUL", "unbalanced": "unbalanced", "not UTF-8": "encoding"}
    return next(kind for beginning, kind in kinds.items() if rule.startswith(beginning))


# -- the damage ----------------------------------------------------------------------------------------------------

WORDS = [
    "1-8",
    "House",
    '5" plate',
    'a "b" c',
    "Électrique",
    "€ 9,99",
    "two\nlines",
    "x\r\ny",
    "",
    " ",
    "Mühle",
    "𝄞",
    "01",
]


def sound_file(chance: Chance) -> bytes:
    width = chance.choice([1, 2, 3, 5, 14])
    text = io.StringIO(newline="")
    quoting: Literal[0, 1] = chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    writer = csv.writer(text, quoting=quoting, lineterminator=chance.choice(["\n", "\r\n", "\n"]))
    writer.writerow([f"column {number}" for number in range(width)])
    for _ in range(chance.randint(0, 25)):
        writer.writerow([chance.choice(WORDS) for _ in range(width)])
    encoding = chance.choice(["utf-8"] * 8 + ["utf-8-sig", "cp1252"])
    return text.getvalue().encode(encoding, "replace")


def flip_bits(data: bytearray, chance: Chance) -> None:
    for _ in range(chance.randint(1, 5)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def insert_something(data: bytearray, chance: Chance) -> None:
    scraps = (b'"', b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xe9", b"\xc3", b"\xef\xbb\xbf")
    more = (b"\x85", b"\x0b", b"\x0c", b"\xe2\x80\xa8", b'","', b'"\n"', b"\x81", b"\xed\xa0\x80", b"\xc0\xaf", b"'")
    for _ in range(chance.randint(1, 3)):
        at = chance.randint(0, len(data))
        data[at:at] = chance.choice(scraps + more)


def remove_a_stretch(data: bytearray, chance: Chance) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.choice([1, 1, 2, 10, 100])]


def repeat_a_stretch(data: bytearray, chance: Chance) -> None:
    at = chance.randrange(len(data))
    data[at:at] = data[at : at + chance.choice([1, 5, 50])]


def truncate(data: bytearray, chance: Chance) -> None:
    del data[chance.randrange(len(data)) :]


def without_some(byte: bytes) -> Callable[[bytearray, Chance], None]:
    def remove(data: bytearray, chance: Chance) -> None:
        kept = [piece + (byte if chance.random() < 0.9 else b"") for piece in bytes(data).split(byte)]
        data[:] = b"".join(kept)

    return remove


def other_line_ends(data: bytearray, chance: Chance) -> None:
    end = chance.choice([b"\r", b"\r\n", b"\n\r", b"\n\n", b"\r\r\n", b" \n"])
    data[:] = re.sub(rb"\r?\n", lambda found: end if chance.random() < 0.5 else found[0], bytes(data))


def change_a_column(data: bytearray, chance: Chance) -> None:
    lines = bytes(data).split(b"\n")
    at = chance.randrange(len(lines))
    cells = lines[at].split(b",")
    place = chance.randrange(len(cells))
    cells[place : place + chance.randint(0, 1)] = [cells[place]] * chance.randint(0, 2)
    lines[at] = b",".join(cells)
    data[:] = b"\n".join(lines)


def other_encoding(data: bytearray, chance: Chance) -> None:
    at = chance.randrange(len(data))
    stretch = bytes(data[at : at + chance.choice([5, 50, 5000])])
    encoding = chance.choice(["cp1252", "utf-16", "utf-16-le", "mac-roman", "utf-8-sig"])
    data[at : at + len(stretch)] = stretch.decode("utf-8", "replace").encode(encoding, "replace")


def swap_lines(data: bytearray, chance: Chance) -> None:
    lines = bytes(data).splitlines(keepends=True)
    chance.shuffle(lines)
    data[:] = b"".join(lines)


DAMAGE: tuple[Callable[[bytearray, Chance], None], ...] = (
    flip_bits,
    insert_something,
    insert_something,
    remove_a_stretch,
    repeat_a_stretch,
    truncate,
    without_some(b'"'),
    without_some(b","),
    without_some(b"\n"),
    other_line_ends,
    change_a_column,
    other_encoding,
    swap_lines,
)


def damaged_file(chance: Chance) -> bytes:
    data = bytearray(sound_file(chance))
    for _ in range(chance.randint(1, 4)):
        if data:
            chance.choice(DAMAGE)(data, chance)
    return bytes(data)


def check(seeds: range) -> None:
    for seed in seeds:
        chance = random.Random(seed)
        data = damaged_file(chance)
        chunk_bytes = chance.choice([64, 1000, 1000, 1000, *[CHUNK_BYTES] * 6])
        batch_rows = chance.choice([3, 1000])
        assert read(data, chunk_bytes, batch_rows) == judged(data), f"seed {seed}: {data!r}"


def test_the_judge_knows_what_is_wrong() -> None:
    data = b'a,b\n1,"x\ny"\n\n2\n3,"z"z\n4,\0\n5,\x81\n6,\xe9\n7,"open\n8,""\n'
    rejected = {2: "ragged", 3: "unbalanced", 4: "NUL", 5: "encoding", 7: "unbalanced"}
    assert judged(data) == (["a", "b"], {1: ("1", "x\ny"), 6: ("6", "é"), 8: ("8", None)}, rejected)
    assert judged(b"a,a\n1,2\n") == judged(b"a\n") == judged(b"") == judged(b'"a\n1\n') == REFUSED


def test_the_damage_is_of_every_kind() -> None:
    verdicts = [judged(damaged_file(random.Random(seed))) for seed in range(QUICK)]
    assert 20 < verdicts.count(REFUSED) < QUICK / 3
    kinds = {kind for verdict in verdicts for kind in verdict.rejected.values()}
    assert kinds == {"ragged", "unbalanced", "NUL", "encoding"}


def test_damaged_files() -> None:
    check(range(QUICK))


@pytest.mark.slow
def test_many_damaged_files() -> None:
    check(range(QUICK, ALL))
