"""Reads the compressed bytes of a zip member. The standard library's zipfile does so at half the speed."""

from __future__ import annotations

import zipfile
from typing import Any, BinaryIO

from zlib_ng import zlib_ng

InflateError: Any = zlib_ng.error  # its stubs do not say that it is an exception
_READ_BYTES = 512 << 10


class Inflated:
    """The bytes of the member whose data starts where ``file`` is, stored or deflated; no other method is known.

    Gives no more than the directory says, and checks at its end that it was neither more nor less, and the checksum.
    Raises BadZipFile, EOFError, InflateError.
    """

    def __init__(self, file: BinaryIO, member: zipfile.ZipInfo) -> None:
        self._file = file
        self._member = member
        self._unread = member.compress_size
        self._stream = zlib_ng.decompressobj(-zlib_ng.MAX_WBITS)
        self._read = self._inflated if member.compress_type else self._raw
        self._size = 0
        self._crc32 = 0

    def read(self, n: int, /) -> bytes:
        """Up to ``n`` bytes, none at the end."""
        data = self._read(n)
        self._size += len(data)
        self._crc32 = zlib_ng.crc32(data, self._crc32)
        if self._size > self._member.file_size or (not data and self._size < self._member.file_size):
            raise zipfile.BadZipFile(f"it is not of {self._member.file_size:,} bytes, as the directory says")
        if not data and self._crc32 != self._member.CRC:
            raise zipfile.BadZipFile("its CRC-32 is wrong")
        return data

    def _inflated(self, n: int) -> bytes:
        while not self._stream.eof:
            compressed = self._stream.unconsumed_tail or self._raw(_READ_BYTES)
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
