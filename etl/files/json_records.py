"""Takes JSON apart into records, one after the other: JSON lines, and arrays too long to be loaded whole."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from math import inf
from typing import Any, NamedTuple, NoReturn

from etl.errors import DataError
from etl.files.places import Reader

_CHUNK_BYTES = 1 << 20
_SPACE = " \t\n\r"
_SAFE_DIGITS = 15  # a float holds any number of so many, and gives it back


class Record(NamedTuple):
    """One record of a source. ``number``: from 1. ``document`` is None if ``problem`` says why there is none.

    ``raw``: its text; of one that came as something else, nothing, and ``size`` is what it took there, in bytes.
    """

    number: int
    raw: str
    document: dict[str, Any] | None
    problem: str = ""
    size: int = 0


def json_lines(stream: Reader, max_bytes: int) -> Iterator[Record]:
    """Yield the record of each line that is not blank. A line that is no JSON object is a record with a problem."""
    lines = filter(None, map(bytes.strip, _lines(stream, max_bytes)))
    for number, line in enumerate(lines, start=1):
        yield _parsed_line(number, line, max_bytes)


def json_array(stream: Reader, max_bytes: int, source: str) -> Iterator[Record]:
    """Yield the record of each element of an array that is the whole stream; at most one of them is in memory.

    Raises DataError, naming ``source`` and the record, for what is not such an array: nothing after it can be found.
    """
    text = _Text(stream, max_bytes, source)
    if not text.skip("["):
        found = text.next_character()
        hint = '; if each line is an object, set format = "jsonl"' if found == "{" else ""
        text.fail(f"is not a JSON array: it begins with {found!r}{hint}")
    if not text.skip("]"):
        yield text.element()
        while text.skip(","):
            yield text.element()
        if not text.skip("]"):
            text.fail(f"there should be a comma after record {text.number:,}, not {text.next_character()!r}")
    if found := text.next_character():
        text.fail(f"something follows the array: {found!r}")


def json_document(text: str) -> tuple[Any, bool]:
    """The value of a whole JSON text, and whether ``problem_within`` finds something in it.

    Raises ValueError or RecursionError if it is no JSON.
    """
    try:
        return _STRICT.decode(text), False
    except _TwiceError:
        return _MARKING.decode(text), True


def problem_within(value: Any, apart_from: Any = None) -> str:
    """Why nobody can tell what this part of a document means: an object in it names a field twice. Empty if none."""
    if isinstance(value, _Twice):
        return value.problem
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, (problem_within(child, apart_from) for child in children if child is not apart_from)), "")


def _lines(stream: Reader, max_bytes: int) -> Iterator[bytes]:
    """Yield lines without their ends; of one that is too long, a little more than ``max_bytes``."""
    rest = b""
    too_long = False  # what of it was read is kept in ``rest``, cut
    first = True
    while chunk := stream.read(_CHUNK_BYTES):
        if first:
            chunk = chunk.removeprefix(codecs.BOM_UTF8)
            first = False
        head, *lines = chunk.split(b"\n")
        if not too_long:
            rest += head
        if lines:
            yield rest
            yield from lines[:-1]
            rest, too_long = lines[-1], False
        if len(rest) > max_bytes:
            rest, too_long = rest[: max_bytes + 1], True
    if rest:
        yield rest


class _Text:
    """The text of a JSON array, of which only the part that is being read is held. ``number``: of the last element."""

    def __init__(self, stream: Reader, max_bytes: int, source: str) -> None:
        self.number = 0
        self._stream = stream
        self._max_bytes = max_bytes
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._ended = False

    def skip(self, character: str) -> bool:
        """Go over the next character that is not white space, if it is this one."""
        if self.next_character() != character:
            return False
        self._at += 1
        return True

    def element(self) -> Record:
        """Parse the next element; what is not there yet is read, in ever larger pieces."""
        self.next_character()
        self.number += 1
        while True:
            try:
                record, end = _parsed(self.number, self._text, self._at)
            except (ValueError, RecursionError) as error:
                problem = error
            else:
                # A number at the very end of what was read may go on behind it.
                if end < len(self._text) or self._ended:
                    self._at = end
                    return record
                problem = ValueError("it does not end")
            if self._ended or len(self._text) - self._at > self._max_bytes:
                self._fail_at_element(problem)
            self._fill(max(_CHUNK_BYTES, len(self._text) - self._at))

    def next_character(self) -> str:
        """The next character that is not white space, without going over it; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._fill(_CHUNK_BYTES)

    def _fill(self, size: int) -> None:
        data = self._stream.read(size)
        self._ended = not data
        try:
            more = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            self.fail(f"after record {max(self.number - 1, 0):,} it is not UTF-8: {error.reason}")
        self._text = self._text[self._at :] + more
        self._at = 0

    def _fail_at_element(self, problem: Exception) -> NoReturn:
        longer = f"is no JSON, or longer than max_record_bytes = {self._max_bytes:,}"
        reason = "is cut short or no JSON" if self._ended else longer
        message = problem.msg if isinstance(problem, json.JSONDecodeError) else str(problem)
        shown = self._text[self._at : self._at + 60]
        self.fail(f"record {self.number:,} {reason}: {message}; it begins with {shown!r}")

    def fail(self, message: str) -> NoReturn:
        raise DataError(f"{self._source}: {message}")


class _TwiceError(ValueError):
    """An object names a field twice; which value is meant nobody can tell."""


class _Twice(dict[str, Any]):
    """An object that does so, as a part of a document whose other parts are in order."""

    problem = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _TwiceError(f"names {next(name for name, count in counts.items() if count > 1)!r} twice")
    return found


def _marked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    try:
        return _object(pairs)
    except _TwiceError as error:
        found = _Twice(pairs)
        found.problem = str(error)
        return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _fraction(text: str) -> float | Decimal:
    """A float, or a Decimal if a float would lose digits."""
    number = float(text)
    if (len(text) <= _SAFE_DIGITS and "e" not in text.lower()) or repr(number) == text:
        return number
    try:
        exact = Decimal(text)
    except InvalidOperation:  # its exponent has more than 18 digits: no type can hold it, as none can hold infinity
        return inf
    return number if Decimal(repr(number)) == exact else exact


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_fraction)
_MARKING = json.JSONDecoder(object_pairs_hook=_marked_object, parse_constant=_no_constant, parse_float=_fraction)
_LENIENT = json.JSONDecoder()


def _parsed(number: int, text: str, start: int = 0) -> tuple[Record, int]:
    """The record that begins at ``start``, and where it ends. Raises ValueError or RecursionError if it is no JSON."""
    try:
        value, end = _STRICT.raw_decode(text, start)
    except _TwiceError as error:
        _, end = _LENIENT.raw_decode(text, start)
        return Record(number, text[start:end], None, str(error)), end
    if isinstance(value, dict):
        return Record(number, text[start:end], value), end
    return Record(number, text[start:end], None, "not a JSON object"), end


def _parsed_line(number: int, line: bytes, max_bytes: int) -> Record:
    if len(line) > max_bytes:
        raw = line[:max_bytes].decode("utf-8", "replace")
        return Record(number, raw, None, f"longer than max_record_bytes = {max_bytes:,}")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return Record(number, line.decode("utf-8", "backslashreplace"), None, "not UTF-8")
    try:
        record, end = _parsed(number, text)
    except RecursionError:
        return Record(number, text, None, "nested too deeply")
    except ValueError as error:
        return Record(number, text, None, f"not JSON: {getattr(error, 'msg', error)}")
    return record if end == len(text) else Record(number, text, None, "not JSON: Extra data")
