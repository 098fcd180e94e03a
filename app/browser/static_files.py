"""What a cache may keep of MLflow's static files, and its one page among them.

The page shows traces in a notebook, in an iframe. It takes for granted that MLflow stands at the
root of its host, so it is rewritten for the prefix under which the proxy has MLflow.
"""

import re
from collections.abc import Callable, Iterator
from typing import cast

from flask import Response, g, request

from app.browser.pages import HOME
from app.observability.record import Record
from app.request.errors import BrokenTransfer, UpstreamReset
from app.upstream.streaming import abort_with_reset

#: A name with a hash of the content, as webpack makes them: main.c2f5f8d4.js.
_HASHED = re.compile(r"[^/]+\.[0-9a-f]{8,32}(?:\.[A-Za-z0-9_-]+)+")

FOREVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "public, no-cache"

#: Bytes of a page that is rewritten; MLflow's has 205.
LONGEST_PAGE = 256 * 1024

#: What a part, or a date, of MLflow's own bytes means nothing for.
_CONDITIONS = (
    "HTTP_RANGE HTTP_IF_RANGE HTTP_IF_NONE_MATCH HTTP_IF_MODIFIED_SINCE HTTP_IF_MATCH "
    "HTTP_IF_UNMODIFIED_SINCE"
).split()

_ROOT = re.compile(rb'(<base href|\b(?:src|href))="/(?=static-files/|")')


def is_hashed(name: str) -> bool:
    """Whether the file of this name never changes; `name` is below /static-files/."""
    return bool(_HASHED.fullmatch(name.rpartition("/")[2])) and not is_page(name)


def is_page(name: str) -> bool:
    """Whether the file of this name is HTML."""
    return name.lower().endswith((".html", ".htm"))


def describe(answer: Response, name: str) -> Response:
    """MLflow's answer with what caches may do: keep a hashed file, ask again about any other, and
    keep no error. HTML under a script's name comes from something in front of MLflow, so it is not
    kept either. No browser may guess another type than the one that is given."""
    headers = answer.headers
    is_html = headers.get("Content-Type", "").strip().lower().startswith("text/html")
    if answer.status_code not in (200, 206, 304) or (is_html and not is_page(name)):
        headers["Cache-Control"] = "no-store"
    else:
        headers["Cache-Control"] = FOREVER if is_hashed(name) else ASK_AGAIN
    headers.pop("Expires", None)
    headers["X-Content-Type-Options"] = "nosniff"
    return answer


def page(forward: Callable[[Record], Response], record: Record) -> Response:
    """A page of MLflow's, with the addresses of its parts behind our prefix."""
    for condition in _CONDITIONS:
        request.environ.pop(condition, None)
    request.environ["HTTP_ACCEPT_ENCODING"] = "identity"
    answer = forward(record)
    if answer.status_code != 200 or "Content-Encoding" in answer.headers:
        return answer
    for name in ("ETag", "Last-Modified", "Accept-Ranges", "Content-Length"):
        answer.headers.pop(name, None)
    if request.method == "HEAD":
        return answer
    body = at_prefix(_whole(pieces(answer)))
    answer.headers["Content-Length"] = str(len(body))
    answer.response = [body]
    record.bytes_out = len(body)
    return answer


def at_prefix(body: bytes) -> bytes:
    """A page that was made for the root of a host, for /mlflow/: that is where the session's cookie
    goes, also when the page itself was asked for under /api/mlflow/."""
    return _ROOT.sub(rb'\1="' + HOME.encode(), body)


def pieces(answer: Response) -> Iterator[bytes]:
    """MLflow's body, of which nothing has gone to the client yet: where it breaks off, the client
    gets an error, and a connection that ends as usual."""
    try:
        yield from cast(Iterator[bytes], answer.response)
    except BrokenTransfer as broken:
        abort_with_reset(g.record.inbound, False)
        raise UpstreamReset("MLflow broke its answer off.") from broken
    finally:
        answer.close()


def _whole(parts: Iterator[bytes]) -> bytes:
    body = bytearray()
    for piece in parts:
        body += piece
        if len(body) > LONGEST_PAGE:
            raise UpstreamReset("This page of MLflow is too long to be passed on.")
    return bytes(body)
