"""One run of a pipeline at a time on this machine. The system frees the lock when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from etl.errors import RetryLater, StorageError
from etl.paths import cache_folder


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock ``name``, or raise RetryLater saying which process holds it; StorageError if there is no place."""
    with _lock_file(name) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise RetryLater(
                f"pipeline {name} is already running (process {file.read().strip()}); try again later"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def check_lock(name: str) -> str:
    """Prove that there is a place for the lock, whether or not somebody holds it. Raises StorageError."""
    with _lock_file(name) as file:
        return file.name


def _lock_file(name: str) -> TextIO:
    folder = cache_folder() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return (folder / f"{name}.lock").open("a+")
    except OSError as error:
        why = f"{error.strerror}: {error.filename}"
        raise StorageError(f"{why}; set ETL_CACHE_DIR to a folder that this user may write to") from error
