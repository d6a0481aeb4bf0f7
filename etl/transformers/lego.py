"""Cleans the Maven Analytics *LEGO Sets* table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from etl.base import Transformer
from etl.errors import DataError
from etl.tables.schema import Column

if TYPE_CHECKING:  # pandas is imported where it is used: a run that finds nothing new does without
    from pandas import DataFrame, Series

    from etl.ledger import Account
    from etl.tables.keys import KeyIndex

# As the source's own data dictionary describes them, in the order in which they are published.
COLUMNS = (
    Column(name="set_id", required=True, description="Official LEGO item number"),
    Column(name="name", required=True, description="Name of the LEGO set"),
    Column(name="year", type="int16", required=True, min=1932, max=2100, description="Release year"),
    Column(name="theme", required=True, description="LEGO theme the set belongs to"),
    Column(name="subtheme", description="Subtheme within the theme"),
    Column(name="theme_group", description="Overall group the theme belongs to"),
    Column(name="category", description="Type of set"),
    Column(name="pieces", type="int32", min=0, description="Number of pieces in the set"),
    Column(name="minifigs", type="int32", min=0, description="Number of minifigures included in the set"),
    Column(name="agerange_min", type="int16", min=0, max=99, unit="years", description="Minimum age recommended"),
    Column(name="us_retail_price", type="float64", min=0, unit="US dollars", description="US retail price at launch"),
    Column(name="brickset_url", description="URL of the set on brickset.com"),
    Column(name="thumbnail_url", description="Small image of the set"),
    Column(name="image_url", description="Full-size image of the set"),
)

_SETS_URL = "https://brickset.com/sets/"
_ID_IN_URL = r"/sets/(?P<id>[^/?#]*-[0-9]+)/?(?:[?#].*)?$"
_ID = r".*[^\s-].*-[0-9]+"
# What spreadsheets make of ids such as 1-8: "Aug-01". ("01-Aug" and "45665" have no number after a dash.)
_DATE_LIKE_ID = r"(?i)(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)-[0-9]+"


class LegoCleaner(Transformer):
    """Repairs, types and checks the LEGO sets: 14 columns in, in any order and case, the same 14 out, in order.

    Text is trimmed, inner white space collapsed and empty text made null. A set id that a spreadsheet turned into a
    date is taken back from the end of ``bricksetURL``. Rows that lack a required value, hold one that cannot be typed
    or is out of range, or give other facts for a set id seen before are rejected; an identical repeat is dropped.
    """

    themes: dict[str, str] = Field(
        default={"Collectable minifigures": "Collectable Minifigures"},
        description="Spellings of a theme to replace, and what to replace them with.",
    )

    def start(self) -> KeyIndex:
        from etl.tables.keys import KeyIndex

        return KeyIndex()

    def keyed_by(self) -> tuple[str, ...]:
        return ("set_id",)

    def made_from(self, column: str, columns: Sequence[str]) -> Sequence[str]:
        made_from = {_plain(column), _plain("brickset_url")} if column == "set_id" else {_plain(column)}
        return [name for name in columns if _plain(name) in made_from]

    def describes(self) -> dict[str, dict[str, str]]:
        return {column.name: column.facts for column in COLUMNS}

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from pandas import DataFrame

        from etl.tables.rules import conform
        from etl.tables.text import clean_text

        sets = _declared_columns(batch, account)
        for column in COLUMNS:
            raw = sets[column.name]
            sets[column.name] = clean_text(raw)
            account.repair(f"{column.name}: white space", raw, sets[column.name])
        sets["set_id"] = _repaired_ids(sets["set_id"], sets["brickset_url"], account)
        sets["theme"] = self._one_spelling(sets["theme"], account)
        typed = {column.name: conform(sets[column.name], column, account) for column in COLUMNS}
        table = DataFrame(typed, index=batch.index, copy=False)  # saying so saves pandas finding out, for every batch
        _unique_ids(table, account)
        return table

    def _one_spelling(self, themes: Series, account: Account) -> Series:
        spelled = themes.replace(self.themes) if themes.isin(list(self.themes)).any() else themes
        account.repair("theme: spelling", themes, spelled)
        return spelled


def _declared_columns(batch: DataFrame, account: Account) -> dict[str, Series]:
    """The declared columns by their new names, as Arrow-backed text. Case and underscores do not matter."""
    from etl.tables.text import TEXT

    found = {_plain(str(name)): str(name) for name in batch.columns}
    missing = [column.name for column in COLUMNS if _plain(column.name) not in found]
    if missing:
        raise DataError(f"the source lacks {', '.join(missing)}; it has {', '.join(map(str, batch.columns))}")
    wanted = {column.name: found[_plain(column.name)] for column in COLUMNS}
    extra = [str(name) for name in batch.columns if name not in wanted.values()]
    if extra:
        account.warn(f"columns that are not published: {', '.join(extra)}")
    return {name: batch[source].astype(TEXT) for name, source in wanted.items()}


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "")


def _repaired_ids(ids: Series, urls: Series, account: Account) -> Series:
    """The set ids, with the one at the end of the URL in place of each that differs from it."""
    confirmed = (urls == _SETS_URL + ids).fillna(False)
    if confirmed.all():
        return ids
    doubtful = ids[~confirmed]
    true_ids = urls[~confirmed].str.extract(_ID_IN_URL)["id"]
    repaired = ids.copy()
    repaired[~confirmed] = true_ids.fillna(doubtful)
    account.repair("set_id: taken from bricksetURL", ids, repaired)
    unconfirmed = repaired[~confirmed][true_ids.isna()]
    damaged = unconfirmed.notna() & (~unconfirmed.str.fullmatch(_ID) | unconfirmed.str.fullmatch(_DATE_LIKE_ID))
    if damaged.any():
        rule = "is not a set id, and there is no bricksetURL to repair it from"
        account.reject(damaged, rule, column="set_id", values=unconfirmed)
    return repaired


def _unique_ids(sets: DataFrame, account: Account) -> None:
    index: KeyIndex = account.state
    leaving = account.leaving(sets.index)
    candidates = sets[~leaving] if leaving.any() else sets
    repeats, conflicts = index.check(candidates, ["set_id"])
    account.drop(candidates.index[repeats], "identical repeat of a set_id")
    rule = "the same id came before with other facts"
    account.reject(candidates.index[conflicts], rule, column="set_id", values=candidates["set_id"])
