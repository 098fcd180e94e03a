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
    if environ["REQUEST_METHOD"] in SAFE_METHODS:
        return
    site: str | None = environ.get("HTTP_SEC_FETCH_SITE")
    origin: str = environ.get("HTTP_ORIGIN", "")
    if site is not None:
        foreign = site.lower() not in ("same-origin", "none")
    else:
        foreign = bool(origin) and _host(origin) != environ.get("HTTP_HOST", "").lower()
    if foreign:
        raise Forbidden(
            "This write comes from another site's page (its Origin is not this host); the proxy "
            "takes writes from its own pages, and from programs that send no Origin."
        )


def _host(origin: str) -> str:
    """host:port of an Origin, as it stands in a Host field; no host for `null`."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
