"""Drafts: local files that are written out of sight and then take the place of another, whole and for good."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from etl.errors import AccessError, ConfigError, EtlError, StorageError

_ENDING = ".tmp"
_NO_PERMISSION = "this user may not read or write it; ask for permission on it and its folder"
_NOT_A_FOLDER = "a part of this path is a file where a folder should be"
_ERRORS: dict[int, tuple[type[EtlError], str]] = {
    errno.ENOSPC: (StorageError, "no space is left on the disk; free some and run again"),
    errno.EDQUOT: (StorageError, "the disk quota is used up; free some space and run again"),
    errno.EFBIG: (StorageError, "this system allows no file that large (see ulimit -f)"),
    errno.EROFS: (StorageError, "the disk is mounted read-only"),
    errno.EACCES: (AccessError, _NO_PERMISSION),
    errno.EPERM: (AccessError, _NO_PERMISSION),
    errno.EEXIST: (ConfigError, _NOT_A_FOLDER),
    errno.ENOTDIR: (ConfigError, _NOT_A_FOLDER),
    errno.ENAMETOOLONG: (ConfigError, "the name is too long"),
}


class Draft(io.FileIO):
    """A new file beside ``target``, hidden.

    As a context manager it is closed at the end, and removed if an error leaves the block. While it is open it is
    locked, so that ``sweep`` in another process can tell it from one whose process was killed.
    """

    def __init__(self, target: Path, run_id: str) -> None:
        self.path = target.with_name(f"{_hidden(target)}.{run_id}-{secrets.token_hex(3)}{_ENDING}")
        self._target = target
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            super().__init__(self.path, "x")
            with suppress(OSError):  # some network disks have no locks
                fcntl.flock(self, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        length = len(left)
        with disk_errors(self._target):
            while left:
                left = left[super().write(left) :]
        return length

    def finish(self) -> None:
        """Wait until the disk has it all, and close it."""
        with disk_errors(self._target):
            os.fsync(self.fileno())
            self.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            remove(self.path)
        self.close()


def remove(draft: Path) -> None:
    """Remove a draft, if it is there and can be removed."""
    with suppress(OSError):
        draft.unlink()


def sweep(target: Path) -> None:
    """Remove the drafts that killed runs left beside ``target``; not those of ``sets.csv.gz`` beside ``sets.csv``."""
    for path in target.parent.iterdir():
        if path.suffix == _ENDING and Path(path.stem).stem == _hidden(target):
            with suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def _hidden(target: Path) -> str:
    return f".{target.name.removeprefix('.')}"


@contextmanager
def disk_errors(target: Path | str) -> Iterator[None]:
    """Translate the errors of the file system; they are about ``target``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _ERRORS:
            raise
        kind, remedy = _ERRORS[error.errno]
        raise kind(f"{target}: {remedy}") from error
