"""The streaming CSV reader of every file-like source: bytes in; numbered batches of text, and rejects, out.

Blocks of whole records are cut from the stream and parsed by Arrow. Only a block that holds something wrong (a stray
quote, a NUL, bytes that are not UTF-8, a row that is too long) is first taken apart line by line, and what is
wrong is set aside; Arrow parses what is left, so a value is the same whichever way its block went.
"""

from __future__ import annotations

import codecs
import csv
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from etl.errors import DataError
from etl.files.csv_options import CsvOptions
from etl.files.csv_records import Records, Scanner
from etl.files.places import Reader, read_fully
from etl.ledger import EVIDENCE_CHARS, Account
from etl.tables.numbered import numbered_frames, with_numbers

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.files.csv_records import Offsets

CHUNK_BYTES = 2 << 20  # 2 to 4 MiB parse fastest: less pays for starting, more falls out of the processor's caches

_HEAD_BYTES = 1 << 16
_NUL = "NUL byte"
_WIDER_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_csv(
    stream: Reader,
    options: CsvOptions,
    account: Account,
    *,
    batch_rows: int,
    source: str,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[DataFrame]:
    """Yield frames of exactly ``batch_rows`` rows (the last may have fewer), every column Arrow-backed strings.

    At least one frame, which may be empty but has its columns. The index is the record's number in the file: 1 is the
    first one after the header; blank lines do not count, save in a file of one column, where they are empty values;
    records that went to ``account.reject_line`` leave gaps. A record that a broken quote makes unreadable costs its
    first line, and reading goes on at the next. The outcome does not depend on ``batch_rows``, on ``chunk_bytes``, or
    on the sizes in which ``stream`` gives its bytes. Memory: a few chunks, a few ``max_row_bytes`` and one batch.
    Raises DataError, naming ``source``: empty, no rows, unusable header, not in its encoding.
    """
    chunks = _chunks(stream, options, source, chunk_bytes)
    scanner = Scanner(options)
    mender = _Mender(options, account)
    names: Sequence[str]
    if isinstance(options.header, tuple):
        names = options.header
    else:
        header, rest, ended = _first_record(chunks, scanner, source)
        names = usable_names(_header_cells(header, options, mender, source), source)
        chunks = chain([(rest, ended)], chunks)
    parser = _Parser(names, scanner, mender, options, account)
    problem = None if options.allow_empty else f"{source}: has no rows"
    yield from numbered_frames(parser.tables(chunks), parser.schema, batch_rows, account, problem)


# -- the stream as UTF-8 ------------------------------------------------------------------------------------------


def _chunks(stream: Reader, options: CsvOptions, source: str, size: int) -> Iterator[tuple[bytes, bool]]:
    """Yield (UTF-8 bytes, False) without a BOM, then (what ends the last line: a newline or nothing, True)."""
    head = read_fully(stream, max(min(size, _HEAD_BYTES), 4))  # small, to look for the header in, but whole BOMs
    raw = chain([head], iter(partial(read_fully, stream, size), b""))
    utf8 = _claiming_utf8(raw, source) if options.is_utf8 else _transcoded(raw, options.encoding, source)
    line_ended = True
    for chunk in _without_bom(utf8):
        yield chunk, False
        line_ended = chunk.endswith(b"\n") if chunk else line_ended
    yield b"" if line_ended else b"\n", True


def _claiming_utf8(raw: Iterator[bytes], source: str) -> Iterator[bytes]:
    first = next(raw, b"")
    for bom, encoding in _WIDER_BOMS:
        if first.startswith(bom):
            raise DataError(f'{source}: is {encoding.upper()}, not UTF-8; set encoding = "{encoding}"')
    return chain([first], raw)


def _transcoded(raw: Iterator[bytes], encoding: str, source: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    offset = 0
    for chunk in chain(raw, [b""]):
        undecoded = len(decoder.getstate()[0])
        try:
            yield decoder.decode(chunk, final=not chunk).encode()
        except UnicodeError as error:
            place = offset - undecoded + getattr(error, "start", 0)
            reason = getattr(error, "reason", error)
            raise DataError(f"{source}: not {encoding} at byte {place:,} ({reason}); set its true encoding") from error
        offset += len(chunk)


def _without_bom(chunks: Iterator[bytes]) -> Iterator[bytes]:
    first = next(filter(None, chunks), b"")
    return chain([first.removeprefix(codecs.BOM_UTF8)], chunks)


# -- the header ---------------------------------------------------------------------------------------------------


def _first_record(chunks: Iterator[tuple[bytes, bool]], scanner: Scanner, source: str) -> tuple[bytes, bytes, bool]:
    """Return the first record that is not blank, the data read after it, and whether that is all."""
    data = b""
    for chunk, last in chunks:
        data += chunk
        records = scanner.records(data, last)
        for i in np.flatnonzero(records.ends > records.starts)[:1]:
            text = data[records.starts[i] : records.ends[i]]
            if i in records.broken:
                raise DataError(f"{source}: the header cannot be read, {records.broken[i]}: {_evidence(text)[:80]!r}")
            return text, data[records.nexts[i] :], last
        data = scanner.unfinished(data, records.stop)
    raise DataError(f"{source}: is empty; expected a header and rows")


def _header_cells(header: bytes, options: CsvOptions, mender: _Mender, source: str) -> list[str]:
    utf8 = mender.utf8(0, header)
    if utf8 is None or b"\0" in header:
        raise DataError(f"{source}: the header is not text in {options.encoding}; set the encoding of the file")
    fields = csv.reader(
        [utf8.decode()],
        delimiter=options.delimiter,
        quotechar=options.quote or None,
        quoting=csv.QUOTE_MINIMAL if options.quote else csv.QUOTE_NONE,
    )
    try:
        return next(fields)
    except csv.Error as error:
        raise DataError(f"{source}: the header cannot be read, {error}") from error


def usable_names(cells: Sequence[str | None], source: str) -> list[str]:
    """The names in a header, stripped; a blank one becomes ``column_N``. Raises DataError if two are equal."""
    names = [(cell or "").strip() or f"column_{number}" for number, cell in enumerate(cells, start=1)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{source}: the header names a column more than once: {', '.join(twice)}")
    return names


# -- records into tables ------------------------------------------------------------------------------------------


class _Reject(NamedTuple):
    row: int
    rule: str
    line: str


class _Mender:
    """Reads records that are not UTF-8 in the fallback encoding, and counts them."""

    def __init__(self, options: CsvOptions, account: Account) -> None:
        fallback = options.fallback_encoding
        self.rule = f"not UTF-8 nor {fallback}" if fallback else "not UTF-8"
        self._repair = f"not UTF-8, read as {fallback}"
        self._errors = _reading_bad_bytes_as(fallback) if fallback else "strict"
        self._delimiter = options.delimiter.encode()
        self._account = account

    def utf8(self, row: int, record: bytes) -> bytes | None:
        """Return ``record`` as UTF-8, or None if that cannot be."""
        try:
            record.decode()
        except UnicodeDecodeError as error:
            return self._mended(row, record, error.start)
        return record

    def _mended(self, row: int, record: bytes, bad: int) -> bytes | None:
        try:
            mended = record.decode(errors=self._errors)
        except UnicodeDecodeError:
            return None
        end = record.find(self._delimiter, bad)
        cell = record[record.rfind(self._delimiter, 0, bad) + 1 : end if end >= 0 else None]
        after = cell.decode(errors=self._errors)[:EVIDENCE_CHARS]
        sample = {"row": row, "before": _evidence(cell), "after": after}
        self._account.count_repairs(self._repair, 1, [sample])
        return mended.encode()


def _reading_bad_bytes_as(encoding: str) -> str:
    """Return the name of a codecs error handler that does so."""

    def read_bad(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeDecodeError):
            raise error
        return error.object[error.start : error.end].decode(encoding), error.end

    name = f"etl.read-as-{encoding}"
    codecs.register_error(name, read_bad)
    return name


class _Parser:
    """Turns data into tables of text with a last column of row numbers, and sends what is no row to the account."""

    def __init__(
        self, names: Sequence[str], scanner: Scanner, mender: _Mender, options: CsvOptions, account: Account
    ) -> None:
        self.schema = pa.schema([(name, pa.string()) for name in names])
        self.next_row = 1
        self._scanner = scanner
        self._mender = mender
        self._options = options
        self._account = account

    def tables(self, chunks: Iterator[tuple[bytes, bool]]) -> Iterator[pa.Table]:
        rest = b""
        for chunk, last in chunks:
            table, rest = self._take(rest + chunk, last)
            if table.num_rows:
                yield table

    def _take(self, data: bytes, last: bool) -> tuple[pa.Table, bytes]:
        """Return the whole records of ``data``, and the bytes to put before the next chunk."""
        end = self._scanner.whole(data, last)
        if end is None or not _is_clean(data, end):
            return self._sift(data, last)
        return self._plain(memoryview(data)[:end]), data[end:]

    def _plain(self, block: memoryview) -> pa.Table:
        table, ragged = self._parse(block)
        numbers = np.arange(self.next_row, self.next_row + table.num_rows + len(ragged))
        self.next_row += len(numbers)
        return self._settled(table, numbers, ragged, [])

    def _sift(self, data: bytes, last: bool) -> tuple[pa.Table, bytes]:
        """Set aside the records that are broken, mend those that are not UTF-8, and parse all the rest at once."""
        records = self._scanner.records(data, last)
        starts, ends = records.starts, records.ends
        is_row = np.ones(len(ends), dtype=np.bool_) if len(self.schema) == 1 else ends > starts
        numbers = self.next_row + np.cumsum(is_row) - 1
        self.next_row += int(is_row.sum())
        sound: list[bytes] = []
        rejects: list[_Reject] = []
        done = 0
        for i in _suspects(data, records):
            sound.append(_closed(data[done : starts[i]]))
            rule, record = self._checked(int(numbers[i]), data[starts[i] : ends[i]], records.broken.get(i))
            if rule:
                rejects.append(_Reject(int(numbers[i]), rule, _evidence(record)))
                is_row[i] = False
            else:
                sound.append(record + b"\n")
            done = int(records.nexts[i])
        sound.append(data[done : records.stop])
        table, ragged = self._parse(b"".join(sound))
        table = self._settled(table, numbers[is_row], ragged, rejects)
        return table, self._scanner.unfinished(data, records.stop)

    def _checked(self, row: int, record: bytes, rule: str | None) -> tuple[str | None, bytes]:
        """Return the rule that a record breaks, if any, and its bytes: for evidence, or else as UTF-8."""
        if rule:
            return rule, record[: self._options.max_row_bytes]  # of a longer one the chunks decide how much is known
        if b"\0" in record:
            return _NUL, record
        mended = self._mender.utf8(row, record)
        return (self._mender.rule, record) if mended is None else (None, mended)

    def _parse(self, block: bytes | memoryview) -> tuple[pa.Table, list[_Reject]]:
        """Parse sound records in UTF-8. The rejects are the ragged ones, numbered from 0."""
        ragged: list[_Reject] = []

        def set_aside(row: arrow_csv.InvalidRow) -> Literal["skip"]:
            found = f"{row.actual_columns} field{'' if row.actual_columns == 1 else 's'}"
            rule = f"ragged: {found} instead of {row.expected_columns}"
            ragged.append(_Reject(cast(int, row.number) - 1, rule, row.text))
            return "skip"

        if not block:
            return self.schema.empty_table(), ragged
        if block[: len(codecs.BOM_UTF8)] == codecs.BOM_UTF8:
            block = codecs.BOM_UTF8 + block  # Arrow takes one off the start of any block; here it is data
        table = arrow_csv.read_csv(
            pa.BufferReader(block),  # type: ignore[arg-type]  # the stubs know only Python's files
            arrow_csv.ReadOptions(column_names=self.schema.names, use_threads=False, block_size=len(block) + 1),
            arrow_csv.ParseOptions(
                delimiter=self._options.delimiter,
                quote_char=self._options.quote or False,
                newlines_in_values=True,
                ignore_empty_lines=len(self.schema) > 1,
                invalid_row_handler=set_aside,
            ),
            arrow_csv.ConvertOptions(
                column_types=self.schema,
                null_values=list(self._options.null_words),
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                check_utf8=False,  # seen to for the whole block, which is far cheaper
            ),
        )
        return table, ragged

    def _settled(self, table: pa.Table, numbers: Offsets, ragged: list[_Reject], rejects: list[_Reject]) -> pa.Table:
        """Report the rejects in the order of the file, and add to the table the numbers that are left."""
        rejects += [reject._replace(row=int(numbers[reject.row])) for reject in ragged]
        for reject in sorted(rejects):
            self._account.reject_line(*reject)
        kept = np.delete(numbers, [reject.row for reject in ragged])
        return with_numbers(table, kept)


def _suspects(data: bytes, records: Records) -> list[int]:
    """The records that must be looked at: broken ones, and where there is a NUL or no UTF-8, any that may be why."""
    if _is_clean(data, len(data)):
        return sorted(records.broken)
    codes = np.frombuffer(data, dtype=np.uint8)
    odd = np.searchsorted(records.nexts, np.flatnonzero((codes == 0) | (codes >= 0x80)), side="right")
    return sorted(records.broken.keys() | set(odd[odd < len(records.ends)].tolist()))


def _is_clean(data: bytes, end: int) -> bool:
    """Whether the first ``end`` bytes are UTF-8 without NUL."""
    if data.find(b"\0", 0, end) >= 0:
        return False
    offsets = struct.pack("=2i", 0, end)
    text = pa.StringArray.from_buffers(1, pa.py_buffer(offsets), pa.py_buffer(data))
    try:
        text.validate(full=True)  # sees to UTF-8, many times faster than parsing does
    except pa.ArrowInvalid:
        return False
    return True


def _closed(lines: bytes) -> bytes:
    """Keep a CR that ends ``lines`` from joining with an LF that follows when what lay between is taken out."""
    return lines + b"\n" if lines.endswith(b"\r") else lines


def _evidence(record: bytes) -> str:
    return record[: 4 * EVIDENCE_CHARS].decode(errors="backslashreplace")[:EVIDENCE_CHARS]
