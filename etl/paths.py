"""Where things are on this machine."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def cache_folder() -> Path:
    """Downloads and locks: ``ETL_CACHE_DIR``, or ``.cache`` in the project (cron may have no HOME). Safe to delete."""
    return Path(os.environ.get("ETL_CACHE_DIR") or PROJECT / ".cache")
