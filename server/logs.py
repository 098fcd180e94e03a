"""Logging: one JSON object a line on stderr (or text for human eyes), secrets nowhere.

Libraries that would log requests with their headers or addresses are held at WARNING, also with the
debug switch on.
"""

import json
import logging
import time
from typing import Any

import orjson
from gunicorn.glogging import Logger

from config import Settings

#: These log request lines, or headers, at lower levels.
TALKATIVE = ("urllib3", "requests", "redis", "flask-limiter", "werkzeug", "gevent")


#: What no format of ours shows is not looked up for each line (the logging HOWTO, "Optimization").
logging._srcfile = None
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class JsonFormatter(logging.Formatter):
    """A record as one JSON object; `extra={"fields": {...}}` is merged in."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
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
        except TypeError:  # half a surrogate pair, an integer of more than 64 bits
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """A record for human eyes; the same fields, as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        fields = getattr(record, "fields", {})
        return " ".join((super().format(record), *(f"{k}={v}" for k, v in fields.items())))


def _timestamp(seconds: float) -> str:
    """ISO 8601, UTC, milliseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


class NoAccessLog(Logger):  # type: ignore[misc]
    """gunicorn's logger without its access lines: they hold the request line as it came, query and
    all, and are worked out for each request even where nobody reads them."""

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """The proxy writes its own line when the last byte went out."""


def dict_config(settings: Settings) -> dict[str, Any]:
    """For logging.config.dictConfig, here and in gunicorn.conf.py."""
    level = "DEBUG" if settings.debug else settings.log_level
    # At DEBUG gunicorn logs targets, and the heads of requests that were cut off, keys and all.
    servers_level = "INFO" if settings.log_level == "DEBUG" else settings.log_level
    formatter = JsonFormatter if settings.log_format == "json" else TextFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}, "bare": {"format": "%(message)s"}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "line"},
            "bare": {"class": "logging.StreamHandler", "formatter": "bare"},
        },
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {
            "hokusai": {"level": level},
            "hokusai.access": {"level": "INFO"},  # whatever LOG_LEVEL says
            # CloudWatch wants these lines as they are, with nothing around them.
            "hokusai.emf": {"level": "INFO", "handlers": ["bare"], "propagate": False},
            "gunicorn.error": {"level": servers_level, "handlers": [], "propagate": True},
            "urllib3.connectionpool": {"level": "ERROR"},  # it reports each surplus connection
        }
        | {name: {"level": "WARNING"} for name in TALKATIVE},
    }
