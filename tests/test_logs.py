"""Logs: readable for people, parseable for machines, and never a secret."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from etl.errors import ConfigError
from etl.logs import JsonFormatter, PlainFormatter, RunContext, TerminalFormatter, configure_logging, context
from etl.redact import redact


@pytest.fixture(autouse=True)
def _restore_logging() -> object:
    yield
    logging.getLogger().handlers.clear()
    context.run_id = "-"


def record(message: str, *arguments: object) -> logging.LogRecord:
    made = logging.LogRecord("etl.http.download", logging.INFO, "file.py", 1, message, arguments, None)
    run = RunContext()
    run.run_id = "run-7"
    run.filter(made)
    return made


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("GET https://host/a.zip?X-Amz-Signature=abcdef&b=c failed", "abcdef"),
        ("postgresql://me:hunter22@host/db", "hunter22"),
        ("url: /path/file?token=abcdef HTTP/1.1", "abcdef"),
        ("Authorization: Bearer abcdef123456", "abcdef123456"),
        ("{'Authorization': 'AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/2026'}", "AKIAIOSFODNN7EXAMPLE"),
        ("x-amz-security-token: FwoGZXIvYXdzEBYaD", "FwoGZXIvYXdzEBYaD"),
        ("password=hunter22 user=me", "hunter22"),
        ('"sslpassword": "hunter22"', "hunter22"),
        ("api_key=abcdef", "abcdef"),
        ("key AKIAIOSFODNN7EXAMPLE is used", "AKIAIOSFODNN7EXAMPLE"),
    ],
)
def test_secrets_are_masked(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "published 18,457 rows -> s3://bucket/lego/sets.parquet in 1.2 s",
        "is that so? yes",
        "https://example.com/a.zip: 404 Not Found",
        "should be like postgresql://user:password@host:5432/database",
        "set_id: taken from bricksetURL (row 1: '01-Aug' -> '1-8')",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


def test_values_of_secret_variables_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "opensesame")
    assert redact("the word is opensesame!") == "the word is ***!"


def test_what_is_masked_already_stays_as_it_is() -> None:
    once = redact("https://example.org/sets?key=12345678: the server answered 404; see /sets?key=12345678.")
    assert once == "https://example.org/sets?***: the server answered 404; see /sets?***."
    assert redact(once) == once


def test_plain_lines_have_time_level_run_and_step() -> None:
    line = PlainFormatter().format(record("Downloaded %s", "https://h/a.zip?sig=secret"))
    assert line.endswith("Z INFO run=run-7 step=download Downloaded https://h/a.zip?***")


def test_data_cannot_forge_log_lines() -> None:
    text = PlainFormatter().format(record("%s", "a\n2026-01-01 ERROR forged\x1b[31m\r"))
    first, second = text.split("\n")
    assert first.endswith("a")
    assert second.startswith("  ")
    assert "\x1b" not in text
    assert "\r" not in text


def test_terminal_lines_are_short() -> None:
    assert TerminalFormatter().format(record("Hello"))[8:] == " Hello"


def test_json_lines_are_json() -> None:
    entry = json.loads(JsonFormatter().format(record("line\nbreak \u00e9 https://h/a?k=secret")))
    assert entry["message"] == "line\nbreak \u00e9 https://h/a?***"
    assert (entry["level"], entry["run_id"], entry["step"]) == ("INFO", "run-7", "download")


def test_tracebacks_are_masked_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    try:
        int("https://host/a?token=abcdef")
    except ValueError:
        logging.getLogger("etl.test").exception("failed")
    shown = capsys.readouterr().err
    assert "ValueError" in shown
    assert "abcdef" not in shown


def test_debug_does_not_open_the_mouth_of_the_libraries(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    configure_logging()
    logging.getLogger("botocore.auth").debug("x-amz-security-token:abc")
    logging.getLogger("urllib3.connectionpool").debug("GET /?secret=abc")
    logging.getLogger("etl.test").debug("ours")
    shown = capsys.readouterr().err
    assert "ours" in shown
    assert "abc" not in shown


def test_log_file_gets_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "logs" / "etl.log"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOG_FILE", "~/logs/etl.log")
    monkeypatch.setenv("LOG_FORMAT", "json")
    configure_logging(quiet=True)
    logging.getLogger("etl.test").info("hello")
    assert json.loads(file.read_text())["message"] == "hello"


def test_a_log_file_that_cannot_be_written_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file, why in ((tmp_path, "Is a directory"), (Path(__file__) / "etl.log", "File exists")):
        monkeypatch.setenv("LOG_FILE", str(file))
        with pytest.raises(ConfigError, match=f"LOG_FILE={file} cannot be written: {why}"):
            configure_logging()


def test_an_unknown_level_is_worth_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOG_LEVEL", "verbose")
    configure_logging()
    assert "LOG_LEVEL=verbose: should be DEBUG, INFO, WARNING or ERROR" in capsys.readouterr().err


def test_quiet_keeps_information_off_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(quiet=True)
    logging.getLogger("etl.test").info("hello")
    logging.getLogger("etl.test").warning("careful")
    shown = capsys.readouterr().err
    assert "careful" in shown
    assert "hello" not in shown
