"""Batch ETL from a table anywhere to S3: extractors, transformers, loaders; and readers of what was published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etl.dataset import dataset_files, read_dataset

__all__ = ["dataset_files", "read_dataset"]


def __getattr__(name: str) -> Any:
    """Import the readers when they are asked for: they load pandas, which a run may not need."""
    if name in __all__:
        from etl import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
