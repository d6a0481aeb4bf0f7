"""Finds repeated keys in a stream of batches: exact for the whole stream, in memory that does not grow with it.

The rows seen lately are in a hash table in memory. When it is full, its rows are written to disk and it begins anew. A
Bloom filter in memory knows which keys can be on disk: for nearly every new key it says no, and nothing is read.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from etl.errors import ConfigError
from etl.tables.fingerprints import CONTENT_LANE, LANES, Fingerprinter

MEMORY_BUDGET = 64 << 20

Words = NDArray[np.uint64]
Rows = Words  # fingerprints, shape (3, n): two words for the key, one for the content
Mask = NDArray[np.bool_]
Places = NDArray[np.intp]
Numbers = NDArray[np.int32]
Found = tuple[Mask, Words]  # for each row: did its key come before, and with which content

_ROW_BYTES = 8 * LANES
_FREE = np.iinfo(np.int32).max
_ROWS_AT_ONCE = 1 << 16
_BLOCK_ROWS = 1 << 6
_READS_AT_ONCE = 1 << 10


class KeyIndex:
    """Remembers the first row of every key. For one thread at a time.

    ``memory_budget``: bytes to keep, beside some 15 MB to work with. Of the default, one half holds a million keys; the
    rest goes to disk, 24 bytes each, and the other half keeps it fast up to some 20 million.
    ``folder``: where to write, if not in the system's folder for temporary files. The file has no name there, so it is
    gone once the index is closed, forgotten or killed.
    """

    def __init__(self, *, memory_budget: int = MEMORY_BUDGET, folder: Path | None = None) -> None:
        self._fingerprinter = Fingerprinter()
        self._recent = _Table(memory_budget // 2)
        self._older = _TablesOnDisk(memory_budget // 2, folder)

    def check(self, frame: pd.DataFrame, keys: Sequence[str]) -> tuple[Mask, Mask]:
        """Return two masks over the rows of ``frame``: repeats and conflicts. Every other row is the first of its key.

        A repeat equals the first row with its key in all columns; a conflict does not. Null is a value like any other.
        ``keys``: at least one column, the same for every batch.
        Raises ConfigError if one is missing, DataError if a column has changed its type, OSError if the disk fails.
        """
        missing = [key for key in keys if key not in frame.columns]
        if missing:
            columns = ", ".join(map(str, frame.columns))
            raise ConfigError(f"cannot find repeated rows by {', '.join(missing)}: the columns are {columns}")
        rows = self._fingerprinter.rows(frame, keys)
        seen, content = _nothing_found(len(frame))
        for part in _parts(len(frame), min(_ROWS_AT_ONCE, self._recent.capacity // 4)):
            seen[part], content[part] = self._find_or_add(rows[:, part])
        same = content == rows[CONTENT_LANE]
        return seen & same, seen & ~same

    def close(self) -> None:
        """Give the disk space back. The index cannot be used after this."""
        self._older.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _find_or_add(self, rows: Rows) -> Found:
        if not self._recent.has_room_for(rows.shape[1]):
            self._older.store(self._recent)
            self._recent.clear()
        seen, content = self._older.find(rows)
        unseen = np.flatnonzero(~seen)
        seen[unseen], content[unseen] = self._recent.find_or_add(rows.take(unseen, axis=1))
        return seen, content


class _Table:
    """A hash table of rows in memory: a key is in the slot that it points at, or in the first free one after that.

    A slot holds the number of its row, and the rows stand in order of arrival: 4 bytes a slot and 24 a row. It is full
    when half the slots are taken: more would make the way to a free one long, and save little.
    """

    def __init__(self, memory: int) -> None:
        self.capacity = max(64, memory // (2 * 4 + _ROW_BYTES))
        self._row_in: Numbers = np.full(2 * self.capacity, _FREE, np.int32)
        self._rows: Rows = np.empty((LANES, self.capacity), np.uint64)
        self._count = 0

    def has_room_for(self, count: int) -> bool:
        return self._count + count <= self.capacity

    def clear(self) -> None:
        self._row_in.fill(_FREE)
        self._count = 0

    def find_or_add(self, rows: Rows) -> Found:
        """Look up the keys, and add those that are new. Among equal keys in ``rows``, the first is new."""
        end = self._count + rows.shape[1]
        self._rows[:, self._count : end] = rows
        numbers = np.arange(self._count, end, dtype=np.int32)
        slots, holders = self._settle(_places(rows, len(self._row_in)), numbers)
        content = self._rows[CONTENT_LANE].take(holders)
        new = holders == numbers
        self._keep(rows.compress(new, axis=1), slots[new])
        return ~new, content

    def _settle(self, slots: Places, numbers: Numbers) -> tuple[Places, Numbers]:
        """Find the slot of each row, from the one it points at, and the row that holds it: the first one of this key.

        All rows look at one slot each; those that meet another key there look at the next slot, and so on. Rows with
        the same key always look at the same slot, so the first of them comes to hold it.
        """
        slots, holders = slots.copy(), numbers.copy()
        at, mine = slots, numbers
        while len(mine):
            free = np.flatnonzero(self._row_in.take(at) == _FREE)
            np.minimum.at(self._row_in, at.take(free), mine.take(free))
            held_by = self._row_in.take(at)
            taken = np.flatnonzero(held_by != mine)
            at, mine, held_by = at.take(taken), mine.take(taken), held_by.take(taken)
            same = _same_keys(self._rows, mine, held_by)
            holders[mine[same] - numbers[0]] = held_by[same]
            at, mine = (at[~same] + 1) % len(self._row_in), mine[~same]
            slots[mine - numbers[0]] = at
        return slots, holders

    def _keep(self, rows: Rows, slots: Places) -> None:
        """Number the new rows without the gaps that repeats would leave."""
        end = self._count + rows.shape[1]
        self._rows[:, self._count : end] = rows
        self._row_in[slots] = np.arange(self._count, end, dtype=np.int32)
        self._count = end

    def in_order(self) -> Iterator[Rows]:
        """Yield the rows in the order of the first word of their keys, many at a time."""
        order = np.argsort(self._rows[0, : self._count])
        for part in _parts(self._count, _ROWS_AT_ONCE):
            yield self._rows.take(order[part], axis=1)


class _TablesOnDisk:
    """Full tables, one after the other in a file, behind a Bloom filter. No key is in two of them.

    The rows of a table stand in the order of their keys. The first key of each block of them is kept in memory, at 1/8
    byte a row, so that looking for a key takes one read.
    """

    def __init__(self, memory: int, folder: Path | None) -> None:
        self._memory = memory
        self._folder = folder or Path(tempfile.gettempdir())
        self._tables: list[_StoredTable] = []

    def store(self, table: _Table) -> None:
        """Write the rows of the table. Raises OSError, with the folder, if the disk is full."""
        if not self._tables:
            self._open()
        start, first_words = self._file.tell(), []
        for rows in table.in_order():
            self._write(np.ascontiguousarray(rows.T))
            self._filter.add(rows)
            first_words.append(rows[0, ::_BLOCK_ROWS].copy())
        self._tables.append(_StoredTable(start, self._file.tell(), np.concatenate(first_words)))

    def find(self, rows: Rows) -> Found:
        """Look up the keys."""
        seen, content = _nothing_found(rows.shape[1])
        if self._tables:
            candidates = np.flatnonzero(self._filter.may_have(rows))
            keys, which = _distinct(rows.take(candidates, axis=1))
            found, contents = self._look_up(keys)
            seen[candidates], content[candidates] = found[which], contents[which]
        return seen, content

    def close(self) -> None:
        if self._tables:
            self._file.close()

    def _open(self) -> None:
        self._filter = _BloomFilter(self._memory)
        self._file = tempfile.TemporaryFile(buffering=0, dir=self._folder)  # noqa: SIM115  (lives as long as the index)
        weakref.finalize(self, self._file.close)

    def _write(self, rows: Words) -> None:
        unwritten = rows.data.cast("B")
        try:
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._folder)) from error

    def _look_up(self, keys: Rows) -> Found:
        found, content = _nothing_found(keys.shape[1])
        for part in _parts(keys.shape[1], _READS_AT_ONCE):
            for table in reversed(self._tables):
                missing = part.start + np.flatnonzero(~found[part])
                found[missing], content[missing] = table.find(keys.take(missing, axis=1), self._file.fileno())
        return found, content


class _StoredTable(NamedTuple):
    """Where the rows of one table are in the file, and the first word of each of its blocks of rows."""

    start: int
    end: int
    first_words: Words

    def find(self, keys: Rows, file: int) -> Found:
        """Look up the keys, in as many blocks as may hold their first word: one, or seldom two."""
        found, content = _nothing_found(keys.shape[1])
        first = np.maximum(np.searchsorted(self.first_words, keys[0], side="left") - 1, 0)
        after = np.searchsorted(self.first_words, keys[0], side="right")
        rows, which = self._read(file, first, after)
        hit = np.flatnonzero((rows[0] == keys[0, which]) & (rows[1] == keys[1, which]))
        found[which[hit]], content[which[hit]] = True, rows[CONTENT_LANE, hit]
        return found, content

    def _read(self, file: int, first: Places, after: Places) -> tuple[Rows, Places]:
        """The rows of all the stretches of blocks, and which stretch each is from."""
        starts, ends = (self.start + blocks * (_BLOCK_ROWS * _ROW_BYTES) for blocks in (first, after))
        sizes = np.minimum(ends, self.end) - starts
        reads = zip(sizes.tolist(), starts.tolist(), strict=True)
        data = b"".join([os.pread(file, size, start) for size, start in reads])
        which = np.repeat(np.arange(len(sizes)), sizes // _ROW_BYTES)
        return np.frombuffer(data, np.uint64).reshape(-1, LANES).T, which


class _BloomFilter:
    """Says of a key that it was added, if it was, and seldom if it was not: about 1 % at 13 bits a key.

    A key sets three bits, all in one word: one look tells.
    """

    def __init__(self, memory: int) -> None:
        self._words: Words = np.zeros(max(1, memory // 8), np.uint64)

    def add(self, rows: Rows) -> None:
        at, bits = _places(rows, len(self._words)), self._bits(rows)
        while len(at):
            self._words[at] |= bits
            overwritten = self._words[at] & bits != bits  # by another key of the same word
            at, bits = at[overwritten], bits[overwritten]

    def may_have(self, rows: Rows) -> Mask:
        bits = self._bits(rows)
        all_set: Mask = self._words[_places(rows, len(self._words))] & bits == bits
        return all_set

    @staticmethod
    def _bits(rows: Rows) -> Words:
        bits = np.zeros(rows.shape[1], np.uint64)
        for shift in (46, 52, 58):
            bits |= np.uint64(1) << (rows[1] >> np.uint64(shift) & np.uint64(63))
        return bits


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _nothing_found(count: int) -> Found:
    return np.zeros(count, bool), np.zeros(count, np.uint64)


def _places(rows: Rows, count: int) -> Places:
    """The one of ``count`` places that each key points at, in proportion to its first 32 bits."""
    places: Places = (((rows[0] >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)).astype(np.intp)
    return places


def _same_keys(rows: Rows, some: NDArray[Any], others: NDArray[Any]) -> Mask:
    same: Mask = rows[0].take(some) == rows[0].take(others)
    if same.any():
        same &= rows[1].take(some) == rows[1].take(others)
    return same


def _distinct(rows: Rows) -> tuple[Rows, Places]:
    """The distinct keys in ascending order, and which of them each row has. A few may come more than once."""
    order = np.argsort(rows[0])
    new = np.ones(len(order), bool)
    new[1:] = ~_same_keys(rows, order[1:], order[:-1])
    which = np.empty(len(order), np.intp)
    which[order] = np.cumsum(new) - 1
    return rows.take(order[new], axis=1), which
