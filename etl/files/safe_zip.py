"""Opens one member of a zip that anybody may have made: nothing is extracted, and tricks are refused before reading."""

from __future__ import annotations

import fnmatch
import io
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt
from zlib_ng import zlib_ng

from etl.errors import DataError
from etl.options import Options

MAX_MEMBERS = 10_000
_MAX_READ_BYTES = 4 << 20
_COMPRESSED_BYTES = 512 << 10
_LISTED = 10
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x1
_READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # zipfile inflates the others without a limit on memory
_METHODS = {9: "Deflate64", 12: "BZIP2", 14: "LZMA", 93: "Zstandard"}
_InflateError: Any = zlib_ng.error  # its stubs do not say that it is an exception
_DAMAGE = (zipfile.BadZipFile, _InflateError, EOFError, struct.error, UnicodeDecodeError, NotImplementedError)


class DamagedZipError(DataError):
    """The zip is not whole: fetching it again may help."""


class ZipLimits(Options):
    """What a member of a zip, or another compressed file, may be."""

    max_member_bytes: PositiveInt = Field(
        default=50 << 30, description="Largest accepted size of what is compressed, in bytes, inflated."
    )
    max_ratio: PositiveFloat = Field(
        default=200, description="Largest accepted size of what is compressed, as a multiple of its compressed size."
    )


class Member:
    """The bytes of the member whose data starts where ``file`` is, stored or deflated. ``name``: what messages call it.

    Gives no more than the directory says, and checks at its end that it was neither more nor less, and the checksum.
    The standard library's zipfile inflates at half the speed. Raises DamagedZipError.
    """

    def __init__(self, file: io.BufferedReader, info: zipfile.ZipInfo, origin: str) -> None:
        self.name = f"{origin}#{info.filename}"
        self._label = f"{origin}: {info.filename!r}"
        self._file = file
        self._info = info
        self._unread = info.compress_size
        self._stream = zlib_ng.decompressobj(-zlib_ng.MAX_WBITS)
        self._size = 0
        self._crc32 = 0

    def read(self, n: int, /) -> bytes:
        """Up to ``n`` bytes, none at the end. Fastest from 1 to 4 MiB, which is also the most that it gives."""
        try:
            return self._checked(min(n, _MAX_READ_BYTES))
        except _DAMAGE as error:
            problem = str(error) or "it ends early"
            raise DamagedZipError(f"{self._label} is damaged: {problem}") from error

    def _checked(self, n: int) -> bytes:
        data = self._inflated(n) if self._info.compress_type else self._raw(n)
        self._size += len(data)
        self._crc32 = zlib_ng.crc32(data, self._crc32)
        if self._size > self._info.file_size or (not data and self._size < self._info.file_size):
            raise zipfile.BadZipFile(f"it is not of {self._info.file_size:,} bytes, as the directory says")
        if not data and self._crc32 != self._info.CRC:
            raise zipfile.BadZipFile("its CRC-32 is wrong")
        return data

    def _inflated(self, n: int) -> bytes:
        while not self._stream.eof:
            compressed = self._stream.unconsumed_tail or self._raw(_COMPRESSED_BYTES)
            if data := self._stream.decompress(compressed, n):
                return data
            if not compressed and not self._stream.eof:
                raise EOFError
        return b""

    def _raw(self, n: int) -> bytes:
        data = self._file.read(min(n, self._unread))
        if not data and n and self._unread:
            raise EOFError
        self._unread -= len(data)
        return data


class _BoundedReader(io.BufferedReader):
    """A file for zipfile, which reads the whole directory at once, however long the zip says that it is."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_READ_BYTES:
            raise zipfile.BadZipFile(f"its directory says that it is {size:,} bytes long")
        return super().read(size)


def looks_like_zip(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a zip (an empty one included)."""
    return head.startswith((b"PK\3\4", b"PK\5\6"))


@contextmanager
def open_member(
    path: Path, wanted: str | None, limits: ZipLimits, origin: str, endings: tuple[str, ...] = (".csv",)
) -> Iterator[Member]:
    """Open the member named ``wanted`` (a name, a pattern such as ``*/sets.csv``, or None: the only one that ends so).

    Patterns and endings do not find hidden files, such as those that a Mac adds. ``origin`` is what messages call the
    zip. Raises DataError, or DamagedZipError if the zip is not whole.
    """
    with _BoundedReader(io.FileIO(path)) as file:
        try:
            archive = zipfile.ZipFile(file)
            members = archive.infolist()
            _check_layout(file, members, archive.start_dir, origin)
            chosen = _choose(members, wanted, endings, origin)
            _check_member(chosen, limits, origin)
            file.seek(_data_start(file, chosen))
        except _DAMAGE as error:
            raise DamagedZipError(f"{origin}: the zip is damaged or cut short: {error}") from error
        yield Member(file, chosen, origin)


def _check_layout(file: io.BufferedReader, members: list[zipfile.ZipInfo], directory_at: int, origin: str) -> None:
    """Refuse too many members, two of one name, and members that share bytes, which make a tiny zip a huge one."""
    if len(members) > MAX_MEMBERS:
        raise DataError(f"{origin}: the zip holds {len(members):,} members; more than {MAX_MEMBERS:,} are not accepted")
    names = set()
    for member in members:
        if member.filename in names:
            raise DataError(f"{origin}: the zip holds {member.filename!r} twice; it is not clear which one is meant")
        names.add(member.filename)
    in_order = sorted(members, key=lambda member: member.header_offset)
    starts = [*(member.header_offset for member in in_order), directory_at]
    for member, next_start in zip(in_order, starts[1:], strict=True):
        if _data_start(file, member) + member.compress_size > next_start:
            raise DataError(f"{origin}: {member.filename!r} overlaps what follows it in the zip, as in a zip bomb")


def _data_start(file: io.BufferedReader, member: zipfile.ZipInfo) -> int:
    """Where the bytes of ``member`` start, by its own header, which the directory cannot be trusted about."""
    start = member.header_offset
    file.seek(max(start, 0))
    magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if start < 0 or magic != b"PK\3\4":
        raise zipfile.BadZipFile(f"there is no member at byte {start}")
    return start + _LOCAL_HEADER.size + int(name_bytes) + int(extra_bytes)


def _choose(
    members: list[zipfile.ZipInfo], wanted: str | None, endings: tuple[str, ...], origin: str
) -> zipfile.ZipInfo:
    files = [member for member in members if not member.filename.endswith("/")]
    visible = [member for member in files if _is_visible(member.filename)]
    if wanted is None:
        found = [member for member in visible if member.filename.lower().endswith(endings)]
    else:
        found = [member for member in files if member.filename == wanted]
        found = found or [member for member in visible if fnmatch.fnmatchcase(member.filename, wanted)]
    if len(found) == 1:
        return found[0]
    asked = " or ".join(f"*{ending}" for ending in endings) if wanted is None else wanted
    problem = f"{len(found)} members match" if found else "no member matches"
    raise DataError(f"{origin}: {problem} {asked!r}; set member to one of: {_listing(found or files)}")


def _is_visible(name: str) -> bool:
    *folders, file = name.split("/")
    return not file.startswith(".") and "__MACOSX" not in folders


def _listing(members: list[zipfile.ZipInfo]) -> str:
    names = [repr(member.filename) for member in members[:_LISTED]]
    if len(members) > _LISTED:
        names.append(f"and {len(members) - _LISTED:,} more")
    return ", ".join(names) or "(the zip holds no files)"


def _check_member(member: zipfile.ZipInfo, limits: ZipLimits, origin: str) -> None:
    what = f"{origin}: {member.filename!r}"
    if member.flag_bits & _ENCRYPTED:
        raise DataError(f"{what} is encrypted; ask for it without a password")
    if member.compress_type not in _READABLE:
        method = _METHODS.get(member.compress_type, f"method {member.compress_type}")
        raise DataError(f"{what} is compressed with {method}; zip it with Deflate, the usual method")
    if member.file_size > limits.max_member_bytes:
        raise DataError(
            f"{what} inflates to {member.file_size:,} bytes, more than max_member_bytes = {limits.max_member_bytes:,}; "
            "raise the limit if the size is right"
        )
    ratio = member.file_size / max(member.compress_size, 1)
    if ratio > limits.max_ratio:
        raise DataError(
            f"{what} inflates to {ratio:,.0f} times its size, as zip bombs do, and max_ratio = {limits.max_ratio:g}; "
            "raise the limit if the data is right"
        )
