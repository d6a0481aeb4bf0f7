"""Turns the rows of batches into short fingerprints: equal rows always agree, different rows practically never.

A row is a list of 64-bit words in fixed places: for each column a marker (0 for null, else 1 + the bytes of a text),
then the value, filled up with zeros. A lane is the sum of ``key[place] * g(word)`` modulo 2**64 with secret random keys
and ``g(word) = byteswap(c * word)`` for a secret odd c. As g(0) = 0, it does not matter how far a text is filled up.

Why different rows differ: take a place where two given rows hold x and x', and D = g(x) - g(x'), which is not 0 as g is
one-to-one. Whatever the other places hold, the sums agree for at most 2**v of the 2**64 keys of this place, where v is
the number of zero bits that D ends with. D ends with m zero bytes only if c*x and c*x' begin with the same m bytes, and
at most 2**(1 - 8m) of all c do that. So 2**v is on average below the sum of 2**(1 - 8m) * 2**(8m + 7) for m = 0..7,
which is 2**11: a lane takes two different rows for equal with a probability below 2**-53, and without the secret nobody
can prepare rows that do worse. A key has two lanes: one mistake among 20 million keys has a probability below 2**-58.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from etl.errors import DataError
from etl.tables.arrow import as_arrow

LANES = 3
KEY_LANES = (0, 1)
CONTENT_LANE = 2

Words = NDArray[np.uint64]
Selection = slice | NDArray[np.intp]
Values: TypeAlias = "pa.Array[Any]"

_WORD = np.dtype(np.uint64)
_SWAPPED = _WORD.newbyteorder("S")
_STRETCH_BYTES = 1 << 20


class Fingerprinter:
    """Makes fingerprints with a secret of its own: those of two Fingerprinters cannot be compared.

    ``secret``: any bytes, for fingerprints that can be made again; random if not given.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        secret = secret or os.urandom(32)
        self._lanes = [_Lane(secret + bytes([number])) for number in range(LANES)]
        self._types: dict[str, pa.DataType] = {}

    def rows(self, frame: pd.DataFrame, keys: Sequence[str]) -> Words:
        """Return fingerprints of shape (3, rows): two lanes for the key columns, one for all the others.

        They depend neither on the other rows, nor on the order of the columns, nor on how Arrow has chunked the values.
        Null equals null, NaN equals NaN, 0.0 equals -0.0. Raises DataError if a column has changed its type.
        """
        lanes = np.zeros((LANES, len(frame)), _WORD)
        if frame.empty:
            return lanes
        for label, series in frame.items():
            column, values = str(label), _arrow(series)
            if values.null_count == len(values):
                continue  # nothing to add, and the type may be any
            self._check_type(column, values.type)
            for place, rows, words in _words(values):
                for lane in KEY_LANES if label in keys else (CONTENT_LANE,):
                    lanes[lane, rows] += self._lanes[lane].sums(column, place, words)
        lanes[:CONTENT_LANE] = _scrambled(lanes[:CONTENT_LANE])
        return lanes

    def _check_type(self, column: str, kind: pa.DataType) -> None:
        known = self._types.setdefault(column, kind)
        if known != kind:
            raise DataError(
                f"cannot compare the values of {column!r}: they were {known} in earlier batches and are {kind} in this "
                "one; give the column one type before looking for repeated rows"
            )


class _Lane:
    """One 64-bit sum over the words of a row, as the head of this file explains."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._multiplier = _random_words(secret + b"multiplier", 1)[0] | _WORD.type(1)
        self._keys: dict[str, Words] = {}

    def sums(self, column: str, place: int, words: Words) -> Words:
        """What the words of each row, shape (rows, n), add to its sum. The first of them stands in ``place``."""
        mixed = np.empty(words.shape, _SWAPPED)
        np.multiply(words, self._multiplier, out=mixed, casting="equiv")
        return _weighted(mixed.view(_WORD), self._keys_of(column, place, words.shape[1]))

    def _keys_of(self, column: str, place: int, count: int) -> Words:
        end = place + count
        if column not in self._keys or len(self._keys[column]) < end:
            self._keys[column] = _random_words(self._secret + b"column " + column.encode(), 1 << end.bit_length())
        return self._keys[column][place:end]


def _random_words(secret: bytes, count: int) -> Words:
    """The first words of an endless sequence that nobody without the secret can tell from a random one."""
    return np.frombuffer(hashlib.shake_256(secret).digest(8 * count), _WORD)


def _weighted(words: Words, keys: Words) -> Words:
    """``words @ keys``, which for narrow matrices is faster column by column: integers have no BLAS."""
    total: Words
    if len(keys) > 4:
        total = words @ keys
        return total
    total = words[:, 0] * keys[0]
    for place in range(1, len(keys)):
        total += words[:, place] * keys[place]
    return total


def _scrambled(sums: Words) -> Words:
    """MurmurHash3's finaliser: every bit comes to depend on all the others. It is one-to-one, so nothing collides."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        sums ^= sums >> _WORD.type(33)
        sums *= _WORD.type(factor)
    sums ^= sums >> _WORD.type(33)
    return sums


# -- from pandas to a handful of Arrow types ------------------------------------------------------------


def _arrow(series: pd.Series[Any]) -> Values:
    """The column, which has rows, as one array: text, bytes, or values of a whole number of words."""
    if series.dtype == object:
        return _described(None if null else value for value, null in zip(series, series.isna(), strict=True))
    values = as_arrow(series)
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    widened = [_widened(chunk) for chunk in chunks]
    return widened[0] if len(widened) == 1 else pa.concat_arrays(widened)


def _widened(values: Any) -> Any:
    """The same values in the widest type of their family, so that an int16 5 equals an int64 5."""
    if isinstance(values, pa.ExtensionArray):
        return _widened(values.storage)
    if pa.types.is_dictionary(values.type):
        return _widened(values.dictionary_decode())
    if pa.types.is_nested(values.type):
        return _described(values.to_pylist())
    widest = _widest(values.type)
    return values if values.type == widest else values.cast(widest)


@cache
def _widest(kind: Any) -> pa.DataType:
    types = pa.types
    if types.is_boolean(kind) or types.is_signed_integer(kind):
        return pa.int64()
    if types.is_unsigned_integer(kind):
        return pa.uint64()
    if types.is_floating(kind):
        return pa.float64()
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind) or types.is_fixed_size_binary(kind):
        return pa.binary()
    if types.is_date(kind):
        return pa.date64()
    if types.is_time32(kind):
        return pa.time64("us")
    if types.is_decimal(kind) and kind.bit_width < 128:
        return pa.decimal128(38, kind.scale)
    return kind  # type: ignore[no-any-return]


def _described(values: Iterable[Any]) -> Values:
    """Python objects as text: a str as it is, anything else by its type and repr, behind a byte that no text has."""
    return pa.array([None if value is None else _description(value) for value in values], pa.binary()).view(pa.string())


def _description(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, np.ndarray):
        value = value.tolist()  # the repr of a long array leaves out its middle
    return b"\xff" + f"{type(value).__name__} {value!r}".encode("utf-8", "surrogatepass")


# -- from Arrow to words --------------------------------------------------------------------------------


def _words(values: Values) -> Iterator[tuple[int, Selection, Words]]:
    """Yield (place, rows, words): matrices of shape (rows, n), and the place in the row of the first column of each."""
    if pa.types.is_string(values.type):
        return _words_of_text(values)
    if pa.types.is_binary(values.type):
        return _words_of_text(values.view(pa.string()))
    return _words_of_fixed_width(values)


def _words_of_fixed_width(values: Values) -> Iterator[tuple[int, Selection, Words]]:
    width = values.type.bit_width // 64
    words = _buffer(values, 1, _WORD, values.offset * width, len(values) * width).reshape(-1, width)
    if pa.types.is_floating(values.type):
        words = _one_zero_and_one_nan(words)
    valid = _valid(values)
    yield 0, slice(None), valid
    yield 1, slice(None), words * valid if values.null_count else words  # there may be anything in the place of a null


def _one_zero_and_one_nan(words: Words) -> Words:
    floats = words.view(np.float64) + 0.0
    floats[np.isnan(floats)] = np.nan
    return floats.view(_WORD)


def _words_of_text(values: Values) -> Iterator[tuple[int, Selection, Words]]:
    valid = _valid(values)
    texts = _nulls_as_empty(values, valid[:, 0] == 0)
    lengths = _lengths(texts)
    yield 0, slice(None), (lengths[:, np.newaxis].astype(_WORD) + _WORD.type(1)) * valid
    for rows, words in _filled_up(texts, lengths):
        yield 1, rows, words


def _filled_up(texts: Values, lengths: NDArray[np.int32]) -> Iterator[tuple[Selection, Words]]:
    """Yield (rows, words) of the texts, filled up with zeros: those that are much longer than most by themselves."""
    longest, usual = int(lengths.max()), 64 + 2 * int(lengths.mean())
    if longest <= usual:
        yield from _stretches(texts, -(-longest // 8))
        return
    for chosen in (lengths <= usual, lengths > usual):
        indices = np.flatnonzero(chosen)
        for rows, words in _filled_up(texts.filter(pa.array(chosen)), lengths[indices]):
            yield indices[rows], words


def _stretches(texts: Values, width: int) -> Iterator[tuple[Selection, Words]]:
    """Yield (rows, words) of texts filled up to ``width`` words, as many at a time as fit a processor's cache."""
    if width == 0:
        return
    step = max(1, _STRETCH_BYTES // (8 * width))
    for start in range(0, len(texts), step):
        some = texts.slice(start, step)
        filled = pc.ascii_rpad(some, width=8 * width, padding="\0")  # counts bytes, whatever they stand for
        words = _buffer(filled, 2, _WORD, 0, len(some) * width)
        yield slice(start, start + len(some)), words.reshape(-1, width)


def _nulls_as_empty(values: Values, null: NDArray[np.bool_]) -> Values:
    if values.null_count == 0:
        return values
    if (_lengths(values) * null).any():
        return values.fill_null("")  # rare: Arrow allows any text in the place of a null
    return pa.Array.from_buffers(values.type, len(values), [None, *values.buffers()[1:]], 0, values.offset)


def _lengths(texts: Values) -> NDArray[np.int32]:
    lengths: NDArray[np.int32] = np.diff(_buffer(texts, 1, np.dtype(np.int32), texts.offset, len(texts) + 1))
    return lengths


def _valid(values: Values) -> Words:
    """One column of words: 1 for a value, 0 for a null. Where no row has a null, one word stands for all of them."""
    if values.null_count == 0:
        return np.ones((1, 1), _WORD)
    return values.is_valid().to_numpy(zero_copy_only=False).astype(_WORD)[:, np.newaxis]


def _buffer(values: Values, number: int, kind: np.dtype[Any], start: int, count: int) -> NDArray[Any]:
    buffer: Any = values.buffers()[number]
    return np.frombuffer(buffer, kind, count, offset=start * kind.itemsize)
