"""Puts the variables of ``.env`` into the environment."""

from __future__ import annotations

import io
import stat
from pathlib import Path

from etl.errors import ConfigError
from etl.paths import PROJECT


def load_env(path: Path | None = None) -> str | None:
    """Put the variables of ``path`` into the environment, where they do not exist yet; gives back a warning, if any.

    None: of the file beside main.py, if there is one; a folder of that name is somebody's virtual environment. Raises
    ConfigError for a file that cannot be read.
    """
    file = path or PROJECT / ".env"
    if path is None and (not file.exists() or file.is_dir()):
        return None
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text: {error}") from error
    from dotenv import load_dotenv

    load_dotenv(stream=io.StringIO(text), override=False)
    if file.is_file() and file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return f"{file} can be read by other users of this machine: chmod 600 {file}"
    return None
