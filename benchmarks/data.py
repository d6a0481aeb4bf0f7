"""Makes the benchmark's zips: LEGO-like tables of any size, always the same bytes for the same code.

A row is a pure function of its set number, so any row can be made again anywhere: no random state, no order.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from samples.make_sample import HEADER, MEMBER

SIZES = {"S": 18_457, "M": 1_000_000, "L": 5_000_000, "XL": 20_000_000}
WITHOUT_REPEATS = ("S",)
REPEAT_EVERY = 100  # 1% of the rows of the larger sizes repeat an earlier row exactly

_BLOCK_ROWS = 250_000
_NUMBERS = 1 << 25  # more than the largest size
_SCATTER = 0x9E3779B1  # odd, so that multiplying by it modulo a power of two never meets the same number twice
_VARIANTS = 37

Numbers = NDArray[np.uint64]
Column = Any  # an Arrow array: its stubs know the type of each value, and cannot follow what is done here

# fmt: off
_PREFIXES = ("K", "VP", "MMMB", "COMCON", "BIONICLE", "COLLECTOR-")
_ADJECTIVES = (
    "Small", "Large", "Red", "Blue", "Flying", "Old", "Hidden", "Mighty", "Snowy", "Electric", "Royal", "Lunar",
    "Rapid", "Tiny", "Ancient", "Brave", "Frozen", "Giant", "Modern", "Police", "Fire", "Arctic", "Jungle",
)
_NOUNS = (
    "House", "Crane", "Rover", "Dragon", "Station", "Lighthouse", "Truck", "Robot", "Ferry", "Windmill", "Castle",
    "Bridge", "Helicopter", "Submarine", "Racing Car", "Excavator", "Bakery", "Tower", "Airport", "Battle Pack",
)
_ENDINGS = ("", "", "", " with Driver", " and Trailer", " Set", " Rescue", " Chase", " Key Chain", " at Night")
_ACCENTED = (" Café", " Mühle", " Château", " Señor")
_THEMES = (
    "Gear", "Duplo", "City", "Star Wars", "Town", "Collectable Minifigures", "Creator", "Basic", "Bionicle", "Friends",
    "Technic", "Space", "Ninjago", "Racers", "Promotional", "Castle", "Trains", "Harry Potter", "Marvel Super Heroes",
    "Games", "Seasonal", "Hero Factory", "Belville", "Education", "Minecraft", "Pirates", "Jurassic World",
)
_GROUPS = ("Miscellaneous", "Licensed", "Modern day", "Pre-school", "Action/Adventure", "Historical")
_SUBTHEMES = (
    "Police", "Fire", "Episode III", "Key Chains/Miscellaneous", "Supplemental", "Watches/Clocks", "Magazine Gift",
    "The Clone Wars", "Stationery", "Seasonal", "Classic", "Series 14 - Monsters", "Model Maker", "Expert Builder",
    "Product Collection", "Buildings", "Traffic", "Tiny Turbos", "Bags/Luggage", "Service Packs", "Promotional",
)
_CATEGORIES = ("Normal", "Normal", "Normal", "Normal", "Normal", "Gear", "Gear", "Other", "Book", "Collection")
# fmt: on


def make_zip(rows: int, folder: Path, *, repeats: bool) -> Path:
    """The zip of ``rows`` rows in ``folder``, made now if it is not there."""
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    path = folder / f"lego_{rows}_{code}.zip"
    if path.exists():
        return path
    print(f"making {path.name}, once", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    member = zipfile.ZipInfo(MEMBER, (2022, 12, 31, 0, 0, 0))
    member.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(unfinished, "w") as archive, archive.open(member, "w", force_zip64=True) as file:
        file.write((",".join(HEADER) + "\r\n").encode())
        for block in _blocks(rows, repeats=repeats):
            file.write(block)
    return unfinished.rename(path)


def distinct_rows(rows: int, *, repeats: bool) -> int:
    return rows - rows // REPEAT_EVERY if repeats else rows


def _blocks(rows: int, *, repeats: bool) -> Iterator[memoryview]:
    for start in range(0, rows, _BLOCK_ROWS):
        places = np.arange(start, min(start + _BLOCK_ROWS, rows), dtype=np.uint64)
        yield _lines(_set_numbers(places) if repeats else places)


def _set_numbers(places: Numbers) -> Numbers:
    """Which set stands in each row: its own, but every hundredth row repeats one from anywhere before it."""
    earlier = _hashed(places, "repeat") % np.maximum(places, 1)
    earlier -= (earlier % REPEAT_EVERY == REPEAT_EVERY - 1).astype(np.uint64)  # a row that is no repeat itself
    return np.where(places % REPEAT_EVERY == REPEAT_EVERY - 1, earlier, places)


def _lines(sets: Numbers) -> memoryview:
    """The CSV lines of these sets."""
    ids = _ids(sets)
    pictured = _share(sets, "picture", 0.9455)
    pieces = 1 + _hashed(sets, "pieces") % (1 + _hashed(sets, "most pieces") % 1500)
    price = pc.binary_join_element_wise(_text(pieces // 10), "99", ".")
    columns = (
        ids,
        _names(sets),
        _text(1970 + _hashed(sets, "year") % 53),
        _choice(sets, "theme", _THEMES),
        _or_blank(_choice(sets, "subtheme", _SUBTHEMES), _share(sets, "subtheme", 0.8073)),
        _or_blank(_choice(sets, "theme", _GROUPS), _share(sets, "group", 0.9999)),
        _choice(sets, "category", _CATEGORIES),
        _or_blank(_text(pieces), _share(sets, "has pieces", 0.7874)),
        _or_blank(_text(1 + _hashed(sets, "minifigs") % 9), _share(sets, "has minifigs", 0.4551)),
        _or_blank(_text(1 + _hashed(sets, "age") % 12), _share(sets, "has age", 0.3677)),
        _or_blank(price, _share(sets, "has price", 0.3783)),
        _joined("https://brickset.com/sets/", ids),
        _or_blank(_joined("https://images.brickset.com/sets/small/", ids, ".jpg"), pictured),
        _joined(_or_blank(_joined("https://images.brickset.com/sets/images/", ids, ".jpg"), pictured), "\r\n"),
    )
    lines = pc.binary_join_element_wise(*columns, ",")
    _, _, text = lines.buffers()  # the lines as they lie in memory, one after the other
    return memoryview(text)[: pc.sum(pc.binary_length(lines)).as_py()]


def _ids(sets: Numbers) -> Column:
    """Set ids such as ``31337-1`` or ``COMCON42-11``: unique, in no order, 3 to 19 characters long."""
    scattered = (sets * np.uint64(_SCATTER)) % _NUMBERS
    prefix = _or_blank(_choice(sets, "prefix", _PREFIXES), _share(sets, "has prefix", 0.0721))
    return _joined(prefix, _text(scattered // _VARIANTS + 1), "-", _text(scattered % _VARIANTS + 1))


def _names(sets: Numbers) -> Column:
    plain = _joined(
        _choice(sets, "adjective", _ADJECTIVES), " ", _choice(sets, "noun", _NOUNS), _choice(sets, "ending", _ENDINGS)
    )
    accent = _or_blank(_choice(sets, "accent", _ACCENTED), _share(sets, "has accent", 0.0047))
    space = _or_blank(pa.array([" "] * len(sets)), _share(sets, "has space", 0.0118))
    listed = _joined('"', _choice(sets, "listed", _NOUNS), ", ", plain, '"')
    return pc.if_else(_share(sets, "is listed", 0.0227), listed, _joined(plain, accent, space))


def _choice(sets: Numbers, salt: str, words: Sequence[str]) -> Column:
    """A word for each set; the first ones come far more often than the last."""
    places = _unit(sets, salt) ** 2 * len(words)
    return pa.array(words).take(places.astype(np.int32))


def _or_blank(values: Column, filled: Column) -> Column:
    return pc.if_else(filled, values, "")


def _share(sets: Numbers, salt: str, share: float) -> Column:
    return pa.array(_unit(sets, salt) < share)


def _text(numbers: Numbers) -> Column:
    return pa.array(numbers).cast(pa.string())


def _joined(*parts: Any) -> Column:
    return pc.binary_join_element_wise(*parts, "")


def _unit(sets: Numbers, salt: str) -> NDArray[np.float64]:
    return (_hashed(sets, salt) >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _hashed(numbers: Numbers, salt: str) -> Numbers:
    """splitmix64's mixing of each number with a salt."""
    mixed = numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64(crc32(salt.encode()) << 20)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
