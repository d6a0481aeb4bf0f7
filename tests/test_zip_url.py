"""ZipUrlExtractor: from a web server to numbered rows."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from etl.errors import AccessError, ConfigError, DataError, RetryLater, SourceError
from etl.extractors.zip_url import ZipUrlExtractor
from etl.files.csv_options import CsvOptions
from etl.paths import PROJECT
from tests.contracts import ExtractorContract
from tests.files import zip_of
from tests.reading import rows_of, said_by
from tests.web import WebServer

ROWS = [(f"{number:03}-1", f"Set {number}", str(number * 7)) for number in range(1, 301)]
CSV = "\r\n".join(["set_id,name,pieces", *map(",".join, ROWS)]).encode() + b"\r\n"
OTHER_CSV = CSV.replace(b"Set", b"Box")


def damaged(data: bytes) -> bytes:
    """The same zip with one byte of its compressed data turned over."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


GOOD = zip_of(("sets.csv", CSV))
DAMAGED = damaged(GOOD)
TRUNCATED = GOOD[:-40]


class TestZipUrlExtractor(ExtractorContract):
    @pytest.fixture(autouse=True)
    def _server(self) -> Iterator[None]:
        with WebServer() as self.web:
            self.web.serve("/sets.zip", GOOD, etag='"1"')
            yield

    def make(self, **options: Any) -> ZipUrlExtractor:
        url = options.pop("url", self.web.url("/sets.zip"))
        return ZipUrlExtractor(url=url, **{"backoff_s": 0.01, **options})

    def make_broken(self) -> ZipUrlExtractor:
        return self.make(url=self.web.url("/missing.zip"))

    # -- reading --

    def test_reads_every_row_as_text(self) -> None:
        assert rows_of(self.make(batch_rows=100)) == ROWS

    def test_options_for_csv_are_passed_on(self) -> None:
        self.web.serve("/sets.zip", zip_of(("sets.csv", CSV.replace(b",", b";"))))
        assert rows_of(self.make(csv={"delimiter": ";"})) == ROWS

    def test_one_member_of_several(self) -> None:
        self.web.serve("/sets.zip", zip_of(("sets.csv", CSV), ("themes.csv", b"id\n1\n")))
        assert rows_of(self.make(member="sets.csv")) == ROWS
        with pytest.raises(DataError, match=r"2 members match '\*\.csv'; set member to one of: 'sets\.csv', 'themes"):
            self.make().inspect()

    def test_the_limits_of_zips_are_kept(self) -> None:
        with pytest.raises(DataError, match="max_ratio = 2"):
            self.make(max_ratio=2).inspect()
        with pytest.raises(DataError, match="max_member_bytes = 100"):
            self.make(max_member_bytes=100).inspect()
        with pytest.raises(DataError, match="max_bytes = 100"):
            self.make(max_bytes=100).inspect()

    # -- inspecting --

    def test_says_what_the_source_is(self) -> None:
        source = self.make().inspect()
        assert source.uri == f"{self.web.url('/sets.zip')}#sets.csv"
        assert (source.etag, source.last_modified) == ('"1"', "Sat, 01 Oct 2022 00:00:00 GMT")
        assert source.bytes == len(GOOD)

    def test_the_fingerprint_tells_of_content_alone(self) -> None:
        before = self.make().inspect().fingerprint
        self.web.serve("/sets.zip", GOOD, etag='"2"')
        assert self.make().inspect().fingerprint == before
        self.web.serve("/sets.zip", zip_of(("sets.csv", OTHER_CSV)), etag='"3"')
        assert self.make().inspect().fingerprint != before

    def test_a_run_downloads_once_and_an_unchanged_one_not_at_all(self) -> None:
        for _ in range(2):
            extractor = self.make()
            extractor.inspect()
            assert rows_of(extractor) == ROWS
        assert [request.headers["If-None-Match"] for request in self.web.requests] == [None, '"1"']

    def test_what_was_inspected_is_what_is_read(self) -> None:
        extractor = self.make()
        extractor.inspect()
        self.web.serve("/sets.zip", zip_of(("sets.csv", OTHER_CSV)), etag='"2"')
        assert rows_of(extractor) == ROWS
        assert rows_of(pickle.loads(pickle.dumps(extractor))) == ROWS

        self.make().inspect()  # another run replaces the file
        with pytest.raises(RetryLater, match="changed after this run began"):
            rows_of(extractor)

    def test_what_was_inspected_can_be_fetched_again(self) -> None:
        extractor = self.make()
        extractor.inspect()
        elsewhere = pickle.loads(pickle.dumps(extractor))
        for file in elsewhere.cache_dir.rglob("*.body"):
            file.unlink()
        assert rows_of(elsewhere) == ROWS

    def test_heavy_libraries_are_loaded_while_a_zip_arrives_and_not_if_none_does(self) -> None:
        code = f"""
            import json, sys, threading
            from etl.extractors.zip_url import ZipUrlExtractor
            ZipUrlExtractor(url={self.web.url("/sets.zip")!r}).inspect()
            for thread in threading.enumerate():
                if thread.name == "import":
                    thread.join()
            print(json.dumps([name for name in ("pandas", "pyarrow", "numpy", "rich") if name in sys.modules]))
        """
        assert json.loads(said_by(code)) == ["pandas", "pyarrow", "numpy"]
        assert json.loads(said_by(code)) == []

    # -- what a server may send instead --

    @pytest.mark.parametrize("method", ["inspect", "check"])
    def test_a_page_instead_of_a_zip(self, method: str) -> None:
        self.web.serve("/sets.zip", b"<!DOCTYPE html><title>Log in</title>", content_type="text/html; charset=utf-8")
        with pytest.raises(SourceError, match=r"sent text/html; charset=utf-8 that is not a zip.*<!DOCTYPE html>"):
            getattr(self.make(), method)()

    def test_a_page_is_not_kept(self) -> None:
        self.web.serve("/sets.zip", b"<!DOCTYPE html>", content_type="text/html", etag='"1"')
        with pytest.raises(SourceError):
            self.make().inspect()
        self.web.serve("/sets.zip", GOOD, etag='"1"')
        assert rows_of(self.make()) == ROWS

    def test_nothing_at_all(self) -> None:
        self.web.serve("/sets.zip", b"", content_type="")
        with pytest.raises(SourceError, match="not a zip: it begins with b''"):
            self.make().inspect()

    @pytest.mark.parametrize("method", ["inspect", "extract"])
    def test_a_zip_cut_short_unnoticed_is_downloaded_afresh(self, method: str) -> None:
        self.web.once("/sets.zip", length=False, cut_after=len(TRUNCATED))
        extractor = self.make()
        if method == "inspect":
            extractor.inspect()
        assert rows_of(extractor) == ROWS
        assert [request.headers["If-None-Match"] for request in self.web.requests] == [None, None]

    def test_but_only_once(self) -> None:
        self.web.serve("/sets.zip", TRUNCATED, etag='"1"')
        with pytest.raises(DataError, match="damaged or cut short"):
            self.make().inspect()
        assert len(self.web.requests) == 2

    def test_one_that_is_damaged_twice_is_not_kept_by_who_reads_it(self) -> None:
        self.web.serve("/sets.zip", TRUNCATED, etag='"1"')
        with pytest.raises(DataError, match=r"damaged or cut short: .*; run again to download it afresh"):
            rows_of(self.make())
        self.web.serve("/sets.zip", GOOD, etag='"2"')
        assert rows_of(self.make()) == ROWS
        assert [request.headers["If-None-Match"] for request in self.web.requests] == [None, None, None]

    def test_damage_found_while_reading_is_not_kept(self) -> None:
        self.web.serve("/sets.zip", DAMAGED, etag='"1"')
        extractor = self.make()
        extractor.inspect()
        with pytest.raises(DataError, match=r"'sets\.csv' is damaged: .*; run again to download it afresh") as failure:
            rows_of(extractor)
        assert failure.value.step == "ZipUrlExtractor"
        self.web.serve("/sets.zip", GOOD, etag='"1"')
        assert rows_of(self.make()) == ROWS

    # -- checking --

    def test_check_moves_next_to_nothing(self) -> None:
        news = self.make().check()
        assert news == (
            f"reachable: {self.web.url('/sets.zip')}, {len(GOOD):,} bytes, last modified Sat, 01 Oct 2022 00:00:00 GMT"
        )
        assert [request.headers["Range"] for request in self.web.requests] == ["bytes=0-255"]

    def test_check_of_a_server_that_says_little(self) -> None:
        self.web.serve("/sets.zip", GOOD, length=False, last_modified=None, ranges=False)
        assert self.make().check().endswith(", size unknown, last modified unknown")

    def test_check_of_a_server_that_compresses_everything(self) -> None:
        self.web.serve("/sets.zip", GOOD, gzipped=True, ranges=False)
        assert self.make().check().startswith("reachable: ")

    @pytest.mark.parametrize(("status", "error"), [(403, AccessError), (404, SourceError), (503, SourceError)])
    def test_check_has_bad_news(self, status: int, error: type[Exception]) -> None:
        self.web.serve("/sets.zip", status=status)
        with pytest.raises(error, match=f"answered {status}"):
            self.make().check()
        assert len(self.web.requests) == 1

    # -- options --

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"url": "file:///etc/passwd"}, "url"),
            ({"url": "http://example.com/a.zip"}, "url"),
            ({"url": "https://x/a.zip", "sha256": "abc"}, "sha256"),
            ({"url": "https://x/a.zip", "attempts": 0}, "attempts"),
            ({"url": "https://x/a.zip", "headers": {"A": "1\r\nB: 2"}}, "headers"),
            ({"url": "https://x/a.zip", "csv": {"delimiter": ""}}, "csv"),
        ],
    )
    def test_mistakes_are_found_without_asking_anybody(self, options: dict[str, Any], field: str) -> None:
        with pytest.raises(ValidationError) as failure:
            ZipUrlExtractor.model_validate(options)
        assert [error["loc"][0] for error in failure.value.errors()] == [field]

    def test_http_is_accepted_when_allowed(self) -> None:
        assert ZipUrlExtractor(url="http://example.com/a.zip", allow_http=True).csv == CsvOptions()

    def test_a_url_that_got_past_validation_is_still_refused(self) -> None:
        sneaked = self.make().model_copy(update={"url": "file:///etc/passwd"})
        with pytest.raises(ConfigError, match="should start with https://"):
            sneaked.inspect()

    def test_no_secret_is_shown(self) -> None:
        extractor = self.make(url=self.web.url("/sets.zip?signature=hush"), headers={"X-Key": "hush"})
        source = extractor.inspect()
        assert self.web.requests[0].headers["X-Key"] == "hush"
        assert "/sets.zip?***#sets.csv" in source.uri
        assert "hush" not in repr(extractor) + str(extractor) + repr(source) + extractor.check()

    def test_the_cache_is_where_it_was_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ETL_CACHE_DIR", str(tmp_path / "here"))
        assert self.make().cache_dir == tmp_path / "here"
        self.make(cache_dir=tmp_path / "there").inspect()
        assert list((tmp_path / "there").rglob("*.body"))
        monkeypatch.delenv("ETL_CACHE_DIR")
        assert self.make().cache_dir == PROJECT / ".cache"
        assert "cache_dir" not in self.make().model_dump()  # so that the recipe of a run is the same on any machine
