"""Takes files out of their compression, whatever they are called, within limits of size and ratio."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from etl.errors import DataError
from etl.files.damage import damage_reported
from etl.files.formats import FileFormat, FileOptions, endings_of
from etl.files.places import FoundFile, Reader, read_fully, spooled
from etl.files.safe_zip import Member, looks_like_zip, open_member

_HEAD_BYTES = 16
_READ_BYTES = 1 << 20
_TOO_SMALL_TO_JUDGE = 10 << 20  # a bomb is known by its ratio, but a few megabytes of it harm nobody
_DAMAGE = (zlib.error, EOFError, lzma.LZMAError)


class Stream(NamedTuple):
    """Bytes from front to back; ``name``: what messages call them, such as ``exports.zip#a.csv``."""

    name: str
    read: Callable[[int], bytes]


@contextmanager
def unpacked(file: FoundFile, options: FileOptions, file_format: FileFormat) -> Iterator[Stream]:
    """The content of ``file``, decompressed if its first bytes say so.

    Raises DataError: damaged, cut short, compressed twice, beyond the limits.
    """
    with file.open() as raw:
        head = read_fully(raw, _HEAD_BYTES)
        method = compression(head)
        if method != "zip":
            stream = Stream(file.uri, _inflated(method, _Counted(head, raw), file.uri, options))
            yield _checked(stream, method, file_format) if method else stream
            return
    endings = endings_of(file_format)
    with file.on_disk() as path, open_member(path, options.member, options, file.uri, endings) as member:
        yield _checked(member, method, file_format)


@contextmanager
def unpacked_on_disk(file: FoundFile, options: FileOptions, file_format: FileFormat) -> Iterator[Path]:
    """A local file with the content, for formats that are not read from front to back."""
    with file.open() as raw:
        method = compression(read_fully(raw, _HEAD_BYTES))
    is_workbook = file_format == "xlsx" and method == "zip" and not file.uri.lower().endswith(".zip")
    if method is None or is_workbook:
        with file.on_disk() as path:
            yield path
        return
    with unpacked(file, options, file_format) as stream, spooled(stream) as path:
        yield path


def compression(head: bytes) -> str | None:
    """How a file that begins so is compressed: gzip, bzip2, xz, zstd or zip; None if it is not."""
    if looks_like_zip(head):
        return "zip"
    return next((method for method, magic in _MAGIC.items() if magic.match(head)), None)


_MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
}


class _Counted(io.RawIOBase):
    """A raw stream whose first bytes were looked at already. Whoever opened it closes it."""

    def __init__(self, head: bytes, raw: Reader) -> None:
        self.bytes_read = 0
        self._head = head
        self._raw = raw

    def read(self, n: int = -1, /) -> bytes:
        wanted = n if n >= 0 else _READ_BYTES
        data = self._head[:wanted] or self._raw.read(wanted)
        self._head = self._head[wanted:]
        self.bytes_read += len(data)
        return data

    def readable(self) -> bool:
        return True


def _inflated(method: str | None, raw: _Counted, name: str, options: FileOptions) -> Callable[[int], bytes]:
    """The ``read`` of the decompressed stream."""
    if method is None:
        return raw.read
    source = _OPENERS[method](raw)
    done = 0

    def read(n: int) -> bytes:
        nonlocal done
        with damage_reported(f"{name}: its {method} data is damaged or cut short", *_DAMAGE):
            data = cast(bytes, source.read(min(n, _READ_BYTES)))
        done += len(data)
        check_limits(done, raw.bytes_read, name, options)
        return data

    return read


def _opened_zstd(raw: Any) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")


_OPENERS: dict[str, Callable[[Any], Any]] = {
    "gzip": lambda raw: gzip.GzipFile(fileobj=raw, mode="rb"),
    "bzip2": bz2.BZ2File,
    "xz": partial(lzma.LZMAFile, format=lzma.FORMAT_XZ),
    "zstd": _opened_zstd,
}


def check_limits(inflated: int, compressed: int, name: str, options: FileOptions) -> None:
    if inflated > options.max_member_bytes:
        raise DataError(
            f"{name} inflates to more than max_member_bytes = {options.max_member_bytes:,}; "
            "raise the limit if the size is right"
        )
    if inflated > _TOO_SMALL_TO_JUDGE and inflated > options.max_ratio * compressed:
        raise DataError(
            f"{name} inflates to more than max_ratio = {options.max_ratio:g} times its size, as bombs do; "
            "raise the limit if the data is right"
        )


def _checked(stream: Stream | Member, method: str, file_format: FileFormat) -> Stream:
    """Refuse what is compressed once more: it would be read as if it were text."""
    head = read_fully(stream, _HEAD_BYTES)
    again = compression(head)
    if again and not (file_format == "xlsx" and again == "zip"):
        raise DataError(f"{stream.name} is compressed twice, with {method} and {again}; unpack it once before")
    counted = _Counted(head, stream)
    return Stream(stream.name, counted.read)
