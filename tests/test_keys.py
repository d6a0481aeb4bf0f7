"""Repeated keys: the same answers as a plain dict, for any values, types, batches, order and memory."""

from __future__ import annotations

import datetime as dt
import random
import resource
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pandas import DataFrame, Series

from etl.errors import ConfigError, DataError
from etl.tables.fingerprints import CONTENT_LANE, KEY_LANES, Fingerprinter
from etl.tables.keys import KeyIndex
from tests.conftest import PROJECT

TINY = 1  # byte: the smallest index, which holds 64 keys in memory
SECRET = b"of the tests"

Row = tuple[Any, ...]
Types = dict[str, pa.DataType]


def frame(rows: Iterable[Row], types: Types) -> DataFrame:
    columns = zip(*rows, strict=True) if (rows := list(rows)) else ([] for _ in types)
    arrays = (pa.array(values, kind) for values, kind in zip(columns, types.values(), strict=True))
    return DataFrame({name: of_arrow(array) for name, array in zip(types, arrays, strict=True)})


def of_arrow(values: Any) -> Series[Any]:
    chunks = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    return Series(pd.arrays.ArrowExtensionArray(chunks))


def expected(rows: Iterable[Row], keys: int) -> list[str]:
    """What a dict says: the first ``keys`` values of a row are its key."""
    first: dict[Row, Row] = {}
    return [
        "new" if row is (known := first.setdefault(row[:keys], row)) else "repeat" if row == known else "conflict"
        for row in rows
    ]


def answers(batches: Iterable[DataFrame], keys: list[str], memory_budget: int, folder: Path | None = None) -> list[str]:
    with KeyIndex(memory_budget=memory_budget, folder=folder) as index:
        return [answer for batch in batches for answer in named(index.check(batch, keys))]


def named(masks: tuple[NDArray[np.bool_], NDArray[np.bool_]]) -> list[str]:
    repeats, conflicts = masks
    assert not (repeats & conflicts).any()
    return ["repeat" if repeat else "conflict" if conflict else "new" for repeat, conflict in zip(*masks, strict=True)]


def cut(table: DataFrame, sizes: Iterable[int]) -> Iterator[DataFrame]:
    """The table in batches of these sizes, over and over."""
    start = 0
    sizes = list(sizes)
    while start < len(table):
        for size in sizes:
            yield table.iloc[start : start + size]
            start += size


# -- the rule ----------------------------------------------------------------------------------------------

TYPES: Types = {"a": pa.string(), "b": pa.string(), "c": pa.int32(), "d": pa.string()}
few_texts = st.sampled_from([None, "", "a", "b", "ab", "a\0", "\0", "ä", "𝄞", "x" * 200])
few_rows = st.lists(st.tuples(few_texts, few_texts, st.sampled_from([None, 0, 1, -1]), few_texts), max_size=60)
many_keys = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 1)), min_size=100, max_size=600)
batch_sizes = st.lists(st.integers(1, 200), min_size=1, max_size=3)


@given(rows=few_rows, sizes=batch_sizes, memory_budget=st.sampled_from([TINY, 1 << 20]))
def test_answers_are_those_of_a_dict(rows: list[Row], sizes: list[int], memory_budget: int) -> None:
    table = frame(rows, TYPES)

    assert answers(cut(table, sizes), ["a", "b"], memory_budget) == expected(rows, keys=2)


@settings(max_examples=20)
@given(numbers=many_keys, sizes=batch_sizes, memory_budget=st.sampled_from([TINY, 4096, 1 << 20]))
def test_answers_do_not_depend_on_batches_or_memory(
    numbers: list[tuple[int, int]], sizes: list[int], memory_budget: int
) -> None:
    rows = [(f"{key}-1", content) for key, content in numbers]
    table = frame(rows, {"key": pa.string(), "content": pa.int8()})

    assert answers(cut(table, sizes), ["key"], memory_budget) == expected(rows, keys=1)


@pytest.mark.parametrize("memory_budget", [TINY, 64 << 10])
@pytest.mark.parametrize(
    "keys",
    [
        ["the same"] * 3000,
        [f"{number:08}" for number in range(3000)],
        [f"{number:08}" for number in reversed(range(3000))] * 2,
        ["hot" if number % 2 else f"{number}" for number in range(6000)],
        ["x" * 40 + chr(number % 1500) for number in range(3000)],
        ["x" * (number % 1001) for number in range(3000)],
        ["\0" * (number % 100) for number in range(3000)],
        ["é" * (number % 70) + "\U0001f9f1" * (number % 3) for number in range(3000)],
    ],
    ids=["one", "sorted", "twice", "hot", "last character", "lengths", "zeros", "unicode"],
)
def test_streams_that_are_hard_on_hash_tables(keys: list[str], memory_budget: int) -> None:
    rows = [(key, number % 3 == 0) for number, key in enumerate(keys)]
    table = frame(rows, {"key": pa.string(), "content": pa.bool_()})

    assert answers(cut(table, [997]), ["key"], memory_budget) == expected(rows, keys=1)


def test_two_million_rows_with_most_keys_on_disk() -> None:
    source = np.random.default_rng(1)
    count = 2_000_000
    numbers = np.arange(count)
    again = source.random(count) < 0.02
    numbers[again] = (numbers[again] * source.random(again.sum())).astype(int)
    content = source.integers(0, 2, count)
    table = DataFrame({"key": of_arrow(pa.array(numbers).cast(pa.string())), "content": content})
    _, first, which = np.unique(numbers, return_index=True, return_inverse=True)

    with KeyIndex(memory_budget=16 << 20) as index:
        masks = [index.check(batch, ["key"]) for batch in cut(table, [65_536])]

    is_first = first[which] == np.arange(count)
    same = content == content[first[which]]
    repeats, conflicts = (np.concatenate(parts) for parts in zip(*masks, strict=True))
    assert (repeats == (~is_first & same)).all()
    assert (conflicts == (~is_first & ~same)).all()
    assert repeats.sum() > 15_000


@pytest.mark.parametrize(("memory", "keys"), [(TINY, 40), (8192, 400)])
def test_keys_whose_hashes_meet_are_told_apart(memory: int, keys: int) -> None:
    """All rows want the same slot, near the end of the table, and their keys differ in a few bits only."""
    source = random.Random(1)
    rows = [(2**64 - 1 - source.randrange(4), source.randrange(keys), source.randrange(2)) for _ in range(5 * keys)]
    fingerprints = np.array(rows, np.uint64).T.copy()

    got: list[str] = []
    with KeyIndex(memory_budget=2 * memory) as index:
        for start in range(0, len(rows), 20):
            some = fingerprints[:, start : start + 20]
            seen, content = index._find_or_add(some)
            same = content == some[CONTENT_LANE]
            got += named((seen & same, seen & ~same))

    assert got == expected(rows, keys=2)


# -- what counts as the same value -------------------------------------------------------------------------


def lanes(values: Series[Any], fingerprinter: Fingerprinter | None = None) -> list[tuple[int, int]]:
    """The fingerprints of the values as keys."""
    rows = (fingerprinter or Fingerprinter(SECRET)).rows(DataFrame({"column": values}), ["column"])
    return [(int(first), int(second)) for first, second in rows[list(KEY_LANES)].T]


DAY = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)
DIFFERENT: list[tuple[pa.DataType, list[Any]]] = [
    (pa.string(), ["", "\0", "a", "a\0", "A", "é", "x" * 63, "x" * 64, "x" * 65, "x" * 1000, "x" * 100_000]),
    (pa.large_string(), ["", "a", "aa"]),
    (pa.string_view(), ["", "a", "a text of more than twelve bytes"]),
    (pa.binary(), [b"", b"\0", b"\xff", b"\xff\0"]),
    (pa.binary(3), [b"abc", b"ab\0"]),
    (pa.bool_(), [True, False]),
    (pa.int8(), [0, 1, -1, 127]),
    (pa.uint64(), [0, 1, 2**64 - 1]),
    (pa.int64(), [0, 1, -1, 2**62, -(2**63)]),
    (pa.float16(), [0.0, 1.5, float("inf"), float("nan")]),
    (pa.float64(), [0.0, 1.0, 1.0000000000000002, 5e-324, float("inf"), float("-inf"), float("nan")]),
    (pa.decimal128(30, 2), [Decimal("0.00"), Decimal("0.01"), Decimal("-0.01"), Decimal(10**20)]),
    (pa.decimal32(5, 2), [Decimal("0.00"), Decimal("0.01")]),
    (pa.decimal256(60, 2), [Decimal("0.00"), Decimal("0.01"), Decimal(10**50)]),
    (pa.date32(), [DAY.date(), DAY.date() + dt.timedelta(days=1)]),
    (pa.time32("s"), [dt.time(0), dt.time(0, 0, 1)]),
    (pa.timestamp("us", "UTC"), [DAY, DAY + dt.timedelta(microseconds=1)]),
    (pa.duration("s"), [dt.timedelta(0), dt.timedelta(seconds=1)]),
    (pa.dictionary(pa.int8(), pa.string()), ["", "a", "b"]),
    (pa.list_(pa.int8()), [[], [1], [1, 2], [None]]),
    (pa.struct([("x", pa.int8())]), [{"x": 1}, {"x": 2}]),
]


@pytest.mark.parametrize(("kind", "values"), DIFFERENT, ids=[str(kind) for kind, _ in DIFFERENT])
def test_different_values_and_null_differ_and_equal_ones_agree(kind: pa.DataType, values: list[Any]) -> None:
    values = [*values, None]
    mixed = pa.array([*values, *reversed(values)], kind)
    alone = [lanes(of_arrow(pa.array([value], kind)))[0] for value in values]
    chunked = pa.chunked_array([mixed.slice(0, 1), mixed.slice(1, 0), mixed.slice(1)])

    assert len(set(alone)) == len(values)
    assert lanes(of_arrow(mixed)) == alone + alone[::-1]
    assert lanes(of_arrow(mixed.slice(1))) == (alone + alone[::-1])[1:]
    assert lanes(of_arrow(chunked)) == alone + alone[::-1]


@pytest.mark.parametrize(
    ("some", "others"),
    [
        (Series([1, -1], dtype="int64"), of_arrow(pa.array([1, -1], pa.int8()))),
        (Series([1, None], dtype="Int64"), of_arrow(pa.array([1, None], pa.int16()))),
        (Series([1.5, None]), of_arrow(pa.array([1.5, None]))),
        (Series([0.0, -np.nan]), of_arrow(pa.array([-0.0, None]))),
        (of_arrow(pa.array([0.0, -np.nan])), of_arrow(pa.array([-0.0, np.nan]))),
        (Series(["é", None, ""], dtype="str"), of_arrow(pa.array(["é", None, ""]))),
        (Series(["é", None, ""], dtype=object), of_arrow(pa.array(["é", None, ""]))),
        (Series(["é", None, ""], dtype="category"), of_arrow(pa.array(["é", None]).dictionary_encode())),
        (Series([DAY, None]), of_arrow(pa.array([DAY, None], pa.timestamp("us", "UTC")))),
        (Series([None, None]), of_arrow(pa.nulls(2))),
    ],
    ids=["int", "Int", "float", "zero", "NaN", "str", "object", "category", "time", "null"],
)
def test_the_same_values_agree_however_pandas_keeps_them(some: Series[Any], others: Series[Any]) -> None:
    assert lanes(some)[: len(others)] == lanes(others)


def test_python_objects_are_told_apart_by_type_and_value() -> None:
    long = np.arange(2000)
    other = np.where(long == 999, 0, long)
    values = ["1", 1, 1.0, b"1", Decimal(1), [1], {"a": 1}, (1,), "\udc80", "", None, long, other]
    objects = Series(values, dtype=object)

    assert len(set(lanes(objects))) == len(values)
    assert lanes(objects) == [lanes(objects[number : number + 1])[0] for number in range(len(values))]
    assert lanes(objects[9:10]) == lanes(of_arrow(pa.array([""])))


def test_nothing_that_stands_behind_a_null_matters() -> None:
    offsets, text = pa.array([0, 3, 6], pa.int32()).buffers()[1], pa.py_buffer(b"abcdef")
    second_is_null = pa.py_buffer(b"\x01")
    texts = pa.Array.from_buffers(pa.string(), 2, [second_is_null, offsets, text])
    numbers = pa.Array.from_buffers(pa.int64(), 2, [second_is_null, pa.array([7, 8]).buffers()[1]])

    assert lanes(of_arrow(texts)) == lanes(of_arrow(pa.array(["abc", None])))
    assert lanes(of_arrow(numbers)) == lanes(of_arrow(pa.array([7, None])))


def test_values_do_not_run_into_the_next_column() -> None:
    rows = [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), ("abc", None), (None, "abc"), ("c", "ab")]
    table = frame(rows, {"a": pa.string(), "b": pa.string()})

    keys = Fingerprinter(SECRET).rows(table, ["a", "b"])
    contents = Fingerprinter(SECRET).rows(table, [])

    assert [len(set(lane.tolist())) for lane in (*keys, *contents)] == [7, 7, 1, 1, 1, 7]


def test_the_order_of_the_columns_does_not_matter() -> None:
    table = frame([("a", "b", 1, "c")], TYPES)

    assert answers([table, table[["d", "c", "b", "a"]]], ["a"], TINY) == ["new", "repeat"]


def test_a_column_that_changes_its_type_is_an_error() -> None:
    with KeyIndex() as index:
        index.check(DataFrame({"key": [1, 2], "x": [1, 2]}), ["key"])
        index.check(DataFrame({"key": [3], "x": [None]}), ["key"])
        with pytest.raises(DataError, match="'x': they were int64 in earlier batches and are double in this one"):
            index.check(DataFrame({"key": [1, 2], "x": [1, np.nan]}), ["key"])


def test_a_missing_key_is_an_error_that_names_it() -> None:
    with KeyIndex() as index, pytest.raises(ConfigError, match="by set_id: the columns are id, name"):
        index.check(DataFrame({"id": [1], "name": ["x"]}), ["set_id"])


# -- the hash ----------------------------------------------------------------------------------------------


def hashes(values: Any) -> NDArray[np.uint64]:
    return Fingerprinter(SECRET).rows(DataFrame({"key": of_arrow(values)}), ["key"])


@pytest.mark.parametrize(
    "values",
    [
        pa.array(np.arange(1_000_000)),
        pa.array(np.arange(200_000) << 46),
        pa.array(np.arange(1_000_000)).cast(pa.string()),
        pa.array([f"{number:020}-1" for number in range(300_000)]),
        pa.array([b"x" * place + bytes([byte]) + b"x" * (999 - place) for place in range(1000) for byte in b"ab"]),
        pa.array([b"\0" * length for length in range(3000)]),
    ],
    ids=["integers", "high bits", "digits", "zero-filled", "one byte", "zeros"],
)
def test_different_but_similar_values_never_share_64_bits(values: Any) -> None:
    """With 2**-64 for a pair, never; by the bound in fingerprints.py, for one secret in 8,000 at the very most."""
    assert [len(np.unique(hashes(values)[lane])) for lane in KEY_LANES] == [len(values), len(values)]


def test_each_bit_of_a_value_changes_half_the_bits_of_its_hash() -> None:
    source = random.Random(2)
    flips = []
    for _ in range(100):
        value = source.randbytes(24)
        number = int.from_bytes(value, "little")
        others = [(number ^ (1 << bit)).to_bytes(24, "little") for bit in range(192)]
        before, *after = hashes(pa.array([value, *others], pa.binary()))[0].tolist()
        flips.append([[(before ^ other) >> bit & 1 for bit in range(64)] for other in after])
    chance = np.mean(flips, axis=0)  # by bit of the value and bit of the hash, from 100 values each

    assert abs(chance.mean() - 0.5) < 0.005
    assert abs(chance - 0.5).max() < 0.35


def test_every_index_has_its_own_secret() -> None:
    table = DataFrame({"key": ["a"]})

    some, others = Fingerprinter().rows(table, ["key"]), Fingerprinter().rows(table, ["key"])
    assert not (some == others)[list(KEY_LANES)].any()


# -- memory and disk ---------------------------------------------------------------------------------------


def many(count: int) -> DataFrame:
    return DataFrame({"key": of_arrow(pa.array(np.arange(count)))})


def test_memory_does_not_grow_with_the_rows() -> None:
    """numpy reports its memory to tracemalloc. What may grow is the first word of each block: 1/8 byte a row."""
    peaks = []
    with KeyIndex(memory_budget=1 << 20) as index:
        tracemalloc.start()
        for number, batch in enumerate(cut(many(400_000), [10_000])):
            index.check(batch, ["key"])
            if number % 10 == 9:
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.reset_peak()
        tracemalloc.stop()

    assert max(peaks) < 8 << 20
    assert peaks[3] - peaks[1] < 0.25 * 200_000


USE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from pandas import DataFrame
from etl.tables.keys import KeyIndex
index = KeyIndex(memory_budget=1, folder=Path(sys.argv[1]))
index.check(DataFrame({"key": range(1000)}), ["key"])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_nothing_on_disk(tmp_path: Path) -> None:
    died = subprocess.run([sys.executable, "-c", USE_AND_DIE, str(tmp_path)], cwd=PROJECT, check=False)

    assert died.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_oserror_that_names_the_folder(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with KeyIndex(memory_budget=TINY, folder=tmp_path) as index:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
            with pytest.raises(OSError, match="File too large") as caught:
                index.check(many(1000), ["key"])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path)
