"""Reading a dataset's pointer and manifests, and the one conditional write that makes a version live."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from etl.errors import AccessError, ConfigError, DataError
from etl.run import Run
from etl.s3.client import LostRace
from etl.s3.manifest import POINTER, DataFile, Manifest, Pointer
from etl.s3.store import Store
from etl.s3.stored import only_if

DATA = "data/"
MANIFESTS = "_manifests/"

_JSON = "application/json"
_NOBODYS_ETAG = '"00000000000000000000000000000000"'


class Seen(NamedTuple):
    """The pointer as it was read; ``etag`` is the condition under which it may be replaced."""

    pointer: Pointer
    etag: str


def folder_of(run: Run) -> str:
    """Where the files of a run go: the same for an equal recipe, so that a repeated run finds what is there."""
    return f"{DATA}{run.recipe[:16] if run.recipe else run.id}/"


class Catalog:
    """The pointer and the manifests under one prefix."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.store = store
        self.prefix = prefix
        self.uri = store.uri(prefix)

    def look(self) -> Seen | None:
        """None if nothing is published, or if the credentials may not tell; a swap will fail then."""
        return self._seen(self.store.look(self.prefix + POINTER))

    def pointer(self) -> Seen | None:
        """None if nothing is published."""
        return self._seen(self.store.get(self.prefix + POINTER))

    def published(self, otherwise: str) -> Seen:
        """The pointer. Raises ConfigError, which ends in ``otherwise``, if nothing is published."""
        seen = self.pointer()
        if seen is None:
            raise ConfigError(f"nothing is published at {self.uri}: {otherwise}")
        return seen

    def manifest(self, path: str) -> Manifest:
        found = self.store.get(self.prefix + path)
        if found is None:
            raise DataError(f"{self.uri}{path} is missing: the pointer names it; roll back to another version")
        return Manifest.from_json(found[0], self.uri + path)

    def add_manifest(self, manifest: Manifest) -> str:
        """Store it; gives its path. Its name holds its content's hash: if it is there already, it is the same."""
        body = manifest.to_json()
        path = manifest.path(body)
        self.put_new(path, body)
        return path

    def put_new(self, path: str, body: bytes) -> None:
        """Store ``body`` where nothing is yet, or what it is already: then this request's reply was lost."""
        if not self._put_if(only_if(None), path, body) and self.store.get(self.prefix + path) is None:
            raise LostRace(f"{self.uri}{path}: the store said that it exists, and it does not; run again")

    def keeps_conditions(self, path: str, body: bytes) -> bool:
        """Whether the store refuses what it must refuse; ``path`` exists with this ``body``."""
        return not any(self._put_if(condition, path, body) for condition in (only_if(None), only_if(_NOBODYS_ETAG)))

    def swap(self, pointer: Pointer, etag: str | None) -> str | None:
        """Make ``pointer`` the live one, if the one there still has ``etag`` (None: if there is none). The version id.

        Raises LostRace if somebody else was first.
        """
        body = pointer.to_json()
        key = self.prefix + POINTER
        try:
            reply = self.store.put(key, body, only_if(etag), ContentType=_JSON)
        except LostRace as error:
            now = self.look()
            if now is None and etag is None:
                raise AccessError(f"{self.uri}{POINTER} exists, but may not be read: ask for s3:GetObject") from error
            if now is None or now.pointer != pointer:  # else it was this very request, and its reply was lost
                raise
            return None
        version_id: str | None = reply.get("VersionId")
        return version_id

    def lost(self, files: Iterable[DataFile], folder: str = DATA) -> list[DataFile]:
        """Those of ``files``, all below ``folder``, that are not there, or not of their size."""
        there = {stored.key: stored.bytes for stored in self.store.objects(self.prefix + folder)}
        return [file for file in files if there.get(self.prefix + file.path) != file.bytes]

    def _seen(self, found: tuple[bytes, str] | None) -> Seen | None:
        if found is None:
            return None
        body, etag = found
        return Seen(Pointer.from_json(body, self.uri + POINTER), etag)

    def _put_if(self, condition: dict[str, str], path: str, body: bytes) -> bool:
        """Whether the store wrote it."""
        try:
            self.store.put(self.prefix + path, body, condition, ContentType=_JSON)
        except LostRace:
            return False
        return True
