"""Downloading over real sockets from a server that misbehaves as told."""

from __future__ import annotations

import datetime
import email.utils
import gzip
import hashlib
import ipaddress
import json
import logging
import os
import pty
import resource
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pydantic import ValidationError

from etl.errors import AccessError, ConfigError, DataError, EtlError, RetryLater, SourceError, StorageError
from etl.http.addresses import check_redirect, url_problem
from etl.http.download import DownloadOptions, fetch, peek
from tests.conftest import PROJECT
from tests.web import Answer, WebServer

BODY = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(BODY).hexdigest()
OTHER = BODY[::-1]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def options(**changes: Any) -> DownloadOptions:
    return DownloadOptions(**{"backoff_s": 0.01, **changes})


def ranges(web: WebServer) -> list[str | None]:
    return [request.headers["Range"] for request in web.requests]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


class TestCache:
    def test_a_download_is_complete_and_private(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY, etag='"1"')
        got = fetch(url, cache, options())
        version = got.version
        assert (got.size, got.sha256, got.fresh, version.length) == (len(BODY), SHA256, True, len(BODY))
        assert (version.etag, version.last_modified) == ('"1"', "Sat, 01 Oct 2022 00:00:00 GMT")
        assert version.content_type == "application/zip"
        assert got.path.read_bytes() == BODY
        assert {stat.S_IMODE(path.stat().st_mode) for path in got.path.parent.iterdir()} == {0o600}
        assert stat.S_IMODE(got.path.parent.stat().st_mode) == 0o700

    @pytest.mark.parametrize(
        ("etag", "header", "value"),
        [
            ('"1"', "If-None-Match", '"1"'),
            ('W/"1"', "If-None-Match", 'W/"1"'),
            (None, "If-Modified-Since", "Sat, 01 Oct 2022 00:00:00 GMT"),
        ],
    )
    def test_what_did_not_change_is_not_sent_again(
        self, web: WebServer, cache: Path, etag: str | None, header: str, value: str
    ) -> None:
        url = web.serve("/a.zip", BODY, etag=etag)
        first, second = fetch(url, cache, options()), fetch(url, cache, options())
        assert (second.fresh, second.path, second.sha256) == (False, first.path, SHA256)
        assert [request.headers[header] for request in web.requests] == [None, value]

    def test_what_changed_replaces_the_old(self, web: WebServer, cache: Path) -> None:
        fetch(web.serve("/a.zip", BODY, etag='"1"'), cache, options())
        got = fetch(web.serve("/a.zip", OTHER, etag='"2"'), cache, options())
        assert got.fresh
        assert got.path.read_bytes() == OTHER
        assert names(cache) == {got.path.name, "meta.json", "lock"}

    def test_a_date_that_may_hide_a_second_change_is_not_trusted(self, web: WebServer, cache: Path) -> None:
        just_now = email.utils.formatdate(time.time() + 60, usegmt=True)
        url = web.serve("/a.zip", BODY, last_modified=just_now)
        assert [fetch(url, cache, options()).fresh for _ in range(2)] == [True, True]

    @pytest.mark.parametrize("damage", ["body", "meta.json"])
    def test_a_damaged_cache_is_not_used(self, web: WebServer, cache: Path, damage: str) -> None:
        url = web.serve("/a.zip", BODY, etag='"1"')
        body = fetch(url, cache, options()).path
        os.truncate(body if damage == "body" else body.parent / damage, 10)
        got = fetch(url, cache, options())
        assert got.fresh
        assert got.path.read_bytes() == BODY

    def test_a_link_is_not_followed(self, web: WebServer, cache: Path, tmp_path: Path) -> None:
        url = web.serve("/a.zip", BODY, etag='"1"', cut_after=[1000])
        with pytest.raises(SourceError):
            fetch(url, cache, options(attempts=1))
        victim = tmp_path / "victim"
        part = next(cache.rglob("part")).rename(victim)
        next(cache.rglob("part.json")).with_name("part").symlink_to(victim)
        with pytest.raises(OSError, match="symbolic links"):
            fetch(url, cache, options())
        assert part.stat().st_size == 1000

    def test_urls_do_not_share_a_file(self, web: WebServer, cache: Path) -> None:
        web.script("/a.zip", lambda request: Answer(request.path.encode()))
        contents = [fetch(web.url(f"/a.zip?{query}"), cache, options()).path.read_bytes() for query in ("x", "y", "x")]
        assert contents == [b"/a.zip?x", b"/a.zip?y", b"/a.zip?x"]

    def test_at_the_same_time_it_is_downloaded_once(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY, etag='"1"', trickle=(100_000, 0.05))
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda _: fetch(url, cache, options()), range(4)))
        assert sorted(download.fresh for download in got) == [False, False, False, True]
        assert {download.sha256 for download in got} == {SHA256}

    def test_whoever_waits_too_long_for_the_other_is_told(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY, trickle=(100_000, 0.4))
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(fetch, url, cache, options())
            while not web.requests:
                time.sleep(0.01)
            with pytest.raises(RetryLater, match="another process is still downloading"):
                fetch(url, cache, options(total_timeout_s=0.2))
            assert first.result().sha256 == SHA256

    def test_pythons_own_server(self, tmp_path: Path, cache: Path) -> None:
        file = tmp_path / "a.zip"
        file.write_bytes(BODY)
        os.utime(file, (1_600_000_000, 1_600_000_000))

        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                return None

        with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
            Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}/a.zip"
            first, second = fetch(url, cache, options()), fetch(url, cache, options())
            head, version = peek(url, options())
            server.shutdown()
        assert (first.fresh, second.fresh, second.sha256) == (True, False, SHA256)
        assert (version.length, head) == (len(BODY), BODY[:64])


class TestResume:
    @pytest.mark.parametrize("reset", [False, True])
    def test_goes_on_where_it_broke_off(self, web: WebServer, cache: Path, reset: bool) -> None:
        url = web.serve("/a.zip", BODY, etag='"1"')
        web.once("/a.zip", cut_after=1000, reset=reset)
        web.once("/a.zip", cut_after=5000, reset=reset)
        assert fetch(url, cache, options()).sha256 == SHA256
        assert ranges(web) == [None, "bytes=1000-", "bytes=6000-"]
        assert [request.headers["If-Range"] for request in web.requests] == [None, '"1"', '"1"']

    def test_by_date_where_there_is_no_etag(self, web: WebServer, cache: Path) -> None:
        assert fetch(web.serve("/a.zip", BODY, cut_after=[1000]), cache, options()).sha256 == SHA256
        assert web.requests[1].headers["If-Range"] == "Sat, 01 Oct 2022 00:00:00 GMT"

    def test_chunked(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY, etag='"1"', chunked=True, cut_after=[150_000])
        assert fetch(url, cache, options()).path.read_bytes() == BODY
        assert ranges(web)[1] is not None

    @pytest.mark.parametrize("changes", [{"etag": 'W/"1"'}, {"last_modified": None}, {"etag": '"1"', "ranges": False}])
    def test_starts_over_where_it_cannot_be_known_that_the_rest_fits(
        self, web: WebServer, cache: Path, changes: dict[str, Any]
    ) -> None:
        url = web.serve("/a.zip", BODY, **changes, cut_after=[1000, 2000, 3000])
        assert fetch(url, cache, options()).path.read_bytes() == BODY
        assert len(web.requests) == 4
        assert any(ranges(web)) == ("ranges" in changes)

    def test_in_a_later_process_after_this_one_was_killed(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY, etag='"1"')
        web.once("/a.zip", trickle=(10_000, 0.05))
        code = f"""
            from pathlib import Path
            from etl.http.download import DownloadOptions, fetch
            fetch({url!r}, Path({str(cache)!r}), DownloadOptions())
        """
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=PROJECT)
        while not any(path.stat().st_size > 20_000 for path in cache.rglob("part")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = next(cache.rglob("part")).stat().st_size
        assert fetch(url, cache, options()).sha256 == SHA256
        assert ranges(web) == [None, f"bytes={kept}-"]

    def test_changed_meanwhile(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", OTHER, etag='"2"')
        web.once("/a.zip", body=BODY, etag='"1"', cut_after=1000)
        got = fetch(url, cache, options())
        assert (got.version.etag, got.path.read_bytes()) == ('"2"', OTHER)
        assert len(web.requests) == 2

    @pytest.mark.parametrize(
        "misfit",
        [
            {"status": 206, "etag": '"2"', "headers": {"Content-Range": "bytes 1000-255999/256000"}},
            {"status": 206, "headers": {"Content-Range": "bytes 1000-255998/255999"}},
            {"status": 206, "headers": {"Content-Range": "bytes 0-255999/256000"}},
            {"status": 206},
            {"status": 416},
        ],
    )
    def test_a_rest_that_does_not_fit_is_started_over_once(
        self, web: WebServer, cache: Path, misfit: dict[str, Any]
    ) -> None:
        url = web.serve("/a.zip", BODY, etag='"1"')
        web.once("/a.zip", cut_after=1000)
        web.once("/a.zip", **misfit)
        assert fetch(url, cache, options()).path.read_bytes() == BODY
        assert ranges(web) == [None, "bytes=1000-", None]

        url = web.serve("/b.zip", BODY, etag='"1"')
        for _ in range(2):
            web.once("/b.zip", cut_after=1000)
            web.once("/b.zip", **misfit)
        with pytest.raises(SourceError, match="twice"):
            fetch(url, cache, options())

    def test_more_announced_than_there_is(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY, length=len(BODY) + 10)
        with pytest.raises(SourceError, match=r"256,000|closed early"):
            fetch(url, cache, options())


class TestRetries:
    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
    def test_passing_failures_are_tried_again(self, web: WebServer, cache: Path, status: int) -> None:
        url = web.serve("/a.zip", BODY)
        for _ in range(3):
            web.once("/a.zip", status=status)
        assert fetch(url, cache, options()).sha256 == SHA256
        assert len(web.requests) == 4

    @pytest.mark.parametrize(("status", "error"), [(503, SourceError), (429, RetryLater)])
    def test_but_not_for_ever(self, web: WebServer, cache: Path, status: int, error: type[EtlError]) -> None:
        with pytest.raises(error, match=f"answered {status} .*gave up after 3 attempts"):
            fetch(web.serve("/a.zip", BODY, status=status), cache, options(attempts=3))
        assert len(web.requests) == 3

    @pytest.mark.parametrize(
        ("status", "error"),
        [(401, AccessError), (403, AccessError), (404, SourceError), (410, SourceError), (204, SourceError)],
    )
    def test_final_answers_are_not(self, web: WebServer, cache: Path, status: int, error: type[EtlError]) -> None:
        with pytest.raises(error, match=f"answered {status} .*check the url"):
            fetch(web.serve("/a.zip", status=status), cache, options())
        assert len(web.requests) == 1

    def test_a_server_that_is_down(self, cache: Path) -> None:
        with WebServer() as web:
            url = web.serve("/a.zip", BODY)
        with pytest.raises(SourceError, match="Connection refused; gave up after 2 attempts"):
            fetch(url, cache, options(attempts=2))

    @pytest.mark.parametrize("as_date", [False, True])
    def test_retry_after_is_obeyed(
        self, web: WebServer, cache: Path, caplog: pytest.LogCaptureFixture, as_date: bool
    ) -> None:
        url = web.serve("/a.zip", BODY)
        wish = email.utils.formatdate(time.time() + 2, usegmt=True) if as_date else "1"
        web.once("/a.zip", status=429, headers={"Retry-After": wish})
        assert fetch(url, cache, options()).sha256 == SHA256
        assert not caplog.text.count("Retrying in 0.0 s")
        assert "429 Too Many Requests" in caplog.text

    @pytest.mark.parametrize("wish", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT"])
    def test_retry_after_is_capped_at_five_minutes(self, web: WebServer, cache: Path, wish: str) -> None:
        url = web.serve("/a.zip", status=429, headers={"Retry-After": wish})
        with pytest.raises(RetryLater, match=r"a next try in 300\.0 s would be beyond total_timeout_s = 250"):
            fetch(url, cache, options(total_timeout_s=250))

    def test_nonsense_in_retry_after_is_ignored(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY)
        web.once("/a.zip", status=503, headers={"Retry-After": "soon"})
        web.once("/a.zip", status=503, headers={"Retry-After": "-5"})
        assert fetch(url, cache, options()).sha256 == SHA256


class TestSlowness:
    def test_a_trickling_body(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY, trickle=(1, 0.02))
        with pytest.raises(SourceError, match="slower than min_bytes_per_s"):
            fetch(url, cache, options(read_timeout_s=0.2, attempts=2))

    def test_trickling_headers(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", raw=b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1000, trickle=(1, 0.02))
        with pytest.raises(SourceError, match=r"no answer within 0\.3 s"):
            fetch(url, cache, options(connect_timeout_s=0.1, read_timeout_s=0.2, attempts=2))

    def test_silence(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY, trickle=(1000, 60))
        with pytest.raises(SourceError, match="timed out"):
            fetch(url, cache, options(read_timeout_s=0.1, attempts=2))

    def test_the_total_time(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY, etag='"1"', trickle=(2000, 0.05))
        with pytest.raises(SourceError, match=r"beyond total_timeout_s = 1"):
            fetch(url, cache, options(total_timeout_s=1))
        web.serve("/a.zip", BODY, etag='"1"')
        assert fetch(url, cache, options()).sha256 == SHA256
        assert ranges(web)[-1] is not None


class TestLimits:
    def test_too_large_by_its_own_word(self, web: WebServer, cache: Path) -> None:
        with pytest.raises(DataError, match="larger than max_bytes = 1,000"):
            fetch(web.serve("/a.zip", BODY), cache, options(max_bytes=1000))

    @pytest.mark.parametrize("changes", [{"length": False}, {"chunked": True}, {"gzipped": True}])
    def test_too_large_in_fact(self, web: WebServer, cache: Path, changes: dict[str, Any]) -> None:
        with pytest.raises(DataError, match="larger than max_bytes"):
            fetch(web.serve("/a.zip", bytes(20_000_000), **changes), cache, options(max_bytes=100_000))
        assert names(cache) == {"lock"}

    def test_no_room_is_known_before(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY, length=1 << 60)
        with pytest.raises(StorageError, match="needs 1,152,921,504,606,846,976 bytes"):
            fetch(url, cache, options(max_bytes=1 << 62))

    def test_no_room_is_noticed_late(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY, etag='"1"')
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            with pytest.raises(StorageError, match="the disk is full"):
                fetch(url, cache, options())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert names(cache) == {"lock"}

    def test_the_expected_hash(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY, etag='"1"', cut_after=[1000])
        assert fetch(url, cache, options(sha256=SHA256.upper())).sha256 == SHA256

    @pytest.mark.parametrize("cached", [False, True])
    def test_another_hash(self, web: WebServer, cache: Path, cached: bool) -> None:
        url = web.serve("/a.zip", BODY, etag='"1"')
        if cached:
            fetch(url, cache, options())
        with pytest.raises(DataError, match=f"(?s){SHA256}.*{'0' * 64}"):
            fetch(url, cache, options(sha256="0" * 64))
        assert names(cache) == {"lock"}


class TestEncodedBodies:
    def test_are_decoded(self, web: WebServer, cache: Path) -> None:
        got = fetch(web.serve("/a.zip", BODY * 10, gzipped=True), cache, options())
        assert got.path.read_bytes() == BODY * 10
        assert web.requests[0].headers["Accept-Encoding"] == "identity"

    @pytest.mark.parametrize("length", [True, False])
    def test_are_not_resumed(self, web: WebServer, cache: Path, length: bool) -> None:
        url = web.serve("/a.zip", BODY, etag='"1"', gzipped=True, length=length, cut_after=[500])
        assert fetch(url, cache, options()).path.read_bytes() == BODY
        assert ranges(web) == [None, None]

    def test_their_beginning_is_enough_to_peek(self, web: WebServer) -> None:
        url = web.serve("/a.zip", gzip.compress(BODY), headers={"Content-Encoding": "gzip"})
        assert peek(url, options())[0] == BODY[:64]

    def test_must_be_what_they_say(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY, headers={"Content-Encoding": "gzip"})
        with pytest.raises(SourceError, match="not encoded as its Content-Encoding says"):
            fetch(url, cache, options(attempts=2))

    def test_must_be_known(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY, headers={"Content-Encoding": "br"})
        with pytest.raises(SourceError, match="encoded the body with 'br'"):
            fetch(url, cache, options())


class TestAddresses:
    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("file:///etc/passwd", "should start with https://"),
            ("ftp://example.com/a.zip", "should start with https://"),
            ("example.com/a.zip", "should start with https://"),
            ("", "should start with https://"),
            ("https:///a.zip", "names no host"),
            ("https://[::1/a.zip", "not a valid url"),
            ("https://example.com:port/a.zip", "not a valid url"),
            ("https://me:word@example.com/a.zip", "user name or password"),
            ("http://example.com/a.zip", "use https://"),
            ("http://localhost.example.com/a.zip", "use https://"),
            ("http://2130706433/a.zip", "use https://"),
        ],
    )
    def test_that_are_refused(self, cache: Path, url: str, problem: str) -> None:
        with pytest.raises(ConfigError, match=problem):
            fetch(url, cache, options())
        assert "word" not in str(url_problem(url, allow_http=False)).replace("password", "")

    @pytest.mark.parametrize("host", ["example.com", "127.0.0.1", "127.1.2.3", "[::1]", "localhost", "a.localhost"])
    def test_that_are_accepted(self, host: str) -> None:
        assert url_problem(f"https://{host}/a.zip", allow_http=False) is None
        assert url_problem(f"http://{host}/a.zip", allow_http=True) is None
        assert (url_problem(f"http://{host}:80/a.zip", allow_http=False) is None) == (host != "example.com")

    def test_redirects_are_followed(self, web: WebServer, cache: Path) -> None:
        web.serve("/new/a.zip", BODY, etag='"1"', cut_after=[1000])
        url = web.redirect("/a.zip", "/b.zip", status=307)
        web.redirect("/b.zip", web.url("/new/a.zip", host="localhost"), status=301)
        assert fetch(url, cache, options()).sha256 == SHA256
        assert not fetch(url, cache, options()).fresh

    def test_the_body_of_a_redirect_is_not_read(self, web: WebServer, cache: Path) -> None:
        web.serve("/b.zip", BODY)
        url = web.redirect("/a.zip", "/b.zip")
        web.once("/a.zip", length=1 << 40)
        assert fetch(url, cache, options()).sha256 == SHA256

    def test_redirects_without_end(self, web: WebServer, cache: Path) -> None:
        with pytest.raises(ConfigError, match="redirected more than 5 times"):
            fetch(web.redirect("/a.zip", "/a.zip"), cache, options())
        assert len(web.requests) == 6

    @pytest.mark.parametrize(
        ("target", "problem"),
        [
            ("file:///etc/passwd", "should start with https://"),
            ("http://example.com/a.zip", "use https://"),
            ("https://169.254.169.254/latest/meta-data", "link-local"),
            ("https://[fe80::1]/", "link-local"),
            ("https://[broken/", "invalid"),
        ],
    )
    def test_redirects_that_are_refused(self, web: WebServer, cache: Path, target: str, problem: str) -> None:
        with pytest.raises(SourceError, match=problem):
            fetch(web.redirect("/a.zip", target), cache, options())
        assert len(web.requests) == 1

    @pytest.mark.parametrize(
        ("origin", "target", "refused"),
        [
            ("93.184.216.34", "8.8.8.8", False),
            ("93.184.216.34", "127.0.0.1", True),
            ("93.184.216.34", "[::ffff:10.0.0.1]", True),
            ("93.184.216.34", "localhost", True),
            ("10.0.0.1", "192.168.0.1", False),
            ("10.0.0.1", "8.8.8.8", False),
            ("10.0.0.1", "127.0.0.1", True),
            ("10.0.0.1", "0.0.0.0", True),
            ("10.0.0.1", "[::ffff:169.254.169.254]", True),
            ("10.0.0.1", "169.254.169.254", True),
            ("[2606:4700::1111]", "[fd00:ec2::254]", True),
        ],
    )
    def test_no_redirect_leads_deeper_into_a_network(self, origin: str, target: str, refused: bool) -> None:
        if not refused:
            check_redirect(f"https://{origin}/", f"https://{target}/", allow_http=False)
            return
        with pytest.raises(SourceError, match="refused"):
            check_redirect(f"https://{origin}/", f"https://{target}/", allow_http=False)

    def test_headers_go_to_the_configured_host_only(self, web: WebServer, cache: Path) -> None:
        web.serve("/c.zip", BODY)
        web.redirect("/b.zip", web.url("/c.zip", host="localhost"))
        url = web.redirect("/a.zip", "/b.zip")
        fetch(url, cache, options(headers={"authorization": "Bearer of-bad-news", "Accept-Encoding": "gzip"}))
        assert [request.headers["Authorization"] for request in web.requests] == ["Bearer of-bad-news"] * 2 + [None]
        assert {request.headers["Accept-Encoding"] for request in web.requests} == {"identity"}

    @pytest.mark.parametrize("headers", [{"X: Y": "1"}, {"X": "1\r\nY: 2"}, {"X": ""}, {"X": " 1"}, {"X": "€uro"}])
    def test_headers_that_cannot_be_sent(self, headers: dict[str, str]) -> None:
        with pytest.raises(ValidationError) as failure:
            options(headers=headers)
        assert "Y: 2" not in str(failure.value)

    def test_passwords_and_proxies_of_the_user_are_left_alone(
        self, web: WebServer, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password word\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        fetch(web.serve("/a.zip", BODY), cache, options())
        assert web.requests[0].headers["Authorization"] is None


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        return self_signed(tmp_path / "server.pem")

    def test_an_unknown_certificate_is_final(self, cache: Path, certificate: Path) -> None:
        with WebServer(certificate) as web, pytest.raises(SourceError, match=r"no secure connection: self.signed"):
            fetch(web.serve("/a.zip", BODY), cache, options())
        assert web.requests == []

    def test_a_certificate_for_another_name_is_final(
        self, cache: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        with WebServer(certificate) as web:
            web.serve("/a.zip", BODY)
            with pytest.raises(SourceError, match="no secure connection"):
                fetch(web.url("/a.zip", host="localhost"), cache, options())
        assert web.requests == []

    def test_a_server_that_does_not_speak_tls(self, web: WebServer, cache: Path) -> None:
        url = web.serve("/a.zip", BODY).replace("http:", "https:")
        with pytest.raises(SourceError, match="no secure connection"):
            fetch(url, cache, options())
        assert web.requests == []

    @pytest.mark.parametrize("hello_bytes", [0, 4096])
    def test_a_connection_broken_off_while_it_is_secured_is_tried_again(self, cache: Path, hello_bytes: int) -> None:
        def hang_up_twice() -> None:
            for _ in range(2):
                connection = listener.accept()[0]
                connection.recv(hello_bytes)  # with unread bytes it is reset, else closed
                connection.close()

        with socket.create_server(("127.0.0.1", 0)) as listener:
            Thread(target=hang_up_twice, daemon=True).start()
            with pytest.raises(SourceError, match="gave up after 2 attempts"):
                fetch(f"https://127.0.0.1:{listener.getsockname()[1]}/", cache, options(attempts=2))

    def test_a_trusted_certificate(self, cache: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        with WebServer(certificate) as web:
            assert fetch(web.serve("/a.zip", BODY, cut_after=[1000]), cache, options()).sha256 == SHA256


class TestWhatIsSaid:
    @pytest.mark.parametrize("changes", [{"status": 404}, {"status": 403}, {"status": 503}, {"cut_after": 10}, {}])
    def test_no_secret(
        self, web: WebServer, cache: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
    ) -> None:
        caplog.set_level(logging.DEBUG, logger="etl")
        web.serve("/a.zip", BODY, **changes)
        secretive = options(attempts=2, headers={"X-Key": "hush-hush"})
        try:
            said = repr(fetch(web.url("/a.zip?signature=hush-hush"), cache, secretive))
        except EtlError as error:
            said = str(error)
        assert "/a.zip?***" in said + caplog.text
        assert "hush" not in said + caplog.text + repr(secretive)
        assert not any("hush" in path.read_text("latin-1") for path in cache.rglob("*.json"))

    def test_failures_are_logged_before_the_next_try(
        self, web: WebServer, cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        fetch(web.serve("/a.zip", BODY, cut_after=[10]), cache, options())
        assert "Retrying in 0.0 s (2 of 8): the connection was closed early" in caplog.text

    @pytest.mark.parametrize("terminal", [False, True])
    def test_progress_is_for_terminals(self, web: WebServer, cache: Path, terminal: bool) -> None:
        url = web.serve("/lego%20sets.zip", BODY, trickle=(50_000, 0.05))
        code = f"""
            import json, sys
            from pathlib import Path
            from etl.http.download import DownloadOptions, fetch
            fetch({url!r}, Path({str(cache)!r}), DownloadOptions())
            print(json.dumps([name for name in sys.modules if name in ("rich", "pandas", "pyarrow")]))
        """
        ours, theirs = pty.openpty()
        process = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=theirs if terminal else subprocess.PIPE,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
            check=True,
        )
        os.close(theirs)
        if terminal:
            assert b"Downloading lego sets.zip" in os.read(ours, 100_000)
        else:
            assert process.stderr == b""
            assert json.loads(process.stdout) == []
        os.close(ours)


def test_peek_asks_for_little(web: WebServer) -> None:
    url = web.serve("/a.zip", BODY, etag='"1"')
    head, version = peek(url, options())
    assert (head, version.length) == (BODY[:64], len(BODY))
    assert version.last_modified == "Sat, 01 Oct 2022 00:00:00 GMT"
    assert ranges(web) == ["bytes=0-255"]


def self_signed(path: Path) -> Path:
    """Write a certificate for 127.0.0.1, with its key, that nobody has signed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
