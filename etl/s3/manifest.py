"""What a dataset's manifest and pointer say: JSON that anybody can read without this program.

``_manifests/<run id>-<sha16>.json`` never changes: it lists the files of one published version. ``_current.json``, the
pointer, says which manifest is live, and which were before. Paths are relative to the dataset's prefix, so that a
copy of the whole prefix is a working dataset.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from etl.errors import DataError
from etl.formats.options import Format

POINTER = "_current.json"
FORMAT_VERSION = 1

Body = bytes  # the classes below have fields of that name


@dataclass(frozen=True)
class DataFile:
    """One file. ``partition``: column -> value as text, or None for null. ``run_id``: of the run that added it."""

    path: str
    bytes: int
    sha256: str
    crc32: str
    rows: int
    run_id: str
    partition: dict[str, str | None] = field(default_factory=dict)
    version_id: str | None = None
    encryption: str | None = None

    @property
    def content(self) -> tuple[object, ...]:
        """Equal for files that hold the same and are kept in the same way."""
        return self.sha256, self.bytes, self.encryption, *sorted(self.partition.items(), key=str)


@dataclass(frozen=True)
class Share:
    """What one run added to a version. ``content`` is equal for equal files; None if the run had no rows to add.

    An incremental run has no ``content``: its rows are new, though their files may be equal to older ones.
    ``source``: the fingerprint of what was read. ``replays``: the run whose rejected rows these are, mended.
    ``figures``: of the rows, as ``etl.figures`` counts them, kept for the last share only.
    """

    run_id: str
    recipe: str | None
    content: str | None
    rows: int
    bytes: int
    source: str | None = None
    replays: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """One version of a dataset. ``shares``: the runs whose rows are in it, one unless it was appended to.

    ``schema``: column -> type, of the table as readers get it, partition columns included; ``arrow_schema`` is the
    same as a serialised Arrow schema, in base64. ``state`` is free: what the next run needs to know.
    """

    run_id: str
    pipeline: str
    published_at: str
    recipe: str | None
    source: str
    mode: str
    parent: str | None
    file_format: Format
    format_options: dict[str, Any]
    partition_by: tuple[str, ...]
    schema: dict[str, str]
    arrow_schema: str
    rows: int
    bytes: int
    shares: tuple[Share, ...]
    files: tuple[DataFile, ...]
    state: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> Body:
        return _to_json(self)

    @classmethod
    def from_json(cls, body: Body, uri: str) -> Manifest:
        """Raises DataError unless ``uri`` ends in the hash of ``body``."""
        if not uri.endswith(f"-{_sha16(body)}.json"):
            raise DataError(f"{uri} is damaged: its content does not fit its name")
        facts = _from_json(cls, body, uri)
        facts["partition_by"] = tuple(facts["partition_by"])
        facts["shares"] = tuple(Share(**share) for share in facts["shares"])
        facts["files"] = tuple(DataFile(**file) for file in facts["files"])
        return cls(**facts)

    def path(self, body: Body) -> str:
        """Where it is stored, below the prefix."""
        return f"_manifests/{self.run_id}-{_sha16(body)}.json"


@dataclass(frozen=True)
class Entry:
    """A version in the pointer's list of what was published. ``manifest`` is a path below the prefix."""

    run_id: str
    manifest: str
    published_at: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class Pointer:
    """Which version is live. ``recipe`` and ``state`` are those of its manifest. ``versions``: the oldest first."""

    manifest: str
    run_id: str
    recipe: str | None
    versions: tuple[Entry, ...]
    state: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> Body:
        return _to_json(self)

    @classmethod
    def from_json(cls, body: Body, uri: str) -> Pointer:
        facts = _from_json(cls, body, uri)
        facts["versions"] = tuple(Entry(**entry) for entry in facts["versions"])
        return cls(**facts)


def pointer_to(manifest: Manifest, path: str, versions: tuple[Entry, ...]) -> Pointer:
    return Pointer(path, manifest.run_id, manifest.recipe, versions, manifest.state)


def digest(files: Sequence[DataFile]) -> str:
    """Equal for equal files in equal order, wherever they are stored."""
    return hashlib.sha256(repr([file.content for file in files]).encode()).hexdigest()


def _to_json(thing: Manifest | Pointer) -> bytes:
    return json.dumps({"format_version": FORMAT_VERSION, **asdict(thing)}, ensure_ascii=False, indent=1).encode()


def _from_json(kind: type[Any], body: Body, uri: str) -> dict[str, Any]:
    """The fields that ``kind`` knows; later programs may write more."""
    try:
        facts = json.loads(body)
        version = facts["format_version"]
        known = {each.name: facts[each.name] for each in fields(kind)}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{uri} is not what this program writes there: {error!r}") from error
    if version != FORMAT_VERSION:
        raise DataError(f"{uri} was written by a later version of this program (format {version}); update this one")
    return known


def _sha16(body: Body) -> str:
    return hashlib.sha256(body).hexdigest()[:16]
