"""Parsers of environment variables.

Each parser takes the text (never empty) and returns the value, or raises ValueError. The message
continues a sentence that begins with the variable's name. It omits the text, which may be secret.
"""

import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from config.redis_url import parse as parse_redis_url
from config.running import is_running

#: The module that OTEL_ENABLED needs, and the lock file that lists it.
TELEMETRY, TELEMETRY_LOCK = "opentelemetry.instrumentation.wsgi", "requirements/telemetry.lock"
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def text(value: str) -> str:
    """Printable ASCII, valid in an HTTP header."""
    if not re.fullmatch(r"[\x20-\x7e]+", value):
        raise ValueError("must be printable ASCII")
    return value


def secret(value: str) -> str:
    """A key to sign with, valid in a list with commas."""
    if not re.fullmatch(r"[\x21-\x2b\x2d-\x7e]{32,}", value):
        raise ValueError("must have at least 32 characters, printable ASCII without blank or comma")
    return value


def cloudwatch_name(value: str) -> str:
    """A namespace or dimension value for CloudWatch: up to 255 printable ASCII characters, not
    starting with a colon. The prefix AWS/ is reserved."""
    if len(text(value)) > 255 or value.startswith((":", "AWS/")):
        raise ValueError("must have at most 255 characters, and begin with neither : nor AWS/")
    return value


def http_url(value: str) -> str:
    """An absolute http(s) URL without credentials, query or fragment. Returned without a trailing
    slash."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("is not a valid URL (is the port a number below 65536?)") from None
    is_plain = re.fullmatch(r"[\x21-\x7e]+", value)  # urlsplit drops line feeds, accepts blanks
    is_host = re.fullmatch(r"[A-Za-z0-9._:-]+", parts.hostname or "")
    if not is_plain or not is_host or parts.scheme not in ("http", "https") or port == 0:
        raise ValueError("must be a URL such as http://mlflow.internal:5000")
    if "@" in parts.netloc:
        raise ValueError("must not hold credentials; use the *_TOKEN or *_USERNAME variables")
    if parts.query or parts.fragment:
        raise ValueError("must have neither a query nor a fragment")
    return value.rstrip("/")


def redis_url(value: str) -> str:
    """A Redis URL as in config/redis_url.py."""
    parse_redis_url(value)
    return value


def bind(value: str) -> str:
    """`host:port`, `[v6]:port` or `unix:path`, as gunicorn accepts it."""
    port = value.rpartition(":")[2]
    if value.startswith("unix:") and len(value) > len("unix:"):
        return value
    if ":" not in value or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, such as 0.0.0.0:8000, or unix:PATH")
    return value


def locations(value: str) -> str:
    """Storage locations, with commas: URIs with a scheme, or absolute paths."""
    for location in text(value).split(","):
        is_whole = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*:)?/[^?#\\]*", location.strip())
        if not is_whole or {".", ".."} & {*location.strip().split("/")}:
            raise ValueError("must list locations such as mlflow-artifacts:/,s3://bucket/folder")
        if re.search(r"//[^/]*:[^/]*@", location):
            raise ValueError("must not hold credentials")
    return value


def flag(value: str) -> bool:
    """1/true/yes/on or 0/false/no/off, in any case."""
    if value.lower() not in TRUE + FALSE:
        raise ValueError("must be true or false")
    return value.lower() in TRUE


def one_of(*choices: str) -> Callable[[str], str]:
    """One of these words, in any case; returned in the listed spelling."""

    def parse(value: str) -> str:
        for choice in choices:
            if value.lower() == choice.lower():
                return choice
        raise ValueError(f"must be one of {', '.join(choices)}")

    return parse


def count(lowest: int = 0, highest: int = 2**31) -> Callable[[str], int]:
    """A whole number within inclusive bounds."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", value) or not lowest <= int(value) <= highest:
            upper = f" to {highest}" if highest < 2**31 else " or more"
            raise ValueError(f"must be a whole number, {lowest}{upper}")
        return int(value)

    return parse


def seconds(lowest: float = 0.0, highest: float = 86_400.0) -> Callable[[str], float]:
    """A time in seconds within inclusive bounds; fractions allowed."""

    def parse(value: str) -> float:
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) or not lowest <= float(value) <= highest:
            raise ValueError(f"must be a number of seconds, {lowest:g} to {highest:g}")
        return float(value)

    return parse


def audit_log(value: str) -> str:
    """`stderr`, `off`, or the absolute path of a file that is writable at the start. If a later
    write fails, its lines go to stderr."""
    if value.lower() in ("stderr", "off"):
        return value.lower()
    path, is_start = Path(value), not is_running()
    if not path.is_absolute() or (is_start and path.is_dir()):
        raise ValueError("must be stderr, off, or the absolute path of a file")
    if is_start and not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError("must name a writable file; does its folder exist?")
    return value


def telemetry_flag(value: str) -> bool:
    """A flag that can be true only if the extra is installed."""
    wanted = flag(value)
    try:
        is_installed = not wanted or find_spec(TELEMETRY) is not None
    except ModuleNotFoundError:  # the parent package is missing too
        is_installed = False
    if not is_installed:
        raise ValueError(f"needs packages that are not installed; install {TELEMETRY_LOCK}")
    return wanted
