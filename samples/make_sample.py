"""Makes ``lego_sets_sample.zip``: a small made-up table with the kinds of dirt that real copies of LEGO Sets have.

Run ``python samples/make_sample.py`` after a change here; a test compares the zip with what this makes.
"""

from __future__ import annotations

import csv
import io
import random
import zipfile
from pathlib import Path

ZIP_FILE = Path(__file__).parent / "lego_sets_sample.zip"
MEMBER = "lego_sets.csv"
ROWS = 600

# fmt: off
HEADER = (
    "set_id", "name", "year", "theme", "subtheme", "themeGroup", "category", "pieces", "minifigs", "agerange_min",
    "US_retailPrice", "bricksetURL", "thumbnailURL", "imageURL",
)
# fmt: on
THEMES = {
    "City": ("Modern day", ("Police", "Fire", "Harbour", "")),
    "Space": ("Action/Adventure", ("Classic", "Rovers", "")),
    "Castle": ("Historical", ("Knights", "Dragons", "")),
    "Trains": ("Modern day", ("4.5V", "12V", "")),
    "Collectable Minifigures": ("Miscellaneous", ("Series 1", "Series 2")),
    "Creator": ("Model making", ("3 in 1", "Buildings", "")),
}
ADJECTIVES = ("Small", "Large", "Red", "Blue", "Flying", "Old", "Hidden", "Mighty", "Snowy", "Électrique")
NOUNS = ("House", "Crane", "Rover", "Dragon", "Station", "Lighthouse", "Truck", "Robot", "Ferry", "Mühle")

Row = dict[str, str]


def make_sample() -> bytes:
    """The bytes of the zip; always the same ones."""
    chance = random.Random(1958)  # noqa: S311  (not for secrets)
    rows = [_clean_row(number, chance) for number in range(1, ROWS + 1)]
    _damage(rows)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, HEADER)
    writer.writeheader()
    writer.writerows(rows)
    content = b"\xef\xbb\xbf" + _with_dirty_lines(text.getvalue().encode())
    return _zipped({MEMBER: content, "lego_sets_data_dictionary.csv": b"Field,Description\r\nset_id,Set number\r\n"})


def _clean_row(number: int, chance: random.Random) -> Row:
    theme = chance.choice(list(THEMES))
    group, subthemes = THEMES[theme]
    pieces = chance.randint(5, 3000)
    set_id = f"{1000 + number * 7}-1"
    image = f"https://images.example.com/sets/{{}}/{set_id}.jpg"
    pictured = chance.random() < 0.95
    values = (
        set_id,
        f"{chance.choice(ADJECTIVES)} {chance.choice(NOUNS)}",
        str(1970 + number * 52 // ROWS),
        theme,
        chance.choice(subthemes),
        group,
        "Normal",
        str(pieces) if chance.random() < 0.8 else "",
        str(chance.randint(1, 12)) if chance.random() < 0.5 else "",
        str(chance.choice((4, 6, 8, 12, 18))) if chance.random() < 0.4 else "",
        f"{pieces // 10}.99" if chance.random() < 0.4 else "",
        f"https://brickset.com/sets/{set_id}",
        image.format("small") if pictured else "",
        image.format("images") if pictured else "",
    )
    return dict(zip(HEADER, values, strict=True))


def _damage(rows: list[Row]) -> None:
    """The dirt, each kind at a place of its own."""
    for index, (true_id, mangled) in enumerate((("1-8", "01-Aug"), ("8-1", "8-Jan"), ("12-3", "45665")), start=10):
        rows[index]["set_id"] = mangled
        rows[index]["bricksetURL"] = f"https://brickset.com/sets/{true_id}"
    rows[40]["name"] = "  Ferry at Night "
    rows[41]["name"] = "Robot  with   Claw"
    rows[42]["name"] = 'Crane, 12" tall, "long arm"'
    rows[43]["name"] = "Two lines\nof a name"
    rows[60]["theme"] = "Collectable minifigures"
    rows[61]["theme"] = "Castle "
    rows[80]["pieces"] = "67.0"
    rows[100]["year"] = "unknown"
    rows[101]["name"] = " "
    rows[102]["US_retailPrice"] = "-1"
    rows[300] = dict(rows[200])  # an identical repeat
    rows[301] = {**rows[201], "pieces": "1"}  # the same id with other facts


def _with_dirty_lines(content: bytes) -> bytes:
    """What a table of text cannot hold: a line with too few fields, and a name in another encoding."""
    lines = content.split(b"\r\n")
    lines[401] = b"9999-1,Half a row,1999"
    lines[451] = lines[451].replace(b",", b",Caf\xe9 ", 1)
    return b"\r\n".join(lines)


def _zipped(members: dict[str, bytes]) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2022, 12, 31, 0, 0, 0)), content, zipfile.ZIP_DEFLATED, 9)
    return body.getvalue()


if __name__ == "__main__":
    ZIP_FILE.write_bytes(make_sample())
    print(f"{ZIP_FILE}: {ZIP_FILE.stat().st_size:,} bytes")
