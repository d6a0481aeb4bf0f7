"""Publishes to a folder as one file, which is replaced whole when the run is right and not touched when it is not."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from etl.base import Loader
from etl.drafts import Draft, disk_errors, remove, sweep
from etl.errors import ConfigError, EtlError, RetryLater
from etl.formats.options import Format, FormatOptions, format_of
from etl.paths import in_home, put_in_place
from etl.run import Live, Published, Receipt, Run

if TYPE_CHECKING:
    from pandas import DataFrame


class LocalLoader(Loader, FormatOptions):
    """Publishes one file. Unchanged content leaves the file as it is, down to its time of change.

    Rows are written to a draft beside the file, hidden, whose name ends in .tmp. It takes the file's place at the
    commit; the drafts of runs that were killed are removed by the next run.

    A hidden file beside it, such as ``.lego_sets.parquet.meta.json``, tells run, recipe and the content's SHA-256. The
    recipe is that of the last run that gave this content, be the file of an earlier one. Two files cannot be replaced
    at once, so it also tells which file it is about (inode, size, time of change); if that is not the one that is
    there, it counts only if the SHA-256 is right.
    """

    path: Path = Field(description='The file to publish, such as "output/lego_sets.parquet". Its folder is made.')
    format: Format | None = Field(default=None, description="File format; by default that of the file's ending.")

    @model_validator(mode="after")
    def _format_is_known(self) -> LocalLoader:
        if self.format is None and format_of(self.path.name) is None:
            raise ValueError(
                f"cannot tell the format of {self.path.name!r}; end the path in .parquet, .csv or .jsonl, or set format"
            )
        return self

    @property
    def file(self) -> Path:
        return in_home(self.path)

    @property
    def file_format(self) -> Format:
        file_format = self.format or format_of(self.path.name)
        assert file_format is not None  # noqa: S101  (checked by _format_is_known)
        return file_format

    def live(self) -> Live | None:
        with disk_errors(self.file):
            told = self._told()
        return Live(str(self.file), told["run_id"], told["recipe"]) if told else None

    def write(self, batches: Iterator[DataFrame], run: Run) -> Receipt:
        from etl.formats.encoders import encode
        from etl.formats.hashed import HashedStream

        self._refuse_folder()
        with Draft(self.file, run.id) as draft:
            sweep(self.file)
            sink = HashedStream(draft)
            rows, schema = encode(batches, sink, self.file_format, self, run.descriptions)
            draft.finish()
        types = {field.name: str(field.type) for field in schema}
        return Receipt(rows, sink.size, sink.sha256.hexdigest(), types, {"draft": draft.path})

    def commit(self, receipts: Sequence[Receipt], run: Run) -> Published:
        if len(receipts) != 1:
            raise EtlError(f"one file is made of one part of the work, not of {len(receipts)}")
        receipt = receipts[0]
        try:
            with disk_errors(self.file):
                changed = self._publish(receipt, run)
        except FileNotFoundError as error:
            raise RetryLater(f"{self.file}: another run cleared away what this one had written; run again") from error
        return Published(str(self.file), receipt.rows, receipt.bytes, receipt.sha256, receipt.schema, changed=changed)

    def abort(self, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            remove(receipt.detail["draft"])

    def check(self) -> str:
        """Prove that a file can be written where the folder is or will be, by writing one that has no name."""
        self._refuse_folder()
        with disk_errors(self.file):
            folder = next(parent for parent in self.file.absolute().parents if parent.exists())
            with tempfile.TemporaryFile(dir=folder):
                free = shutil.disk_usage(folder).free
        return f"may write to {self.file} ({free / 1e9:,.1f} GB free)"

    def keep(self, name: str, path: Path) -> str:
        target = self.file.parent / name
        with path.open("rb") as source, Draft(self.file, "kept") as draft:
            shutil.copyfileobj(source, draft)
            draft.finish()
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            put_in_place(draft.path, target)
        return str(target)

    def kept(self, name: str) -> bytes | None:
        file = self.file.parent / name
        with disk_errors(file):
            return file.read_bytes() if file.is_file() else None

    def kept_names(self, folder: str) -> list[str]:
        place = self.file.parent / folder
        with disk_errors(place):
            return sorted(file.name for file in place.iterdir()) if place.is_dir() else []

    @property
    def _sidecar(self) -> Path:
        return self.file.with_name(f".{self.file.name}.meta.json")

    def _refuse_folder(self) -> None:
        if self.file.is_dir():
            raise ConfigError(f"{self.file} is a folder; name a file in it, such as {self.file / 'table.parquet'}")

    def _publish(self, receipt: Receipt, run: Run) -> bool:
        """Whether the file changed. The sidecar goes first: killed in between, it is about no file that is there."""
        draft: Path = receipt.detail["draft"]
        told = self._told()
        if self._holds(receipt, told) and not run.force:
            remove(draft)
            if told is None or told["recipe"] != run.recipe:
                self._tell(self.file, receipt, run, told["run_id"] if told else run.id)
            return False
        if self.file.exists():
            shutil.copymode(self.file, draft)
        self._tell(draft, receipt, run, run.id)
        put_in_place(draft, self.file)
        return True

    def _told(self) -> dict[str, Any] | None:
        """What the sidecar tells, if it is about the file that is there; else None."""
        try:
            told: dict[str, Any] = json.loads(self._sidecar.read_bytes())
            fits = told["file"] == _identity(self.file) or self._has_content(told["bytes"], told["sha256"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return told if fits else None

    def _tell(self, about: Path, receipt: Receipt, run: Run, published_by: str) -> None:
        facts = {
            "run_id": published_by,
            "recipe": run.recipe,
            "source": run.source.fingerprint,
            "rows": receipt.rows,
            "bytes": receipt.bytes,
            "sha256": receipt.sha256,
            "file": _identity(about),
        }
        with Draft(self.file, run.id) as draft:
            draft.write(json.dumps(facts, indent=2).encode())
            draft.finish()
        with disk_errors(self._sidecar):
            put_in_place(draft.path, self._sidecar)

    def _holds(self, receipt: Receipt, told: dict[str, Any] | None) -> bool:
        """Whether the file has this content already. A run that was killed may have left no word of it."""
        if told:
            return bool(told["sha256"] == receipt.sha256)
        return self._has_content(receipt.bytes, receipt.sha256)

    def _has_content(self, size: int, sha256: str) -> bool:
        if not self.file.is_file() or self.file.stat().st_size != size:
            return False
        with self.file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _identity(file: Path) -> dict[str, int]:
    """A file keeps these when it is renamed; they change when it is edited, replaced or copied."""
    stat = file.stat()
    return {"inode": stat.st_ino, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
