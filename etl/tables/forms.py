"""How the values of one type look in Python and in Arrow, and which of them do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from etl.tables.casting import cast

_UNFIT = (pa.ArrowException, OverflowError, RecursionError, ValueError)


@dataclass(frozen=True)
class Form:
    """One type. ``words``: what a person calls a value of it; ``python``: the classes that such a value may have.

    ``make``: turns a list of such values into an array of ``arrow``. It raises ValueError, OverflowError or
    ArrowException if one of them does not fit: nothing is rounded, cut or guessed.
    """

    words: str
    arrow: pa.DataType
    python: frozenset[type]
    make: Callable[[Sequence[Any]], pa.Array[Any]]

    def array(self, values: Sequence[Any]) -> tuple[pa.Array[Any], list[int]]:
        """The column, null in the place of values that do not fit, and their positions."""
        try:
            return self._made(values), []
        except _UNFIT:
            bad = list(self._unfit(values, 0))
        mended = list(values)
        for position in bad:
            mended[position] = None
        return self._made(mended), bad

    def _made(self, values: Sequence[Any]) -> pa.Array[Any]:
        if not set(map(type, values)) <= self.python:  # Arrow would make 1.0 of True, and 1 of 1.5
            raise ValueError(f"not {self.words}")
        return self.make(values)

    def _unfit(self, values: Sequence[Any], start: int) -> Iterator[int]:
        """Positions of the values that do not fit, by halving: there are few of them as a rule."""
        try:
            self._made(values)
        except _UNFIT:
            if len(values) == 1:
                yield start
                return
            middle = len(values) // 2
            yield from self._unfit(values[:middle], start)
            yield from self._unfit(values[middle:], start + middle)


def form(words: str, arrow: pa.DataType, *python: type, make: Callable[[Sequence[Any]], Any] | None = None) -> Form:
    """A Form of values of these classes, or null; by default Arrow makes the array of them."""
    return Form(words, arrow, frozenset((*python, type(None))), make or (lambda values: pa.array(values, arrow)))


def written(write: Callable[[Any], Any], arrow: pa.DataType) -> Callable[[Sequence[Any]], pa.Array[Any]]:
    """A ``make`` that stores of each value what ``write`` says."""
    return lambda values: pa.array([None if value is None else write(value) for value in values], arrow)


def parsed(arrow: pa.DataType) -> Callable[[Sequence[Any]], pa.Array[Any]]:
    """A ``make`` that reads text as ``CastTypes`` does."""

    def make(values: Sequence[Any]) -> pa.Array[Any]:
        text = pa.array(values, pa.string())
        found: pa.Array[Any] = cast(text, arrow)
        if found.null_count > text.null_count:
            raise ValueError(f"not {arrow}")
        return found

    return make
