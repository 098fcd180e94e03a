"""Logging: one JSON object per line on stderr (or text for people), without secrets.

Libraries that would log requests with their headers or addresses are held at WARNING, also with the
debug switch on. The audit has its own logger, and goes where AUDIT_LOG says.
docs/observability.md lists the fields.
"""

import json
import logging
import os
import re
import sys
import time
from contextlib import suppress
from functools import lru_cache
from logging.handlers import WatchedFileHandler
from typing import Any

import orjson
from gunicorn.glogging import Logger

from app.server.log_outlet import Outlet, has_reader, opened_anew
from config import Settings

#: Libraries that log request lines, or headers, at lower levels.
TALKATIVE = ("urllib3", "requests", "redis", "flask-limiter", "werkzeug", "gevent")

log = logging.getLogger("hokusai.logs")

#: Seconds between two lines about an audit file that cannot be written.
LOG_INTERVAL = 60.0

#: The line that follows once the reader accepts lines again.
LOST = {
    "name": "hokusai.logs",
    "levelno": logging.WARNING,
    "levelname": "WARNING",
    "msg": "%d log lines were lost: the reader of stderr was stuck",
}

#: Values that need no quotes in the text format.
_PLAIN = re.compile(r"[^\s\"=\x00-\x1f\x7f-\xa0\u2028\u2029]+")


# Skip look-ups for what no format here shows (the logging HOWTO, "Optimization").
logging._srcfile = None
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class JsonFormatter(logging.Formatter):
    """Format a record as one JSON object; `extra={"fields": {...}}` is merged in."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its newline."""
        line: dict[str, Any] = {
            "time": _timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # a lone surrogate, an integer of more than 64 bits
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Format a record for people; the same fields, as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its newline."""
        fields = getattr(record, "fields", {})
        return " ".join((super().format(record), *(f"{k}={_word(v)}" for k, v in fields.items())))


class Stderr(logging.StreamHandler[Any]):
    """stderr, with a bounded wait: log_outlet.py gives the reason. While the reader is stuck, lines
    are dropped; then one line tells how many.
    """

    def __init__(self) -> None:
        super().__init__()
        self._outlet: Outlet | None = None
        self._lost = 0
        with suppress(OSError, ValueError):  # not a file: a test has replaced it
            file = self.stream.fileno()
            if has_reader(file):
                self._outlet = Outlet(opened_anew(file))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, or drop it."""
        if self._outlet is None:
            super().emit(record)
            return
        try:
            line = f"{self.format(record)}\n"
            if self._lost and self._outlet.has_room():
                notice = logging.makeLogRecord(LOST | {"args": (self._lost,)})
                self._lost = 0
                self._write(self._outlet, f"{self.format(notice)}\n")
            self._write(self._outlet, line)
        except Exception:
            self.handleError(record)

    def _write(self, outlet: Outlet, line: str) -> None:
        try:
            outlet.write(line)
        except BlockingIOError:
            self._lost += 1

    def close(self) -> None:
        """Close the descriptor; a reload opens another."""
        outlet, self._outlet = self._outlet, None
        if outlet is not None:
            outlet.close()
        super().close()


class AuditFile(WatchedFileHandler):
    """The file that AUDIT_LOG names; reopened after it was moved away, as logrotate does. It may
    be a pipe or a terminal, such as /dev/stdout. A line that cannot be written there, or has no
    reader, goes to stderr with the others."""

    def __init__(self, filename: str) -> None:
        super().__init__(filename, encoding="utf-8", delay=True, errors="backslashreplace")
        self._said = -LOG_INTERVAL
        with suppress(OSError):  # each line retries, and reports it
            self.stream = self._open()
            self._statstream()

    def _open(self) -> Any:
        """Open the file, without a wait for the reader of a pipe."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        file = os.open(self.baseFilename, flags, 0o666)
        if has_reader(file):
            return Outlet(file)
        return open(file, self.mode, encoding=self.encoding, errors=self.errors)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line; unlike the library's version, do not raise if the folder is missing."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Send the line to stderr; log the reason before it, once in LOG_INTERVAL."""
        if time.monotonic() > self._said + LOG_INTERVAL:
            self._said = time.monotonic()
            why = sys.exc_info()[1]
            log.error("cannot write the audit file; its lines go to stderr: %s", why)
        logging.getLogger().handle(record)


def _word(value: object) -> str:
    """Quote a value that could be read as two, or as a line of its own."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _timestamp(seconds: float) -> str:
    """ISO 8601, UTC, milliseconds."""
    return f"{_whole_second(int(seconds))}.{int(seconds % 1 * 1000):03d}Z"


@lru_cache(maxsize=2)
def _whole_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class NoAccessLog(Logger):  # type: ignore[misc]
    """gunicorn's logger without its access lines: they hold the raw request line with its query,
    and are computed for each request even if unused."""

    def reopen_files(self) -> None:
        """Handle SIGUSR1 and SIGHUP. A file that cannot be reopened must not end the master; the
        next line retries."""
        try:
            super().reopen_files()
        except OSError as why:
            log.error("cannot reopen a log file: %s", why)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Do nothing: the proxy writes its own line after the last byte."""


def dict_config(settings: Settings) -> dict[str, Any]:
    """Return the configuration for logging.config.dictConfig, here and in gunicorn.conf.py."""
    level = "DEBUG" if settings.debug else settings.log_level
    # At DEBUG gunicorn logs targets, and the heads of truncated requests, keys included.
    servers_level = "INFO" if settings.log_level == "DEBUG" else settings.log_level
    formatter = JsonFormatter if settings.log_format == "json" else TextFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}, "bare": {"format": "%(message)s"}},
        "handlers": {
            "stderr": {"()": Stderr, "formatter": "line"},
            "bare": {"()": Stderr, "formatter": "bare"},
        }
        | _audit_handler(settings.audit_log),
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {
            "hokusai": {"level": level},
            "hokusai.access": {"level": "INFO"},  # whatever LOG_LEVEL says
            # CloudWatch needs these lines unchanged, with nothing around them.
            "hokusai.emf": {"level": "INFO", "handlers": ["bare"], "propagate": False},
            "hokusai.audit": _audit_logger(settings.audit_log),
            "gunicorn.error": {"level": servers_level, "handlers": [], "propagate": True},
            "urllib3.connectionpool": {"level": "ERROR"},  # it reports each surplus connection
        }
        | {name: {"level": "WARNING"} for name in TALKATIVE},
    }


def _audit_logger(destination: str) -> dict[str, Any]:
    """Configure the audit's logger, whatever LOG_LEVEL says: to stderr, nowhere, or to a file."""
    if destination == "off":
        return {"level": "CRITICAL"}
    if destination == "stderr":
        return {"level": "INFO"}
    return {"level": "INFO", "handlers": ["audit"], "propagate": False}


def _audit_handler(destination: str) -> dict[str, Any]:
    if destination in ("stderr", "off"):
        return {}
    return {"audit": {"()": AuditFile, "filename": destination, "formatter": "line"}}
