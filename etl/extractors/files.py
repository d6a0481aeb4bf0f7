"""Reads tables from files: here or in S3, one or many, in any common format and compression."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, PrivateAttr, field_validator

from etl.base import Extractor
from etl.errors import ConfigError
from etl.files.formats import FileFormat, FileOptions, format_of
from etl.files.places import S3_SCHEME, FoundFile, find_files, written
from etl.ledger import Account
from etl.run import Source

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.files.readers import TableReader


class FilesExtractor(FileOptions, Extractor):
    """Reads CSV, TSV, JSON lines, JSON arrays, Parquet and Excel files, compressed or not, as one table.

    A row's number is its number in its file. CSV and Excel give columns of text; Parquet keeps its types, and JSON is
    typed by the rule in ``etl.files.json_columns``. All files must have the columns of the first; a file is one split.
    """

    path: str | tuple[str, ...] = Field(
        description='The files: a path, s3://bucket/key, or a pattern such as "exports/**/*.csv"; or a list of them.',
    )
    file_column: str | None = Field(
        default=None, min_length=1, description="Name of a last column to add, with the path of each row's file."
    )
    region: str | None = Field(
        default=None,
        exclude=True,  # from where the bytes come changes no result
        description="Region of the bucket; by default AWS_DEFAULT_REGION or the profile's.",
    )

    _found: list[FoundFile] | None = PrivateAttr(default=None)
    _shape: Any = PrivateAttr(default=None)

    @field_validator("path", mode="before")
    @classmethod
    def _names_files(cls, value: Any) -> tuple[str, ...]:
        paths = (value,) if isinstance(value, str) else value
        if not isinstance(paths, list | tuple) or not paths or not all(isinstance(path, str) for path in paths):
            raise ValueError('should be a path or a pattern, such as "exports/*.csv", or a list of them')
        for path in paths:
            bucket, _, key = path.removeprefix(S3_SCHEME).partition("/")
            if path.startswith(S3_SCHEME) and not (bucket and key):
                raise ValueError("should name a bucket and a key, such as s3://my-bucket/exports/*.csv")
            if not path or path.endswith("/"):
                raise ValueError("should name files, such as exports/*.csv, not a folder")
        return tuple(paths)

    def inspect(self) -> Source:
        """Find the files, and read local ones once for their SHA-256; S3's ETags are known without."""
        self._found = None
        files = self._files()
        content = [[file.uri, file.size, file.digest()] for file in files]
        fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        self._found = files
        return Source(self._uri(files), fingerprint, bytes=sum(file.size for file in files))

    def check(self) -> str:
        """Find the files and open the first."""
        files = self._files()
        with files[0].open() as stream:
            stream.read(1)
        count = "1 file" if len(files) == 1 else f"{len(files):,} files"
        return f"{self._uri(files)}: {count}, {sum(file.size for file in files):,} bytes, {self._format(files)}"

    def splits(self) -> Sequence[Self]:
        """One split a file. The first file is looked into, so that all the splits have the same columns."""
        with self.blamed():
            files = self._seen()
            if len(files) == 1:
                return [self]
            shape = self._shape_of(files)
        return [self._only(file, shape) for file in files]

    def read(self, account: Account) -> Iterator[DataFrame]:
        """Read the files that ``inspect`` saw; without it, those that are there now."""
        files = self._seen()
        reader = self._reader(files)
        shape = self._shape_of(files) if len(files) > 1 else self._shape
        for file in files:
            for frame in reader.frames(file, shape, account, self.batch_rows):
                yield self._with_file_column(frame, file)
                del frame  # or it would stay in memory while the next is made

    @property
    def _patterns(self) -> Sequence[str]:
        return (self.path,) if isinstance(self.path, str) else self.path

    def _files(self) -> list[FoundFile]:
        return find_files(self._patterns, self.region)

    def _seen(self) -> list[FoundFile]:
        return self._found or self._files()

    def _only(self, file: FoundFile, shape: Any) -> Self:
        split = self.model_copy(update={"path": (file.pattern,)})
        split._found = [file]
        split._shape = shape
        return split

    def _uri(self, files: Sequence[FoundFile]) -> str:
        return files[0].uri if len(files) == 1 else written(", ".join(self._patterns))

    def _format(self, files: Sequence[FoundFile]) -> FileFormat:
        first = format_of(files[0].uri, self)
        for file in files:
            other = format_of(file.uri, self)
            if other != first:
                raise ConfigError(
                    f"{files[0].uri} is {first} and {file.uri} is {other}; read one format at a time, or set format"
                )
        return first

    def _reader(self, files: Sequence[FoundFile]) -> TableReader:
        from etl.files.readers import reader_for

        return reader_for(self._format(files), self)

    def _shape_of(self, files: Sequence[FoundFile]) -> Any:
        """The columns of the first file that has any."""
        if self._shape is not None:
            return self._shape
        reader = self._reader(files)
        return next(filter(None, map(reader.shape, files)), None)

    def _with_file_column(self, frame: DataFrame, file: FoundFile) -> DataFrame:
        frame.attrs["source"] = file.uri
        if self.file_column is None:
            return frame
        import pyarrow as pa

        from etl.tables.arrow import with_columns

        if self.file_column in frame.columns:
            raise ConfigError(f"{file.uri}: has a column {self.file_column!r} itself; choose another file_column")
        return with_columns(frame, {self.file_column: pa.repeat(file.uri, len(frame))})
