"""Cleaning of text columns, fast where there is nothing to clean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from etl.tables.arrow import Values, array_of, pc, series_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas import Series

    Bytes = NDArray[np.uint8]

TEXT = pd.ArrowDtype(pa.string())
# White space beyond ASCII: next line, no-break, ogham, en quad to hair space, separators, narrow, medium, ideographic.
_WIDE_SPACES = "\x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
_WIDE_CODES = np.array([int.from_bytes(space.encode().ljust(3, b"\0"), "big") for space in _WIDE_SPACES])
_FIRST_BYTES = np.isin(np.arange(256), _WIDE_CODES >> 16)
_LEAST_FIRST_BYTE = 0xC2
_THREE_BYTES = 0xE0  # what a character of so many bytes begins with, or more
_BLANK, _CASE_BIT, _LAST_ASCII = 0x20, 0x20, 0x7F
_RUN_OF_SPACES = r"[\s\v\x{85}\p{Z}]+"
_ODD_SPACES = r"  |[\t\n\v\f\r\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]"


def clean_text(values: Series[Any]) -> Series[Any]:
    """Trim, make each inner run of white space one blank, make empty text null.

    Arrow-backed strings out: ``values`` itself where that is what it is and there was nothing to clean.
    """
    text = array_of(values)
    cleaned = without_empty(tidied(text))
    return values if cleaned is text and values.dtype == TEXT else series_of(cleaned, values)


def tidied(values: Values, *, ends: bool = True, runs: bool = True) -> Values:
    """Without white space at the ends, and with one blank for each run of white space."""
    data = _bytes(values)
    if data.min(initial=_LAST_ASCII) > _BLANK and _is_ascii(data):
        return values
    if ends and _may_have_outer_spaces(values):
        values = pc.utf8_trim_whitespace(values)
    if runs and _may_have_odd_spaces(_bytes(values)):
        odd = pc.fill_null(pc.match_substring_regex(values, _ODD_SPACES), False)
        tidy = pc.replace_substring_regex(values.filter(odd), pattern=_RUN_OF_SPACES, replacement=" ")
        values = pc.replace_with_mask(values, odd, tidy)
    return values


def without_empty(values: Values) -> Values:
    """With null for empty text."""
    offsets = _offsets(values)
    empty: Values = pa.array(offsets[1:] == offsets[:-1])  # many times faster than comparing texts
    return without(values, pc.and_(empty, values.is_valid()) if values.null_count else empty)


def without_words(values: Values, words: tuple[str, ...]) -> Values:
    """With null for each text that is one of ``words``."""
    return without(values, pc.is_in(values, value_set=pa.array(words, pa.string())))


def without(values: Values, mask: Values) -> Values:
    """With null where ``mask`` is true."""
    return pc.if_else(mask, None, values) if pc.any(mask).as_py() else values


def normalised(values: Values, form: str) -> Values:
    """With one way of writing each character: Unicode normalisation ``form``."""
    return values if _is_ascii(_bytes(values)) else pc.utf8_normalize(values, form=form)


def has_letter(values: Values, letter: str) -> bool:
    """Whether some text holds this lower-case letter of ASCII, in either case."""
    return bool((_bytes(values) | _CASE_BIT == ord(letter)).any())


# -- quick looks at the bytes of a whole column, for what is rarely there --------------------------------


def _bytes(values: Values) -> Bytes:
    """The UTF-8 bytes of a string column, its texts one after the other."""
    offsets, data = _offsets(values), values.buffers()[2]
    return np.frombuffer(data or b"", np.uint8)[offsets[0] : offsets[-1]]


def _offsets(values: Values) -> NDArray[np.int32]:
    """Where each text begins in the buffer of bytes, and where the last one ends."""
    buffer = values.buffers()[1]
    if buffer is None:
        return np.zeros(1, np.int32)
    return np.frombuffer(buffer, np.int32, len(values) + 1, offset=4 * values.offset)


def _may_have_outer_spaces(values: Values) -> bool:
    """Whether a text may begin or end with white space. The ends of an empty text are looked for in its neighbours."""
    data = _bytes(values)
    if not len(data):
        return False
    starts = _offsets(values).astype(np.intp)
    starts -= starts[0]
    outer = np.stack((data.take(starts, mode="clip"), data.take(starts - 1, mode="clip")))  # each start, and each end
    return bool(outer.min() <= _BLANK) or (not _is_ascii(outer) and _has_wide_spaces(data))


def _may_have_odd_spaces(data: Bytes) -> bool:
    """Whether there may be white space other than single blanks; a false alarm where two texts lie side by side."""
    least = data.min(initial=_LAST_ASCII)  # the least and the greatest byte are found faster than bytes are compared
    if least < _BLANK:
        return True
    if least == _BLANK:
        blanks = data == _BLANK
        if (blanks[1:] & blanks[:-1]).any():
            return True
    return not _is_ascii(data) and _has_wide_spaces(data)


def _is_ascii(data: Bytes) -> bool:
    return bool(data.max(initial=0) <= _LAST_ASCII)


def _has_wide_spaces(data: Bytes) -> bool:
    at = np.flatnonzero(data >= _LEAST_FIRST_BYTE)
    at = at[_FIRST_BYTES[data[at]]]
    first, second, third = (data.take(at + n, mode="clip").astype(np.int32) for n in range(3))
    codes = first << 16 | second << 8 | np.where(first < _THREE_BYTES, 0, third)
    return bool(np.isin(codes, _WIDE_CODES).any())
