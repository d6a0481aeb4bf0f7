"""A transformer that hides what may not be published."""

from __future__ import annotations

import hmac
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from etl.base import Transformer
from etl.options import DifferentColumns

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.ledger import Account
    from etl.tables.arrow import Values

_SHORTEST_KEY = 16
_HASH_DIGITS = 32


class MaskColumns(Transformer):
    """Hides values: by a keyed hash that still joins and counts, by a fixed text, or by their first characters only.

    The hash is HMAC-SHA256 of the value as text, its first 128 bits in hexadecimal: equal values give equal hashes, and
    nobody without the key can guess values and compare. Null stays null.

    Before this step the values are plain. So that they show up nowhere else, rejected rows, samples of repairs and
    ``--explain`` have ``***`` in their place, back to the columns of the source that they are made from; such rows
    cannot be replayed. ``keep_raw`` shows them as they were read.
    """

    columns: Annotated[DifferentColumns, Field(min_length=1)] = Field(description="The columns to mask.")
    method: Literal["hash", "redact", "truncate"] = Field(default="hash", description="How to mask them.")
    key: SecretStr | None = Field(
        default=None,
        description='For "hash": a secret of 16 characters or more, from the environment as "${NAME}".',
    )
    text: str = Field(default="***", description='For "redact": what to put in the place of each value.')
    keep_raw: bool = Field(
        default=False, description="Whether rejected rows and samples may show these columns as they were read."
    )
    length: int = Field(default=1, ge=0, description='For "truncate": how many characters to keep.')

    @field_validator("key")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and len(key.get_secret_value()) < _SHORTEST_KEY:
            raise ValueError(f"should have {_SHORTEST_KEY} characters or more; `openssl rand -hex 32` makes a good one")
        return key

    @model_validator(mode="after")
    def _has_its_key(self) -> Self:
        if (self.method == "hash") != (self.key is not None):
            raise ValueError('key is needed for method = "hash", and only there')
        return self

    def ingredients(self) -> tuple[str, ...]:
        """Stands for the key in the recipe of a run: another key, another result."""
        return (_keyed_hash(self._key_bytes(), "recipe"),) if self.key else ()

    def hides(self) -> tuple[str, ...]:
        return () if self.keep_raw else self.columns

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import array_of, as_text, check_columns, with_columns

        check_columns(batch, self.columns)
        masked = {}
        for name in self.columns:
            text = as_text(array_of(batch[name]))
            masked[name] = self._masked(text)
            if shown := len(text) - text.null_count:
                account.count_repairs(f"{name}: masked ({self.method})", shown)  # without samples: they would tell
        return with_columns(batch, masked)

    def _masked(self, text: Values) -> Values:
        import pyarrow as pa

        from etl.tables.arrow import pc
        from etl.tables.casting import each_distinct

        if self.method == "redact":
            return pc.if_else(text.is_valid(), self.text, None)
        if self.method == "truncate":
            return pc.utf8_slice_codeunits(text, 0, self.length)
        return each_distinct(text, partial(_keyed_hash, self._key_bytes()), pa.string())

    def _key_bytes(self) -> bytes:
        return self.key.get_secret_value().encode() if self.key else b""


def _keyed_hash(key: bytes, value: str) -> str:
    return hmac.digest(key, value.encode(), "sha256").hex()[:_HASH_DIGITS]
