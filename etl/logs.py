"""Logging: short lines on a terminal, full plain lines under cron, JSON lines on request; never a secret."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from etl.errors import ConfigError
from etl.paths import in_home
from etl.redact import redact

_LOG_FILE_BYTES = 10 * 1024 * 1024
_LOG_FILES_KEPT = 5
# At DEBUG these print signed headers, session tokens and URLs with signatures.
_TALKATIVE = ("boto3", "botocore", "s3transfer", "urllib3", "requests", "werkzeug")


class RunContext(logging.Filter):
    """Gives every record the id of the current run and the name of the step that speaks."""

    run_id = "-"

    def filter(self, record: logging.LogRecord) -> bool:
        record.run_id = self.run_id
        if not hasattr(record, "step"):
            record.step = record.name.rpartition(".")[2]
        return True


context = RunContext()


def configure_logging(*, quiet: bool = False) -> None:
    """Set up the root logger from LOG_LEVEL, LOG_FORMAT (``json`` or text) and LOG_FILE. Logs go to stderr."""
    level = os.environ.get("LOG_LEVEL") or "INFO"
    known = level.upper() in logging.getLevelNamesMapping()
    terminal = _StderrHandler()
    terminal.setLevel(logging.WARNING if quiet else logging.NOTSET)
    terminal.addFilter(context)
    terminal.setFormatter(_formatter(terminal=sys.stderr.isatty()))
    logging.basicConfig(level=level.upper() if known else "INFO", handlers=[terminal], force=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))
    if log_file := os.environ.get("LOG_FILE"):
        logging.root.addHandler(_rotating(in_home(log_file)))
    if not known:
        logging.getLogger("etl.logs").warning("LOG_LEVEL=%s: should be DEBUG, INFO, WARNING or ERROR", level)


def _rotating(file: Path) -> logging.Handler:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            file, maxBytes=_LOG_FILE_BYTES, backupCount=_LOG_FILES_KEPT, encoding="utf-8"
        )
    except OSError as error:
        raise ConfigError(f"LOG_FILE={file} cannot be written: {error.strerror}") from error
    handler.addFilter(context)
    handler.setFormatter(_formatter(terminal=False))
    return handler


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever ``sys.stderr`` is at the moment: while a progress bar is shown, it is the bar's."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class PlainFormatter(logging.Formatter):
    """One line a record: time, level, run id, step, message. Control characters are escaped."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(levelname)s run=%(run_id)s step=%(step)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        first, *rest = redact(super().format(record)).split("\n")
        return "\n".join([_printable(first), *(f"  {_printable(line)}" for line in rest)])


class TerminalFormatter(logging.Formatter):
    """For people: the time of day, the level where it matters, the message."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        text = f"{self.formatTime(record, '%H:%M:%S')} {level}{record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return "\n".join(_printable(line) for line in redact(text).split("\n"))


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the keys time, level, run_id, step, message and, after a crash, traceback."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "run_id": getattr(record, "run_id", "-"),
            "step": getattr(record, "step", record.name),
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            entry["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


def _formatter(*, terminal: bool) -> logging.Formatter:
    if os.environ.get("LOG_FORMAT", "").lower() == "json":
        return JsonFormatter()
    return TerminalFormatter() if terminal else PlainFormatter()


def _printable(line: str) -> str:
    """Escape control characters, so that data in a message cannot forge or hide log lines."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
