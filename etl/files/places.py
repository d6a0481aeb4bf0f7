"""Where files lie: on this machine or in S3, found by name or pattern, and never read in two different states."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from etl.errors import AccessError, ConfigError, DataError, RetryLater, SourceError
from etl.paths import in_home

if TYPE_CHECKING:
    from etl.files.s3_objects import S3File

S3_SCHEME = "s3://"

_BLOCK_BYTES = 1 << 20

log = logging.getLogger(__name__)


class Reader(Protocol):
    """Gives up to ``n`` bytes, and none at its end."""

    def read(self, n: int, /) -> bytes: ...


def read_fully(stream: Reader, size: int) -> bytes:
    """Exactly ``size`` bytes, or what is left."""
    parts = []
    while size > 0 and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# One file as it was when it was found; reading it in another state raises RetryLater.
FoundFile: TypeAlias = "LocalFile | S3File"


def find_files(patterns: Iterable[str], region: str | None) -> list[FoundFile]:
    """The files that the patterns name, each once: in the order of the patterns, then of their names.

    ``*`` and ``?`` stop at a slash, ``**`` does not; names that begin with a dot must be named so. Raises SourceError
    if a pattern finds nothing, ConfigError for a folder.
    """
    found: dict[str, FoundFile] = {}
    for pattern in patterns:
        found.update((file.pattern, file) for file in _matching(pattern, region))
    return list(found.values())


def _matching(pattern: str, region: str | None) -> Sequence[FoundFile]:
    if not pattern.startswith(S3_SCHEME):
        return _on_this_machine(pattern)
    from etl.files.s3_objects import find_objects  # and boto3 with it

    return find_objects(pattern, region)


@contextmanager
def spooled(stream: Reader) -> Iterator[Path]:
    """Copy what is left of ``stream`` to a temporary file, for formats that are not read from front to back."""
    with tempfile.NamedTemporaryFile(prefix="etl-") as file:
        while block := stream.read(_BLOCK_BYTES):
            file.write(block)
        file.flush()
        yield Path(file.name)


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine. It counts as changed if its size, its time of change or its inode has."""

    path: str
    size: int
    mtime_ns: int
    inode: int

    @property
    def uri(self) -> str:
        """The path as text that can be written anywhere."""
        return written(self.path)

    @property
    def pattern(self) -> str:
        """What finds just this file."""
        return glob.escape(self.path)

    def digest(self) -> str:
        """The SHA-256 of the content, which is read for it."""
        with self.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @contextmanager
    def open(self) -> Iterator[FileIO]:
        with _opened(self.path) as file, self._unchanged(lambda: os.fstat(file.fileno())):
            yield file

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """For formats that are not read from front to back."""
        if self.uri != self.path:  # Parquet's reader opens no file whose name is no text
            with self.open() as file, spooled(file) as copy:
                yield copy
            return
        with self.open(), self._unchanged(lambda: _status(self.path)):
            yield Path(self.path)

    @contextmanager
    def _unchanged(self, look: Callable[[], os.stat_result]) -> Iterator[None]:
        """Check before and after the block, also if it fails on its data: those of two states look damaged."""
        self._check(look())
        try:
            yield
        except DataError:
            self._check(look())
            raise
        self._check(look())

    def _check(self, status: os.stat_result) -> None:
        if (status.st_size, status.st_mtime_ns, status.st_ino) != (self.size, self.mtime_ns, self.inode):
            raise RetryLater(f"{self.uri} changed after this run began; run again")


def _on_this_machine(pattern: str) -> list[LocalFile]:
    path = in_home(pattern)
    paths = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  (Path has no escape)
    files = [_local_file(file) for file in _each_once([found for found in paths if not Path(found).is_dir()])]
    if files:
        for folder in sorted(_closed_folders(path)):
            log.warning("%s: this user may not look into it, so its files are left out", written(str(folder)))
        return files
    shown = written(pattern)
    if paths:
        raise ConfigError(f"{shown} is a folder; name the files in it, such as {shown.rstrip('/')}/*.csv")
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    raise SourceError(f"there is no file {shown}{where}; check path, and that this user may look there")


def _each_once(files: Sequence[str]) -> Iterator[str]:
    """The files, without links to others of them, such as ``latest.csv``: their rows would come twice."""
    real = {file: os.path.realpath(file) for file in files}
    own = {real[file]: file for file in reversed(files) if not Path(file).is_symlink()}
    for file in files:
        target = own.get(real[file], file)
        if target == file:
            yield file
        else:
            log.warning("%s leads to %s, which is read too, and is left out", written(file), written(target))


def _closed_folders(path: Path) -> set[Path]:
    """The folders in which the pattern should look, and which glob passes over without a word."""
    closed: set[Path] = set()
    for depth, name in enumerate(path.parts[1:], start=1):
        folders = str(Path(*path.parts[:depth]))
        if glob.has_magic(folders) or glob.has_magic(name):
            needed = os.X_OK | (os.R_OK if glob.has_magic(name) else 0)
            found = filter(os.path.isdir, glob.glob(folders, recursive=True))  # noqa: PTH207  (Path's own may fail)
            closed |= {Path(one) for one in found if not os.access(one, needed, effective_ids=True)}
    return closed


def _local_file(path: str) -> LocalFile:
    status = _status(path)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{written(path)} is not a file but a device, pipe or socket")
    return LocalFile(path, status.st_size, status.st_mtime_ns, status.st_ino)


def _status(path: str) -> os.stat_result:
    try:
        return Path(path).stat()
    except OSError as error:
        raise SourceError(f"{written(path)}: {error.strerror}") from error


def _opened(path: str) -> FileIO:
    try:
        return Path(path).open("rb", buffering=0)
    except PermissionError as error:
        raise AccessError(f"{written(path)}: this user may not read it; ask for the permission") from error
    except FileNotFoundError as error:
        raise RetryLater(f"{written(path)} vanished after this run began; run again") from error


def written(path: str) -> str:
    """The path as text, with ``\\xe9`` for a byte that is not UTF-8: as Python has it, no file could take it."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
