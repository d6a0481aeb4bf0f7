"""FilesExtractor reads objects in S3 as it reads files, also from a server that misbehaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from etl.errors import ConfigError, EtlError, RetryLater, SourceError
from etl.extractors.files import FilesExtractor
from tests.conftest import Bucket
from tests.contracts import ExtractorContract
from tests.files import CSV, GZIPPED, PARQUET, WORKBOOK, needs_openpyxl, zip_of
from tests.reading import frame_of, rows_of
from tests.web import WebServer


class TestS3(ExtractorContract):
    @pytest.fixture(autouse=True)
    def _objects(self, bucket: Bucket) -> None:
        self.bucket = bucket
        bucket.client.put_object(Bucket=bucket.name, Key="in/sets.csv", Body=CSV)

    def make(self, **options: Any) -> FilesExtractor:
        return FilesExtractor(path=f"s3://{self.bucket.name}/in/*.csv", **options)

    def make_broken(self) -> FilesExtractor:
        return FilesExtractor(path=f"s3://{self.bucket.name}/missing.csv")

    def put(self, key: str, body: bytes) -> str:
        self.bucket.client.put_object(Bucket=self.bucket.name, Key=key, Body=body)
        return f"s3://{self.bucket.name}/{key}"

    def test_says_what_the_source_is(self) -> None:
        source = self.make().inspect()
        assert (source.uri, source.bytes) == (f"s3://{self.bucket.name}/in/sets.csv", len(CSV))
        before = source.fingerprint
        self.put("in/sets.csv", CSV)
        assert self.make().inspect().fingerprint == before
        self.put("in/sets.csv", CSV + b"6,six,6\n")
        assert self.make().inspect().fingerprint != before

    @pytest.mark.parametrize("name", ["x.parquet", "x.xlsx", "x.zip", "x.csv.gz"])
    @needs_openpyxl
    def test_every_format_is_read_from_s3_too(self, name: str) -> None:
        contents = {"x.parquet": PARQUET, "x.xlsx": WORKBOOK, "x.zip": zip_of(("a.csv", CSV))}
        found = rows_of(FilesExtractor(path=self.put(name, contents.get(name, GZIPPED))))
        assert len(found) == 5

    def test_several_objects(self) -> None:
        self.put("in/deep/er/more.csv", CSV)
        self.put("in/.hidden.csv", CSV)
        self.put("in/folder.csv/", b"")
        extractor = FilesExtractor(path=f"s3://{self.bucket.name}/in/**/*.csv", file_column="file")
        extractor.inspect()
        assert [set(split.extract().__next__()["file"]) for split in extractor.splits()] == [
            {f"s3://{self.bucket.name}/in/deep/er/more.csv"},
            {f"s3://{self.bucket.name}/in/sets.csv"},
        ]

    def test_what_was_inspected_is_what_is_read(self) -> None:
        extractor = self.make()
        extractor.inspect()
        self.put("in/sets.csv", CSV + b"6,six,6\n")
        with pytest.raises(RetryLater, match="changed after this run began"):
            rows_of(extractor)
        self.bucket.client.delete_object(Bucket=self.bucket.name, Key="in/sets.csv")
        with pytest.raises(RetryLater, match="changed after this run began"):
            rows_of(extractor)

    def test_what_is_not_there(self) -> None:
        with pytest.raises(SourceError, match=r"there is no object s3://.*/missing\.csv"):
            self.make_broken().inspect()
        with pytest.raises(SourceError, match=r"there is no object s3://.*/no/\*"):
            FilesExtractor(path=f"s3://{self.bucket.name}/no/*").inspect()
        with pytest.raises(ConfigError, match="the bucket no-such-bucket-at-all does not exist; check path"):
            FilesExtractor(path="s3://no-such-bucket-at-all/*.csv").inspect()

    def test_credentials_that_are_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(EtlError, match="no AWS credentials") as failure:
            self.make().inspect()
        assert failure.value.exit_code == 77


# -- an S3 server that misbehaves ---------------------------------------------------------------------------------


class TestBrokenS3:
    """A web server stands in for S3: it answers HEAD and GET of one object."""

    BODY = b"id,text\n" + b"".join(b"%d,%s\n" % (number, b"x" * 100) for number in range(20_000))

    @pytest.fixture(autouse=True)
    def _server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-tests")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with WebServer() as self.web:
            monkeypatch.setenv("AWS_ENDPOINT_URL", self.web.url("").rstrip("/"))
            self.web.serve("/bucket/sets.csv", self.BODY, etag='"1"')
            self.extractor = FilesExtractor(path="s3://bucket/sets.csv")
            self.extractor.inspect()
            self.web.requests.clear()
            yield

    def test_a_broken_connection_is_taken_up_where_it_broke(self) -> None:
        self.web.once("/bucket/sets.csv", cut_after=1_000_000)
        self.web.once("/bucket/sets.csv", cut_after=500_000, reset=True)
        assert frame_of(self.extractor)["id"].tolist() == [str(number) for number in range(20_000)]
        asked = [(request.headers["Range"], request.headers["If-Match"]) for request in self.web.requests]
        assert asked[0] == (None, '"1"')
        assert [match for _, match in asked[1:]] == ['"1"'] * (len(asked) - 1)
        assert asked[1][0] == "bytes=1000000-"

    def test_a_bucket_in_another_region_is_not_sought_in_the_loader(self) -> None:
        self.web.serve("/bucket/sets.csv", status=301, headers={"x-amz-bucket-region": "eu-west-1"})
        with pytest.raises(ConfigError, match=r'is in eu-west-1; set region = "eu-west-1" in its table'):
            self.extractor.inspect()

    def test_but_not_for_ever(self) -> None:
        self.web.serve("/bucket/sets.csv", self.BODY, etag='"1"', cut_after=0)
        with pytest.raises(RetryLater, match=r"s3://bucket/sets\.csv"):
            frame_of(self.extractor)

    def test_another_content_is_never_spliced_in(self) -> None:
        self.web.serve("/bucket/sets.csv", self.BODY.swapcase(), etag='"2"')
        self.web.once("/bucket/sets.csv", etag='"1"', cut_after=1_000_000)
        with pytest.raises(SourceError, match="something else than was asked for"):
            frame_of(self.extractor)

    def test_nor_the_beginning_once_more(self) -> None:
        self.web.serve("/bucket/sets.csv", self.BODY, etag='"1"', ranges=False)
        self.web.once("/bucket/sets.csv", cut_after=1_000_000)
        with pytest.raises(SourceError, match="something else than was asked for"):
            frame_of(self.extractor)


def test_s3_patterns_mean_what_local_ones_do(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.csv", "b.csv", ".c.csv", "d/a.csv", "d/e/a.csv", "d/e/b.txt", ".f/a.csv", "d/.g/a.csv", "[x].csv"]
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CSV)
        bucket.client.put_object(Bucket=bucket.name, Key=f"in/{name}", Body=CSV)
    monkeypatch.chdir(tmp_path)
    for pattern in [
        "*.csv",
        "**/*.csv",
        "**",
        "d/*/*.csv",
        "*/a.csv",
        "?.csv",
        "[ab].csv",
        "**/e/*",
        "d/**",
        ".*",
        "[[]x].csv",
    ]:
        local, remote = (
            [file.uri.partition("in/")[2] for file in FilesExtractor(path=path)._files()]
            for path in (f"in/{pattern}", f"s3://{bucket.name}/in/{pattern}")
        )
        assert sorted(local) == sorted(remote), pattern
