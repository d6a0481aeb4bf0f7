"""Tells content that is damaged from a disk that fails: for both, libraries raise OSError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from etl.errors import DataError


@contextmanager
def damage_reported(words: str, *kinds: type[Exception]) -> Iterator[None]:
    """Raise DataError (``words``, and why) for errors of these kinds, and for an OSError that is not the system's."""
    all_kinds: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except all_kinds as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise  # Arrow's own MemoryError is an ArrowException, too
        raise DataError(f"{words}: {str(error).strip()}") from error
