"""Publishes to S3: one object, or a dataset of many; whole when the run is right and not at all when it is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etl.base import Loader
from etl.formats.options import CONTENT_TYPES
from etl.history import Garbage, History, Replays, Version
from etl.run import Live, Published, Receipt, Run
from etl.s3.options import S3Options

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.s3.dataset import DatasetLayout
    from etl.s3.object import ObjectLayout
    from etl.s3.pointer import Catalog
    from etl.s3.store import Store


class S3Loader(Loader, S3Options, History):
    """Publishes one object (``key``) or a dataset of many objects (``prefix``).

    Both appear in one act at the commit, and equal content is not written again. ``etl/s3/object.py`` says how that
    is done for one object, whose history is the bucket's versioning; ``etl/s3/dataset.py`` how for a dataset, which
    keeps its own history.
    """

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key or self.prefix}"

    def store(self, *, hurried: bool = False) -> Store:
        """The bucket, with a connection of its own unless it is ``connected``."""
        from etl.s3.store import Store

        return Store(
            self.bucket,
            region=self.region,
            owner=self.expected_bucket_owner,
            writing=self.writing(),
            deadline_s=self.deadline_s,
            conditions_needed=self.prefix is not None and not self.single_writer,
            hurried=hurried,
        )

    def catalog(self) -> Catalog:
        """What is published under the prefix."""
        from etl.s3.pointer import Catalog

        return Catalog(self.store(), self.prefix or "")

    def data_options(self, run: Run, **facts: str | None) -> dict[str, Any]:
        """What S3 is told about an object that holds data. ``facts``: more of our metadata, without ``etl-``."""
        ours = {"run-id": run.id, "recipe": run.recipe, "source": run.source.fingerprint, **facts}
        options = {
            "ContentType": CONTENT_TYPES[self.file_format],
            "StorageClass": self.storage_class,
            "Metadata": {**self.metadata, **{f"etl-{name}": _ascii(value) for name, value in ours.items() if value}},
        }
        return {name: value for name, value in options.items() if value}

    def connected(self) -> AbstractContextManager[None]:
        from etl.s3.client import shared_clients

        return shared_clients()

    def live(self) -> Live | None:
        return self._layout().live()

    def write(self, batches: Iterator[DataFrame], run: Run) -> Receipt:
        return self._layout().write(batches, run)

    def commit(self, receipts: Sequence[Receipt], run: Run) -> Published:
        return self._layout().commit(receipts, run)

    def abort(self, receipts: Sequence[Receipt]) -> None:
        self._layout().abort(receipts)

    def check(self) -> str:
        return self._layout().check()

    def versions(self) -> list[Version]:
        return self._layout().versions()

    def rollback(self, run_id: str) -> Version:
        return self._layout().rollback(run_id)

    def sweep(self, grace: timedelta, *, apply: bool = False) -> list[Garbage]:
        return self._layout().sweep(grace, apply=apply)

    def figures(self, live: Live) -> Mapping[str, Any] | None:
        if self.prefix is None:
            return super().figures(live)
        from etl.s3.dataset import DatasetLayout

        return DatasetLayout(self).figures()

    def keeps_state(self) -> bool:
        return self.mode == "append"

    def adds_rows(self) -> bool:
        return self.mode == "append"

    def replays(self) -> Replays | None:
        if self.prefix is None:
            return None
        from etl.s3.replays import DatasetReplays

        return DatasetReplays(self.catalog())

    def keep(self, name: str, path: Path) -> str:
        key = self.beside(name)
        content_type = "application/json" if name.endswith(".json") else "application/x-ndjson"
        store = self.store()
        store.put(key, path, ContentType=content_type)
        return store.uri(key)

    def kept(self, name: str) -> bytes | None:
        found = self.store().get(self.beside(name))
        return found[0] if found else None

    def kept_names(self, folder: str) -> list[str]:
        place = self.beside(folder)
        return [stored.key.removeprefix(place) for stored in self.store().objects(place)]

    def beside(self, name: str) -> str:
        """The key of a small file that is kept beside the data."""
        folder, slash, _ = (self.key or self.prefix or "").rpartition("/")
        return f"{folder}{slash}{name}"

    def _layout(self) -> ObjectLayout | DatasetLayout:
        if self.key is not None:
            from etl.s3.object import ObjectLayout

            return ObjectLayout(self, self.key)
        from etl.s3.dataset import DatasetLayout

        return DatasetLayout(self)


def _ascii(value: str) -> str:
    return value.encode("ascii", "backslashreplace").decode()
