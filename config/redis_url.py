"""The grammar of REDIS_URL: one for all kinds of Redis.

    redis://[user:password@]host[:port][/database][?option=value&…]
    unix://[user:password@]/path/of/the/socket[?db=database&…]
    redis+sentinel://[user:password@]host[:port],host[:port],…/service[/database][?…]
    redis+cluster://[user:password@]host[:port],host[:port],…[?…]
    memory://

`rediss` instead of `redis` means TLS: to the server, to the Sentinels and the master, to all nodes.
IPv6 addresses need brackets. Ports default to 6379, Sentinels' to 26379. User, password, service,
path and option values may be percent-encoded; reserved characters in them must be.
"""

import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv6Address
from typing import Any
from urllib.parse import unquote

from config.running import is_running

SCHEMES = (
    *("redis", "rediss", "unix", "memory"),
    *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
)

#: The hint for a refused value.
ESCAPES = "# is %23, / is %2F, ? is %3F, @ is %40, % is %25"

#: (pattern, complaint): what the text after the scheme must not contain. The first match counts.
FORBIDDEN = (
    (r"[^\x21-\x7e]", "must be printable ASCII without blanks; percent-encode the rest"),
    (r"#", f"has a #; percent-encode it: {ESCAPES}"),
    (r"%(?![0-9A-Fa-f]{2})", f"has a % without two hexadecimal digits after it; {ESCAPES}"),
    (r"\?.*\?", f"has more than one ?; percent-encode it in values: {ESCAPES}"),
    (r"@.*@", f"has more than one @; percent-encode the password: {ESCAPES}"),
    (r"[/?].*@", f"has an @ after the hosts; percent-encode the password: {ESCAPES}"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisUrl:
    """A parsed REDIS_URL. `kind` is redis, unix, sentinel, cluster or memory; `tls` holds the TLS
    options by their redis-py names."""

    kind: str
    is_tls: bool = False
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    database: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    protocol: int | None = None
    tls: Mapping[str, Any] = field(default_factory=dict, repr=False)


def parse(value: str) -> RedisUrl:
    """Parse a URL. Raises ValueError; the message continues a sentence that begins with the
    variable's name, and repeats nothing of the URL, which may hold secrets."""
    scheme, separator, rest = value.partition("://")
    if not separator or scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(f"must begin with one of {known}")
    if scheme == "memory":
        if rest:
            raise ValueError("must have nothing after memory://")
        return RedisUrl(kind="memory")
    for pattern, complaint in FORBIDDEN:
        if re.search(pattern, rest):
            raise ValueError(complaint)
    before, _, query = rest.partition("?")
    authority, slash, path = before.partition("/")
    credentials, _, hosts = authority.rpartition("@")
    is_tls = scheme.startswith("rediss")
    kind = scheme.rpartition("+")[2] if "+" in scheme else scheme.replace("rediss", "redis")
    found: dict[str, Any] = {"kind": kind, "is_tls": is_tls, **_credentials(credentials)}
    _add(found, _options(query, kind, is_tls))
    _add(found, _place(kind, hosts, slash + path))
    _check_tls(found.get("tls", {}))
    for who in ("", "sentinel_"):
        if found.get(f"{who}username") and not found.get(f"{who}password"):
            raise ValueError(f"names a {who}username without a {who}password")
    return RedisUrl(**found)


def _add(found: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add the values of another part of the URL. Raises ValueError if one is set twice."""
    if twice := found.keys() & more.keys():
        raise ValueError(f"sets {', '.join(sorted(twice))} twice")
    found.update(more)


def _credentials(text: str) -> dict[str, str]:
    """`user:password`, `:password`, or nothing."""
    username, colon, password = text.partition(":")
    if username and not colon:
        raise ValueError("has a user but no password; a password alone is written :PASSWORD@")
    pairs = {"username": _text(username), "password": _text(password)}
    return {name: value for name, value in pairs.items() if value}


def _text(text: str) -> str:
    """Percent-decode. Raises ValueError if the result is not UTF-8."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"has escapes that are not UTF-8; {ESCAPES}") from None


# --- hosts and path ------------------------------------------------------------------------------


def _place(kind: str, hosts: str, path: str) -> dict[str, Any]:
    """Parse those of hosts, path, service and database that the kind has."""
    if kind == "unix":
        if hosts or len(path) < 2:
            raise ValueError("must name a socket by its absolute path: unix:///run/redis.sock")
        return {"path": _text(path)}
    port = 26379 if kind == "sentinel" else 6379
    listed = tuple(_host(host, port) for host in hosts.split(","))
    if kind == "redis" and len(listed) > 1:
        raise ValueError("names several hosts; use redis+sentinel:// or redis+cluster://")
    parts = path.strip("/").split("/") if path.strip("/") else []
    place: dict[str, Any] = {"hosts": listed}
    if kind == "sentinel":
        if not parts:
            raise ValueError(
                "must name the service after the hosts, as in HOST:PORT,HOST:PORT/NAME"
            )
        place["service"] = _text(parts.pop(0))
    if len(parts) > 1:
        raise ValueError("has too many parts after the hosts; write a / in a value as %2F")
    if parts:
        place["database"] = _database(parts[0])
    if kind == "cluster" and place.pop("database", 0):
        raise ValueError("names a database: a cluster has only database 0")
    return place


def _host(text: str, default_port: int) -> tuple[str, int]:
    """`host`, `host:port`, `[v6]` or `[v6]:port`."""
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?", text)
    if not match:
        raise ValueError(
            "must name each host as HOST or HOST:PORT, with an IPv6 address in brackets, and a "
            f"port from 1 to 65535; percent-encode the password: {ESCAPES}"
        )
    v6, name, port = match.groups()
    if not 1 <= int(port or default_port) <= 65535:
        raise ValueError("has a port that is not a number from 1 to 65535")
    return _ipv6(unquote(v6)) if v6 else name, int(port or default_port)


def _ipv6(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except AddressValueError:
        raise ValueError("has brackets around text that is not an IPv6 address") from None


def _database(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise ValueError("has a database that is not a number")
    return int(text)


# --- options -------------------------------------------------------------------------------------


def _file(text: str) -> str:
    """A readable file, checked at the start only (config/running.py). If it is missing later, new
    connections fail and health reports it."""
    if not os.access(text, os.R_OK) and not is_running():
        raise ValueError("must name a readable file or folder")
    return text


def _check_tls(tls: Mapping[str, Any]) -> None:
    """Load the TLS files, at the start only. The default password keeps OpenSSL from prompting for
    one on the terminal."""
    if "ssl_keyfile" in tls and "ssl_certfile" not in tls:
        raise ValueError("has the option ssl_keyfile without ssl_certfile")
    if is_running():
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if file := tls.get("ssl_ca_certs"):
            context.load_verify_locations(file)
    except OSError:
        what = "has an option ssl_ca_certs that is not a file of certificates in PEM"
        raise ValueError(what) from None
    try:
        if file := tls.get("ssl_certfile"):
            context.load_cert_chain(file, tls.get("ssl_keyfile"), tls.get("ssl_password", ""))
    except OSError:
        raise ValueError(
            "has an option ssl_certfile that cannot be used: are it and ssl_keyfile in PEM, do "
            "they match, and does ssl_password decrypt the key?"
        ) from None


def _one_of(choices: Mapping[str, Any]) -> Callable[[str], Any]:
    def choose(text: str) -> Any:
        if text.lower() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return choices[text.lower()]

    return choose


#: The options of every kind, of TLS, and of Sentinels, each with its parser.
OPTIONS: dict[str, Callable[[str], Any]] = {
    "db": _database,
    "username": str,
    "password": str,
    "protocol": _one_of({"2": 2, "3": 3}),
}
TLS_OPTIONS: dict[str, Callable[[str], Any]] = {
    "ssl_ca_certs": _file,
    "ssl_ca_path": _file,
    "ssl_certfile": _file,
    "ssl_keyfile": _file,
    "ssl_password": str,
    "ssl_cert_reqs": _one_of({word: word for word in ("required", "optional", "none")}),
    "ssl_check_hostname": _one_of({"true": True, "false": False}),
}
SENTINEL_OPTIONS: dict[str, Callable[[str], Any]] = {
    "sentinel_username": str,
    "sentinel_password": str,
}
ALL_OPTIONS = OPTIONS | TLS_OPTIONS | SENTINEL_OPTIONS


def _options(query: str, kind: str, is_tls: bool) -> dict[str, Any]:
    """Parse the options; those of TLS are grouped under `tls`."""
    found: dict[str, Any] = {}
    for number, pair in enumerate(query.split("&") if query else (), 1):
        name, separator, text = pair.partition("=")
        _check_option(name, number, kind, is_tls)
        if not separator or not text:
            raise ValueError(f"has no value for its option {name}")
        _add(found, {name: _option_value(name, text)})
    tls = {name: found.pop(name) for name in TLS_OPTIONS if name in found}
    if "db" in found:
        found["database"] = found.pop("db")
        if kind == "cluster" and found.pop("database"):
            raise ValueError("names a database: a cluster has only database 0")
    if tls.get("ssl_cert_reqs") == "none":
        tls.setdefault("ssl_check_hostname", False)
    return found | ({"tls": tls} if tls else {})


def _check_option(name: str, number: int, kind: str, is_tls: bool) -> None:
    """Raise ValueError for an unknown or misplaced option. An unknown one is named by its number:
    its text may be part of a password."""
    if name in TLS_OPTIONS and not is_tls:
        raise ValueError(f"has the option {name} without TLS; use rediss instead of redis")
    if name in SENTINEL_OPTIONS and kind != "sentinel":
        raise ValueError(f"has the option {name} without Sentinels")
    if name not in ALL_OPTIONS:
        raise ValueError(
            f"has an unknown option (number {number} after the ?); known are "
            f"{', '.join(ALL_OPTIONS)}; "
            "for TLS use rediss instead of redis; write & in a value as %26"
        )


def _option_value(name: str, text: str) -> Any:
    try:
        return ALL_OPTIONS[name](_text(text))
    except ValueError as why:
        raise ValueError(f"has an option {name}, which {why}") from None
