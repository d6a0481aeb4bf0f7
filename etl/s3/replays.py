"""What replaying a run's rejected rows asks of a dataset: is the run live, was it replayed, which keys does it have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from etl.errors import ConfigError
from etl.history import Replays
from etl.s3.manifest import Manifest
from etl.s3.pointer import Catalog

if TYPE_CHECKING:
    from pandas import DataFrame


class DatasetReplays(Replays):
    """Asks the live version's manifest. Its shares tell which runs it consists of, and which of them are replays."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def check(self, run_id: str) -> str | None:
        return replayed_by(self._live(), run_id, self._catalog.uri)

    def columns(self) -> list[str]:
        return list(self._live().schema)

    def rows(self, run_id: str, columns: Sequence[str]) -> Iterator[DataFrame]:
        import pandas as pd

        from etl.dataset import arrow_schema, read_file

        manifest = self._live()
        schema, runs = arrow_schema(manifest), _descendants(manifest, run_id)
        for file in manifest.files:
            if file.run_id in runs:
                table = read_file(self._catalog, manifest, file, schema, columns)
                yield table.to_pandas(types_mapper=pd.ArrowDtype)

    def _live(self) -> Manifest:
        seen = self._catalog.published("there is nothing to add rows to")
        return self._catalog.manifest(seen.pointer.manifest)


def replayed_by(live: Manifest, run_id: str, uri: str) -> str | None:
    """The run that has replayed ``run_id``, if any. Raises ConfigError unless rows of ``run_id`` are live."""
    runs = [share.run_id for share in live.shares]
    if run_id not in runs:
        raise ConfigError(
            f"run {run_id} is no part of what is live at {uri}, which is of run {runs[-1]}: its rows were replaced, "
            "rolled back or never published. Run the pipeline instead: it reads the source again"
        )
    return next((share.run_id for share in live.shares if share.replays == run_id), None)


def _descendants(manifest: Manifest, run_id: str) -> set[str]:
    """The run, the ones before it that it replays, and those that replay any of them: all rows of one source."""
    family = {run_id}
    for share in reversed(manifest.shares):
        if share.run_id in family and share.replays:
            family.add(share.replays)
    for share in manifest.shares:
        if share.replays in family:
            family.add(share.run_id)
    return family
