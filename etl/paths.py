"""Where things are on this machine, and how they get there for good."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def cache_folder() -> Path:
    """Downloads and locks: ``ETL_CACHE_DIR``, or ``.cache`` in the project (cron may have no HOME). Safe to delete."""
    return in_home(os.environ.get("ETL_CACHE_DIR") or PROJECT / ".cache")


def in_home(path: Path | str) -> Path:
    """The path, with ``~`` for a home: a name may begin so and mean none, for which ``Path.expanduser`` fails."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def put_in_place(new: Path, path: Path) -> None:
    """Let ``new`` take the place of ``path``, at once and for good: after a power cut it is the one or the other."""
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
