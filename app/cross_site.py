"""Refusing writes that another site makes a browser send.

A browser keeps the key of a Basic sign-in and sends it along with whatever any page asks of this
host, also a form on somebody else's page. MLflow has a check of its own, but it knows only its own
addresses; so Origin is judged here, and not passed on (docs/decisions/cross-site.md).
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from app.errors import Forbidden

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))


def refuse_cross_site(environ: Mapping[str, Any]) -> None:
    """Forbidden for a write that comes from another site's page.

    Sec-Fetch-Site is the browser's own word (https://www.w3.org/TR/fetch-metadata/); where it is
    absent, an Origin that is not this host's decides. SDKs and curl send neither.
    """
    if environ["REQUEST_METHOD"] not in SAFE_METHODS and _is_own_page(environ) is False:
        raise Forbidden(
            "This write comes from another site's page (its Origin is not this host); the proxy "
            "takes writes from its own pages, and from programs that send no Origin."
        )


def require_own_page(environ: Mapping[str, Any]) -> None:
    """Forbidden for a write that does not say that it comes from a page of this host: what a
    session's cookie, or a sign-in, asks for. Every browser says so."""
    if environ["REQUEST_METHOD"] not in SAFE_METHODS and not _is_own_page(environ):
        raise Forbidden(
            "This does not come from a page of this host, as far as its Sec-Fetch-Site or Origin "
            "says. A browser's session writes from its own pages only; a program sends its API key."
        )


def _is_own_page(environ: Mapping[str, Any]) -> bool | None:
    """Whether the request comes from a page of this host; None where it does not say."""
    site: str | None = environ.get("HTTP_SEC_FETCH_SITE")
    if site is not None:
        return site.lower() in ("same-origin", "none")
    origin: str = environ.get("HTTP_ORIGIN", "")
    return _host(origin) == environ.get("HTTP_HOST", "").lower() if origin else None


def _host(origin: str) -> str:
    """host:port of an Origin, as it stands in a Host field; no host for `null`."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
