"""What caches may keep of MLflow's static files, and the one page among them.

The page shows traces in a notebook, in an iframe. It assumes that MLflow is at the root of its
host, so its addresses are rewritten for the proxy's prefix.
"""

import re
from collections.abc import Callable, Iterator
from typing import cast

from flask import Response, g, request

from app.browser.pages import HOME
from app.observability.record import Record
from app.request.client_connection import abort_with_reset
from app.request.errors import BrokenTransfer, UpstreamReset

#: A name with a hash of the content, as webpack makes them: main.c2f5f8d4.js.
_HASHED = re.compile(r"[^/]+\.[0-9a-f]{8,32}(?:\.[A-Za-z0-9_-]+)+")

FOREVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "public, no-cache"

#: Bytes of a page to rewrite; MLflow's has 205.
LONGEST_PAGE = 256 * 1024

#: Header fields of the request that refer to MLflow's own bytes, not to the rewritten page.
_CONDITIONS = (
    *("HTTP_RANGE", "HTTP_IF_RANGE", "HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"),
    *("HTTP_IF_MODIFIED_SINCE", "HTTP_IF_UNMODIFIED_SINCE"),
)

_ROOT = re.compile(rb'(<base href|\b(?:src|href))="/(?=static-files/|")')


def is_hashed(name: str) -> bool:
    """Whether the file of this name never changes; `name` is below /static-files/."""
    return bool(_HASHED.fullmatch(name.rpartition("/")[2])) and not is_page(name)


def is_page(name: str) -> bool:
    """Whether the file of this name is HTML."""
    return name.lower().endswith((".html", ".htm"))


def describe(response: Response, name: str) -> Response:
    """Add Cache-Control: keep a hashed file, revalidate any other, keep no error. HTML under a
    script's name comes from something in front of MLflow, so it is not kept either."""
    headers = response.headers
    is_html = headers.get("Content-Type", "").strip().lower().startswith("text/html")
    if response.status_code not in (200, 206, 304) or (is_html and not is_page(name)):
        headers["Cache-Control"] = "no-store"
    else:
        headers["Cache-Control"] = FOREVER if is_hashed(name) else ASK_AGAIN
    headers.pop("Expires", None)
    headers["X-Content-Type-Options"] = "nosniff"
    return response


def page(forward: Callable[[], Response], record: Record) -> Response:
    """A page of MLflow's, with the addresses in it rewritten."""
    for condition in _CONDITIONS:
        request.environ.pop(condition, None)
    request.environ["HTTP_ACCEPT_ENCODING"] = "identity"
    response = forward()
    if response.status_code != 200 or "Content-Encoding" in response.headers:
        return response
    for name in ("ETag", "Last-Modified", "Accept-Ranges", "Content-Length"):
        response.headers.pop(name, None)
    if request.method == "HEAD":
        return response
    body = at_prefix(_whole(pieces(response)))
    response.headers["Content-Length"] = str(len(body))
    response.response = [body]
    record.bytes_out = len(body)
    return response


def at_prefix(body: bytes) -> bytes:
    """Rewrite addresses at the root of a host for /mlflow/, also in a page under /api/mlflow/: the
    session's cookie is sent to /mlflow/ only."""
    return _ROOT.sub(rb'\1="' + HOME.encode(), body)


def pieces(response: Response) -> Iterator[bytes]:
    """MLflow's body, of which nothing has gone to the client yet: if MLflow aborts it, the client
    gets an error, and a connection that ends as usual."""
    try:
        yield from cast(Iterator[bytes], response.response)
    except BrokenTransfer as broken:
        abort_with_reset(g.record.inbound, False)
        raise UpstreamReset("MLflow broke its response off.") from broken
    finally:
        response.close()


def _whole(parts: Iterator[bytes]) -> bytes:
    body = bytearray()
    for piece in parts:
        body += piece
        if len(body) > LONGEST_PAGE:
            raise UpstreamReset("This page of MLflow is too long to be passed on.")
    return bytes(body)
