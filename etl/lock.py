"""One run of a pipeline at a time on this machine. The system frees the lock when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from etl.errors import RetryLater
from etl.paths import cache_folder


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock ``name``, or raise RetryLater saying which process holds it."""
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{name}.lock"
    with path.open("a+") as file:
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
