"""What an incremental pipeline keeps between runs, beside the data it adds to, and committed with it.

    value     the greatest cursor of all rows read so far, of those too that were rejected or dropped later, but never
              later than the run began: neither a date in the future nor a source that is read bit by bit, while it
              changes, must hide what comes until then
    latest    the greatest cursor, whatever the clock was
    from      where the next run begins to read: ``lag`` before ``value``
    columns   what tells one row from another: key and cursor, or all columns
    seen      fingerprints of the rows read from there on, 16 bytes each, which the next run is going to meet again

A row whose fingerprint is there is left out, as many times as it was seen: equal rows keep their number. A row that
vanishes from the source and comes back with its old cursor after ``value`` has moved on is taken for a new one.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from etl.errors import ConfigError
from etl.incremental.options import Cursor, Incremental
from etl.incremental.values import fitted, from_text, microseconds, to_text
from etl.tables.arrow import Values

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Reached:
    """How far the runs so far have come. The head of this file explains the fields."""

    value: Cursor
    latest: Cursor
    next_from: Cursor
    seen: Counter[bytes]
    columns: tuple[str, ...]

    def kept(self, options: Incremental) -> dict[str, Any]:
        """As it is kept, in JSON."""
        return {
            "column": options.column,
            "key": list(options.key),
            "value": to_text(self.value),
            "latest": to_text(self.latest),
            "from": to_text(self.next_from),
            "columns": list(self.columns),
            "seen": base64.b64encode(b"".join(sorted(self.seen.elements()))).decode(),
        }

    @classmethod
    def from_kept(cls, kept: Mapping[str, Any], options: Incremental) -> Reached:
        """Raises ConfigError if it was kept for another column or key."""
        for name, now in (("column", options.column), ("key", list(options.key))):
            if kept[name] != now:
                raise ConfigError(
                    f"extract.incremental.{name} is {now!r}, and was {kept[name]!r} when the data was published: "
                    "nobody can tell where to continue; set it back, or publish to another prefix"
                )
        value, latest, next_from = (from_text(kept[name]) for name in ("value", "latest", "from"))
        seen = base64.b64decode(kept["seen"])
        return cls(
            value,
            latest,
            next_from,
            Counter(seen[at : at + _DIGEST_BYTES] for at in range(0, len(seen), _DIGEST_BYTES)),
            tuple(kept["columns"]),
        )

    def fitted(self, values: Values) -> Reached:
        """With cursors of the kind that the column has now."""
        value, latest, next_from = (fitted(each, values) for each in (self.value, self.latest, self.next_from))
        return replace(self, value=value, latest=latest, next_from=next_from)


def digests(columns: Iterable[Values]) -> list[bytes]:
    """A fingerprint of each row of these columns: equal in every run and on every machine if the row is."""
    rows = zip(*(_plain(column).to_pylist() for column in columns), strict=True)
    return [blake2b(json.dumps(row, default=_text).encode(), digest_size=_DIGEST_BYTES).digest() for row in rows]


def _plain(column: Values) -> Values:
    return microseconds(column).cast(pa.int64()) if pa.types.is_timestamp(column.type) else column


def _text(value: Any) -> str:
    """What JSON does not have, in the one way that does not depend on how a library shows it."""
    return value.hex() if isinstance(value, bytes) else str(value)
