"""Where the records of a CSV file begin and end: bytes in, offsets out.

A quote opens a field only at its start, closes it only at its end, and is doubled inside it. While all quotes keep to
that, the count of quotes before a line end tells whether it is data. A quote elsewhere is a plain character of an
unquoted field (``5" plate``) or a mistake, and only reading on from the start of its record tells which.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

import numpy as np

from etl.files.csv_options import CsvOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Offsets = NDArray[np.int64]

TOO_LONG = "longer than max_row_bytes"
UNBALANCED = "unbalanced quote"

_CR, _LF = b"\r\n"
_FEW = 2_000  # one quote in so many bytes, or fewer, are found faster one by one than by looking at every byte


@dataclass(frozen=True)
class Records:
    """Records that follow each other from the start of the data. Blank lines are records here.

    Record i, without its line end, stops before ``ends[i]``; the next one starts at ``nexts[i]``. ``broken``: the rule
    that a record broke, by its i; such a record is one physical line.
    """

    ends: Offsets
    nexts: Offsets
    broken: dict[int, str] = field(default_factory=dict)

    @property
    def starts(self) -> Offsets:
        return np.append(np.int64(0), self.nexts)[:-1]

    @property
    def stop(self) -> int:
        """Where the unread rest of the data starts."""
        return int(self.nexts[-1]) if len(self.nexts) else 0


class _After(Enum):
    """Where a physical line leads."""

    RECORD = auto()  # the record ends with the line
    QUOTED = auto()  # a quoted field goes on in the next line
    BROKEN = auto()  # text follows a closing quote


class Scanner:
    """Finds the records of data that starts with one. ``last``: no more data follows, and it ends with a newline."""

    def __init__(self, options: CsvOptions) -> None:
        self._delimiter = options.delimiter.encode()
        self._quote = options.quote.encode()
        self._limit = options.max_row_bytes
        self._unfinished_limit = options.max_row_bytes + len(b"\r")
        self._edges = np.zeros(256, dtype=np.bool_)
        self._edges[list(self._delimiter + self._quote + b"\r\n")] = True

    def whole(self, data: bytes, last: bool) -> int | None:
        """Return where the last whole record ends, 0 if there is none yet; None if a record may be broken."""
        quotes = self._quotes(data)
        if not self._all_in_place(data, quotes):
            return None
        fields = _without_doubled(quotes)
        stop = len(data) - data.endswith(b"\r")  # that CR may be half of a CRLF
        end = _last_newline(data, fields, 0, stop) + 1
        unfinished = len(data) - end
        if unfinished and (last or unfinished > self._unfinished_limit):
            return None
        return end if self._none_too_long(data, fields, end) else None

    def records(self, data: bytes, last: bool) -> Records:
        """Return all the records of ``data`` save the last, if that is unfinished and may still turn out well."""
        quotes = self._quotes(data)
        end = self.whole(data, last)
        if end is None:
            return self._walk(data, last, quotes)
        lines = _physical_lines(data[:end], last=True)
        outside = np.searchsorted(quotes, lines.ends) % 2 == 0
        return _joined(lines, outside, {})

    def unfinished(self, data: bytes, start: int) -> bytes:
        """Return ``data[start:]``, an unfinished record; of a line that is too long already, just enough to know."""
        if len(data) - start <= self._unfinished_limit:
            return data[start:]
        return data[start : start + self._unfinished_limit] + data[-1:]

    def after(self, line: bytes, *, quoted: bool) -> _After:
        """Return where ``line`` leads, if it starts inside a quoted field or else with a record."""
        if self._quote not in line:
            return _After.QUOTED if quoted else _After.RECORD
        line = line if quoted else self._delimiter + line
        at = 0
        while True:
            if not quoted:
                at = line.find(self._delimiter + self._quote, at) + 2
                if at == 1:
                    return _After.RECORD
            at = line.find(self._quote, at)
            if at < 0:
                return _After.QUOTED
            follower = line[at + 1 : at + 2]
            quoted = follower == self._quote
            if not quoted and follower not in (b"", self._delimiter):
                return _After.BROKEN
            at += 2 if quoted else 1

    def _quotes(self, data: bytes) -> Offsets:
        places: list[int] = []
        at = data.find(self._quote) if self._quote else -1
        while at >= 0:
            places.append(at)
            if len(places) > len(data) // _FEW:
                return np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == self._quote[0])
            at = data.find(self._quote, at + 1)
        return np.array(places, dtype=np.int64)

    def _all_in_place(self, data: bytes, quotes: Offsets) -> bool:
        """Whether every other quote opens a field and the rest close one; a doubled quote closes and opens again."""
        codes = np.frombuffer(data, dtype=np.uint8)
        before, behind = quotes[0::2] - 1, quotes[1::2] + 1
        before, behind = before[before >= 0], behind[behind < len(data)]
        return bool(self._edges[codes[before]].all() and self._edges[codes[behind]].all())

    def _none_too_long(self, data: bytes, fields: Offsets, end: int) -> bool:
        """Whether a record ends in, or right behind, every stretch of ``max_row_bytes`` bytes."""
        start = 0
        while start < end:
            newline = _last_newline(data, fields, start, min(start + self._limit + 1, end))
            if newline < 0:
                return False
            start = newline + 1
        return True

    def _walk(self, data: bytes, last: bool, quotes: Offsets) -> Records:
        """Join physical lines to records by reading those that are not obviously a whole record."""
        lines = _physical_lines(data, last)
        starts, ends = lines.starts, lines.ends
        quotes = quotes[quotes < lines.stop]
        quote_lines = np.searchsorted(lines.nexts, quotes, side="right")
        suspects = np.union1d(
            np.flatnonzero(ends - starts > self._limit), self._not_one_record(data, quotes, quote_lines)
        )
        open_field = _OpenField(self, data, lines, np.unique(quote_lines).tolist())
        ends_record = np.ones(len(ends), dtype=np.bool_)
        broken: dict[int, str] = {}
        done = 0
        for line in suspects.tolist():
            start = starts[line]
            if line < done:
                continue
            if ends[line] - start > self._limit:
                broken[line] = TOO_LONG
                continue
            final, after = line, self.after(data[start : ends[line]], quoted=False)
            if after is _After.QUOTED:
                final, after = open_field.end(line + 1)
            if after is _After.QUOTED and not last and len(data) - start <= self._unfinished_limit:
                return _joined(lines, ends_record[:line], broken)
            if after is _After.RECORD and ends[final] - start <= self._limit:
                ends_record[line:final] = False
                done = final + 1
            else:
                broken[line] = UNBALANCED
        return _joined(lines, ends_record, broken)

    def _not_one_record(self, data: bytes, quotes: Offsets, quote_lines: Offsets) -> Offsets:
        """Return the lines whose quotes are not all in place, or odd in number, if each line is taken for a record."""
        _, firsts, counts = np.unique(quote_lines, return_index=True, return_counts=True)
        closes = (np.arange(len(quotes)) - np.repeat(firsts, counts)) % 2 == 1
        neighbours = np.frombuffer(data, dtype=np.uint8)[quotes + np.where(closes, 1, -1)]
        in_place = self._edges[neighbours]  # before the first byte of all this sees the last, at worst a false alarm
        return np.union1d(quote_lines[~in_place], quote_lines[firsts[counts % 2 == 1]])


class _OpenField:
    """Finds where a record ends that is inside a quoted field at the start of a line."""

    def __init__(self, scanner: Scanner, data: bytes, lines: Records, lines_with_quote: list[int]) -> None:
        self._scanner = scanner
        self._data = data
        self._starts, self._ends = lines.starts, lines.ends
        self._lines_with_quote = lines_with_quote
        self._seen = -1
        self._after = _After.QUOTED

    def end(self, line: int) -> tuple[int, _After]:
        """Return the first line from ``line`` on that does not leave the field open, and where it leads; else QUOTED.

        ``line`` must not decrease from call to call. The lines passed on the way all leave the field open, so they have
        the same answer. Reading them again would take a time that is quadratic in the size of a malicious file.
        """
        if line > self._seen:
            self._seen, self._after = self._read_on(line)
        return self._seen, self._after

    def _read_on(self, line: int) -> tuple[int, _After]:
        for i in range(bisect_left(self._lines_with_quote, line), len(self._lines_with_quote)):
            at = self._lines_with_quote[i]
            after = self._scanner.after(self._data[self._starts[at] : self._ends[at]], quoted=True)
            if after is not _After.QUOTED:
                return at, after
        return len(self._ends), _After.QUOTED


def _physical_lines(data: bytes, last: bool) -> Records:
    codes = np.frombuffer(data, dtype=np.uint8)
    newlines = np.flatnonzero((codes == _LF) | (codes == _CR))
    if data.endswith(b"\r") and not last:
        newlines = newlines[:-1]
    crlf = (codes[newlines[:-1]] == _CR) & (codes[newlines[1:]] == _LF) & (np.diff(newlines) == 1)
    begins_newline, ends_newline = np.ones((2, len(newlines)), dtype=np.bool_)
    begins_newline[1:] = ends_newline[:-1] = ~crlf
    return Records(newlines[begins_newline], newlines[ends_newline] + 1)


def _joined(lines: Records, ends_record: NDArray[np.bool_], broken: dict[int, str]) -> Records:
    """Join the first ``len(ends_record)`` lines to records; ``broken`` is given by line."""
    finals = np.flatnonzero(ends_record)
    records = np.searchsorted(finals, list(broken)).tolist()
    return Records(lines.ends[finals], lines.nexts[finals], dict(zip(records, broken.values(), strict=True)))


def _without_doubled(quotes: Offsets) -> Offsets:
    """Return those of ``quotes``, which are all in place, that open and close fields, by turns."""
    bounds = np.ones(len(quotes), dtype=np.bool_)
    bounds[1:-1:2] = bounds[2::2] = quotes[1:-1:2] + 1 < quotes[2::2]
    return quotes[bounds]


def _last_newline(data: bytes, fields: Offsets, start: int, stop: int) -> int:
    """Return the position of the last CR or LF in ``data[start:stop]``, but not in a quoted field; -1 if none."""
    count = int(np.searchsorted(fields, stop))
    if count % 2:
        count -= 1
        stop = int(fields[count])
    while True:
        gap = max(start, int(fields[count - 1])) if count else start
        found = data.rfind(b"\n", gap, stop)
        found = max(found, data.rfind(b"\r", max(gap, found), stop))
        if found >= 0 or gap == start:
            return found
        count -= 2
        stop = int(fields[count])
