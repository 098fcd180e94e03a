"""Cross-site request forgery: refuse writes that another site makes a browser send.

A browser keeps the key of a Basic sign-in and sends it with every request to this host, even with
a form on another site's page. MLflow has its own check, but knows only its own addresses. So Origin
is checked here and not forwarded (docs/decisions/sessions.md).
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

#: A proxy in front that replaces Host makes the proxy's own pages look like another site's.
WRONG_HOST = (
    "If you came from a page of this host, the proxy in front changes the Host header. Ask its "
    "operator to set in nginx 'proxy_set_header Host $http_host;', in Apache 'ProxyPreserveHost "
    "On'."
)


def refuse_cross_site(environ: Mapping[str, Any], hops: int) -> None:
    """Raise Forbidden for a write from another site's page; `hops` as TRUSTED_PROXY_HOPS.

    The browser sets Sec-Fetch-Site (https://www.w3.org/TR/fetch-metadata/). Without it, an Origin
    other than this host is refused. SDKs and curl send neither.
    """
    if environ["REQUEST_METHOD"] not in SAFE_METHODS and _is_own_page(environ, hops) is False:
        raise Forbidden(
            "This write comes from another site's page: its Origin is not this host. Send writes "
            "from the proxy's own pages, or from a program that sends no Origin."
            + _hint(environ, hops)
        )


def require_own_page(environ: Mapping[str, Any], hops: int) -> None:
    """Raise Forbidden for a write without proof that it comes from a page of this host. Session
    cookies and sign-in require it. Every browser sends it; old ones in Referer only."""
    if environ["REQUEST_METHOD"] in SAFE_METHODS:
        return
    own = _is_own_page(environ, hops)
    if own is None:
        own = _is_own(environ.get("HTTP_REFERER", ""), environ, hops)
    if not own:
        raise Forbidden(
            "Neither Sec-Fetch-Site nor Origin shows that this write comes from a page of this "
            "host. A browser's session can write from these pages only; a program must send its "
            "API key." + _hint(environ, hops)
        )


def _is_own_page(environ: Mapping[str, Any], hops: int) -> bool | None:
    """Whether the request comes from a page of this host; None without the header fields."""
    site: str | None = environ.get("HTTP_SEC_FETCH_SITE")
    if site is not None:
        return site.lower() in ("same-origin", "none")
    origin: str = environ.get("HTTP_ORIGIN", "")
    return _is_own(origin, environ, hops) if origin else None


def _is_own(page: str, environ: Mapping[str, Any], hops: int) -> bool:
    """Whether a page's URL or Origin has one of the names of this host. `null` has none."""
    try:
        parts = urlsplit(page)
        origin = _host_and_port(parts, parts.scheme)
        names = [
            _host_and_port(urlsplit(f"//{name}"), parts.scheme) for name in _names(environ, hops)
        ]
    except ValueError:
        return False
    return bool(parts.hostname) and parts.scheme in DEFAULT_PORTS and origin in names


def _names(environ: Mapping[str, Any], hops: int) -> Iterator[str]:
    """The names of this host: Host and, from trusted proxies in front, X-Forwarded-Host and
    X-Forwarded-Port. Another site's page can set neither: a browser sends such a header only after
    a CORS preflight."""
    hosts = {environ.get("HTTP_HOST", ""), public_host(environ, hops)}
    yield from hosts
    port: str = environ.get("HTTP_X_FORWARDED_PORT", "").rpartition(",")[2].strip()
    if hops and port.isdigit():
        for host in hosts:
            name = urlsplit(f"//{host}").hostname or ""
            yield f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _host_and_port(parts: SplitResult, scheme: str) -> tuple[str | None, int | None]:
    """Host in lower case, and port. Browsers omit a scheme's default port; some proxies add it."""
    return parts.hostname, parts.port or DEFAULT_PORTS.get(scheme)


_logged: set[str] = set()


def _hint(environ: Mapping[str, Any], hops: int) -> str:
    """Hint for the caller at a proxy in front that changes Host, if Origin (or else Referer) alone
    refused the request. For the operator, log both names once per worker."""
    page: str = environ.get("HTTP_ORIGIN") or _origin(environ.get("HTTP_REFERER", ""))
    if not page or page == "null" or "HTTP_SEC_FETCH_SITE" in environ:
        return ""
    if not _logged:
        _logged.add(page)
        log.warning(
            "a write was refused: its Origin is %.200r, its Host %.200r. If both are one host, the "
            "proxy in front must keep Host, or send X-Forwarded-Host with TRUSTED_PROXY_HOPS set.",
            page,
            public_host(environ, hops),
        )
    return f" {WRONG_HOST}"


def _origin(page: str) -> str:
    """The origin of a page's URL, without credentials, path or query; "" for none."""
    try:
        parts = urlsplit(page)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""
