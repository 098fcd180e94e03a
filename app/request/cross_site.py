"""Refusing writes that another site makes a browser send.

A browser keeps the key of a Basic sign-in and sends it along with whatever any page asks of this
host, also a form on somebody else's page. MLflow has a check of its own, but it knows only its own
addresses; so Origin is judged here, and not passed on (docs/decisions/sessions.md).
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from app.request.errors import Forbidden
from app.request.inbound import public_host

log = logging.getLogger("hokusai.cross_site")

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
DEFAULT_PORTS = {"http": 80, "https": 443}

#: A proxy in front that replaces Host makes our own pages look like another site's.
WRONG_HOST = (
    "If you came here from a page of this address, the proxy in front changes the Host header. "
    "Whoever runs it must set: in nginx 'proxy_set_header Host $http_host;', in Apache "
    "'ProxyPreserveHost On'."
)


def refuse_cross_site(environ: Mapping[str, Any], hops: int) -> None:
    """Forbidden for a write that comes from another site's page; `hops` as TRUSTED_PROXY_HOPS.

    Sec-Fetch-Site is the browser's own word (https://www.w3.org/TR/fetch-metadata/); where it is
    absent, an Origin that is not this host's decides. SDKs and curl send neither.
    """
    if environ["REQUEST_METHOD"] not in SAFE_METHODS and _is_own_page(environ, hops) is False:
        raise Forbidden(
            "This write comes from another site's page (its Origin is not this host); the proxy "
            "takes writes from its own pages, and from programs that send no Origin."
            + _hint(environ, hops)
        )


def require_own_page(environ: Mapping[str, Any], hops: int) -> None:
    """Forbidden for a write that does not say that it comes from a page of this host: what a
    session's cookie, or a sign-in, asks for. Every browser says so; old ones in Referer only."""
    if environ["REQUEST_METHOD"] in SAFE_METHODS:
        return
    own = _is_own_page(environ, hops)
    if own is None:
        own = _is_own(environ.get("HTTP_REFERER", ""), environ, hops)
    if not own:
        raise Forbidden(
            "This does not come from a page of this host, as far as its Sec-Fetch-Site or Origin "
            "says. A browser's session writes from its own pages only; a program sends its API key."
            + _hint(environ, hops)
        )


def _is_own_page(environ: Mapping[str, Any], hops: int) -> bool | None:
    """Whether the request comes from a page of this host; None where it does not say."""
    site: str | None = environ.get("HTTP_SEC_FETCH_SITE")
    if site is not None:
        return site.lower() in ("same-origin", "none")
    origin: str = environ.get("HTTP_ORIGIN", "")
    return _is_own(origin, environ, hops) if origin else None


def _is_own(page: str, environ: Mapping[str, Any], hops: int) -> bool:
    """Whether a page's address or Origin has one of the names by which the client may have asked
    for this host. `null` has none."""
    try:
        parts = urlsplit(page)
        asked = _host_and_port(parts, parts.scheme)
        names = [
            _host_and_port(urlsplit(f"//{name}"), parts.scheme) for name in _names(environ, hops)
        ]
    except ValueError:
        return False
    return bool(parts.hostname) and parts.scheme in DEFAULT_PORTS and asked in names


def _names(environ: Mapping[str, Any], hops: int) -> Iterator[str]:
    """Host; and with trusted proxies in front what they say was asked for, in X-Forwarded-Host and
    X-Forwarded-Port. A page of another site can set neither: a browser asks first, by CORS, whether
    it may send such a header."""
    hosts = {environ.get("HTTP_HOST", ""), public_host(environ, hops)}
    yield from hosts
    port: str = environ.get("HTTP_X_FORWARDED_PORT", "").rpartition(",")[2].strip()
    if hops and port.isdigit():
        for host in hosts:
            name = urlsplit(f"//{host}").hostname or ""
            yield f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _host_and_port(parts: SplitResult, scheme: str) -> tuple[str | None, int | None]:
    """In lower case. Browsers leave out the port that is the scheme's own, and some proxies add
    it."""
    return parts.hostname, parts.port or DEFAULT_PORTS.get(scheme)


_logged: set[str] = set()


def _hint(environ: Mapping[str, Any], hops: int) -> str:
    """For the caller, how a proxy in front must be set where Origin, or in its place Referer, alone
    refused the request; for the operator, once a worker, the two names in the log."""
    page: str = environ.get("HTTP_ORIGIN") or _origin(environ.get("HTTP_REFERER", ""))
    if not page or page == "null" or "HTTP_SEC_FETCH_SITE" in environ:
        return ""
    if not _logged:
        _logged.add(page)
        log.warning(
            "a write was refused: its Origin is %.200r, the proxy was asked as %.200r. If that is "
            "one host, the proxy in front must keep Host, or TRUSTED_PROXY_HOPS must be set and "
            "X-Forwarded-Host sent.",
            page,
            public_host(environ, hops),
        )
    return f" {WRONG_HOST}"


def _origin(page: str) -> str:
    """A page's address without what may be secret in it; "" for none."""
    try:
        parts = urlsplit(page)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""
