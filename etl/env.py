"""Puts the variables of ``.env`` into the environment."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path


def load_env(path: Path) -> Iterator[str]:
    """Put the variables of ``path`` into the environment, where they do not exist yet; yield warnings."""
    if not path.is_file():
        return
    from dotenv import load_dotenv

    load_dotenv(path, override=False)
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        yield f"{path} can be read by other users of this machine: chmod 600 {path}"
