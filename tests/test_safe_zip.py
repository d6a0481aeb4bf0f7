"""Zips made by people who mean well, by broken tools, and by people who do not mean well."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from etl.errors import DataError
from etl.files.safe_zip import DamagedZipError, ZipLimits, open_member
from tests.files import zip_of

CSV = b"a,b\r\n" + b"".join(b"%d,%d\r\n" % (n, n * n) for n in range(3000))
Edit = Callable[[bytearray], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.zip"


def read(path: Path, member: str | None = None, limits: ZipLimits | None = None) -> bytes:
    with open_member(path, member, limits or ZipLimits(), "https://x/a.zip") as stream:
        return b"".join(iter(lambda: stream.read(1000), b""))


class TestChoice:
    NAMES = ("sets/lego.csv", "sets/parts.csv", "readme.txt")

    @pytest.mark.parametrize(
        ("names", "wanted", "found"),
        [
            (("a.csv",), None, "a.csv"),
            (("deep/down/A.CSV", "readme.txt"), None, "deep/down/A.CSV"),
            (("a.csv", "__MACOSX/a.csv", ".a.csv", "b/._a.csv", "c.csv/"), None, "a.csv"),
            (NAMES, "sets/lego.csv", "sets/lego.csv"),
            (NAMES, "*/lego*", "sets/lego.csv"),
            (NAMES, "*.txt", "readme.txt"),
            (("[1].csv", "1.csv"), "[1].csv", "[1].csv"),
            (("../../etc/cron.d/a.csv",), None, "../../etc/cron.d/a.csv"),
            (("a.csv", "inner.zip"), None, "a.csv"),
            (("a.txt", "__MACOSX/._a.txt", "b/.a.txt"), "*.txt", "a.txt"),
            (("a.txt", "__MACOSX/._a.txt"), "__MACOSX/._a.txt", "__MACOSX/._a.txt"),
        ],
    )
    def test_of_the_one_that_is_meant(self, path: Path, names: tuple[str, ...], wanted: str | None, found: str) -> None:
        path.write_bytes(zip_of(*((name, name.encode()) for name in names)))
        assert read(path, wanted) == found.encode()

    @pytest.mark.parametrize(
        ("names", "wanted", "problem"),
        [
            (NAMES, None, r"2 members match '\*\.csv'; set member to one of: 'sets/lego\.csv', 'sets/parts\.csv'$"),
            (
                NAMES,
                "lego.csv",
                r"no member matches 'lego\.csv'; .*: 'sets/lego\.csv', 'sets/parts\.csv', 'readme\.txt'$",
            ),
            (NAMES, "*.csv", "2 members match"),
            (("readme.txt", "d.csv/"), None, r"no member matches '\*\.csv'; set member to one of: 'readme\.txt'$"),
            ((), None, "holds no files"),
            (tuple(f"{n}.csv" for n in range(50)), None, "'9.csv', and 40 more"),
        ],
    )
    def test_that_is_not_clear(self, path: Path, names: tuple[str, ...], wanted: str | None, problem: str) -> None:
        path.write_bytes(zip_of(*((name, b"x") for name in names)))
        with pytest.raises(DataError, match=problem):
            read(path, wanted)


class TestRefusals:
    def test_encrypted(self, path: Path) -> None:
        path.write_bytes(edited(zip_of(("a.csv", CSV)), set_in_headers(flags=1)))
        with pytest.raises(DataError, match=r"'a\.csv' is encrypted"):
            read(path)

    @pytest.mark.parametrize(("method", "name"), [(9, "Deflate64"), (12, "BZIP2"), (14, "LZMA"), (77, "method 77")])
    def test_methods_that_are_not_read(self, path: Path, method: int, name: str) -> None:
        path.write_bytes(edited(zip_of(("a.csv", CSV)), set_in_headers(method=method)))
        with pytest.raises(DataError, match=f"compressed with {name}"):
            read(path)

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_one_name_twice(self, path: Path) -> None:
        path.write_bytes(zip_of(("a.csv", CSV), ("b.txt", b"1"), ("b.txt", b"2")))
        with pytest.raises(DataError, match=r"holds 'b\.txt' twice"):
            read(path)

    def test_members_that_share_bytes(self, path: Path) -> None:
        path.write_bytes(overlapping_bomb(members=20))
        with pytest.raises(DataError, match="overlaps what follows it"):
            read(path, "0.csv")

    def test_a_member_that_reaches_into_the_directory(self, path: Path) -> None:
        whole = zip_of(("a.csv", CSV), method=zipfile.ZIP_STORED)
        path.write_bytes(edited(whole, lambda data: set_sizes(data, len(CSV) + 50)))
        with pytest.raises(DataError, match="overlaps what follows it"):
            read(path)

    def test_too_many_members(self, path: Path) -> None:
        path.write_bytes(zip_of(("a.csv", CSV), *((str(number), b"") for number in range(10_000))))
        with pytest.raises(DataError, match="holds 10,001 members; more than 10,000"):
            read(path)

    def test_a_directory_beyond_all_measure_is_not_loaded(self, path: Path) -> None:
        whole = zip_of(("a.csv", CSV))
        with path.open("wb") as file:
            file.write(whole[:-22])
            file.truncate(3 << 30)  # a hole: costs nothing
            file.seek(0, io.SEEK_END)
            file.write(whole[-22:-10] + struct.pack("<II", 3 << 30, 0) + whole[-2:])
        with pytest.raises(DamagedZipError, match="its directory says that it is 3,221,225,472 bytes long"):
            read(path)

    def test_a_bomb_by_its_ratio(self, path: Path) -> None:
        path.write_bytes(zip_of(("a.csv", bytes(10_000_000))))
        with pytest.raises(DataError, match="times its size, as zip bombs do, and max_ratio = 200"):
            read(path)
        assert len(read(path, limits=ZipLimits(max_ratio=2000))) == 10_000_000

    def test_a_member_too_large(self, path: Path) -> None:
        path.write_bytes(zip_of(("a.csv", CSV)))
        with pytest.raises(DataError, match="more than max_member_bytes = 1,000"):
            read(path, limits=ZipLimits(max_member_bytes=1000))

    def test_a_bomb_that_lies_about_its_size_inflates_no_further(self, path: Path) -> None:
        whole = zip_of(("a.csv", bytes(50_000_000)))
        path.write_bytes(edited(whole, lambda data: set_sizes(data, 1000, compressed=False)))
        with open_member(path, None, ZipLimits(), "x") as stream, pytest.raises(DamagedZipError, match="1,000 bytes"):
            stream.read(100_000_000)


class TestDamage:
    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
    def test_truncated(self, path: Path, kept: float) -> None:
        whole = zip_of(("a.csv", CSV))
        path.write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(DamagedZipError, match="damaged or cut short"):
            read(path)

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_in_the_content(self, path: Path, method: int) -> None:
        whole = bytearray(zip_of(("a.csv", CSV), method=method))
        whole[len(whole) // 2] ^= 0xFF
        path.write_bytes(whole)
        with pytest.raises(DamagedZipError, match=r"'a\.csv' is damaged"):
            read(path)

    def test_anywhere_is_noticed_or_harmless(self, path: Path) -> None:
        content = CSV[:200]
        whole = zip_of(("a.csv", content), ("b.txt", b"other"))
        chance = random.Random(7)
        for position in range(len(whole)):
            for value in (whole[position] ^ 1 << chance.randrange(8), 0, 0xFF):
                damaged = bytearray(whole)
                damaged[position] = value
                path.write_bytes(damaged)
                with contextlib.suppress(DataError):
                    assert read(path, "a.csv") == content

    def test_reads_are_bounded_however_much_is_asked_for(self, path: Path) -> None:
        path.write_bytes(zip_of(("a.csv", bytes(10_000_000)), method=zipfile.ZIP_STORED))
        with open_member(path, None, ZipLimits(), "x") as stream:
            assert len(stream.read(1 << 40)) == 4 << 20


class TestZip64:
    def test_sizes(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive, archive.open("a.csv", "w", force_zip64=True) as member:
            member.write(CSV)
        assert read(path) == CSV

    def test_beyond_four_gigabytes(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("first.txt", b"here")
            archive.start_dir = 5 << 30  # a hole: costs nothing
            archive.writestr("a.csv", CSV)
        assert path.stat().st_size > 5 << 30
        assert read(path) == CSV


def edited(data: bytes, edit: Edit) -> bytes:
    copy = bytearray(data)
    edit(copy)
    return bytes(copy)


def set_in_headers(*, flags: int = 0, method: int = zipfile.ZIP_DEFLATED) -> Edit:
    """Overwrite the flags and the method in the first local header and the first entry of the directory."""

    def edit(data: bytearray) -> None:
        struct.pack_into("<HH", data, data.index(b"PK\3\4") + 6, flags, method)
        struct.pack_into("<HH", data, data.index(b"PK\1\2") + 8, flags, method)

    return edit


def set_sizes(data: bytearray, size: int, *, compressed: bool = True) -> None:
    """Overwrite the inflated size, and the compressed one, in the first entry of the directory."""
    entry = data.index(b"PK\1\2")
    if compressed:
        struct.pack_into("<I", data, entry + 20, size)
    struct.pack_into("<I", data, entry + 24, size)


def overlapping_bomb(members: int) -> bytes:
    """Many names in the directory for the bytes of one member, as in 42.zip's successors (CVE-2024-0450)."""
    whole = zip_of(("0.csv", CSV))
    start, end = whole.index(b"PK\1\2"), whole.index(b"PK\5\6")
    entry = whole[start:end]
    directory = b"".join(entry.replace(b"0.csv", b"%c.csv" % (48 + number)) for number in range(members))
    end_record = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, members, members, len(directory), start, 0)
    return whole[:start] + directory + end_record
