"""The values of the command line: each function reads one, or says what is wrong with it."""

import re
from datetime import UTC, datetime
from ipaddress import ip_network

from click import BadParameter

from devstack.auth_service.grant import Network
from devstack.auth_service.times import parse_expiry


def user_id(text: str) -> str:
    """Visible ASCII, at most 128 characters: it goes on to MLflow in a header."""
    if not re.fullmatch(r"[!-~]{1,128}", text):
        raise BadParameter("a user id is 1 to 128 visible ASCII characters without spaces.")
    return text


def printable(text: str) -> str:
    """One line of text; control characters would garble a terminal."""
    if not text or not text.isprintable():
        raise BadParameter("must be one line of printable text.")
    return text


def scopes(text: str) -> tuple[str, ...]:
    """Names separated by commas, each once, in the order given; `none` for no scope."""
    if text == "none":
        return ()
    names = [name.strip() for name in text.split(",")]
    if not all(re.fullmatch(r"[A-Za-z0-9_.:-]+", name) for name in names):
        raise BadParameter("give names like read,write or model:write, separated by commas.")
    return tuple(dict.fromkeys(names))


def limit(text: str) -> int | None:
    """Requests per hour, at least 1; None, written `none`, for no limit."""
    if text == "none":
        return None
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise BadParameter("give a whole number from 1 on, or none for no limit.")
    return int(text)


def expiry(text: str) -> int:
    """A time to come, in seconds since the epoch."""
    try:
        return parse_expiry(text, datetime.now(UTC))
    except ValueError as error:
        raise BadParameter(f"{text} {error}.") from None


def network(text: str) -> Network:
    """An address, or a network in CIDR notation."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise BadParameter(f"{error}.") from None
