"""Write the head of a request to MLflow: one write, and exactly one request."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

#: Carries the request target to the connection unchanged. The pool would rewrite it (`%2f` becomes
#: `%2F`), but the forwarded target must be the authorized one, byte for byte.
TARGET = ":path"

#: Carries a Copy, for a request that may make MLflow copy files.
COPY = ":copy"

#: Methods for which a missing body needs no `Content-Length: 0` (RFC 9110 section 8.6).
BODILESS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))

_NO_TARGET = re.compile(r"[^\x21-\x7e]")


class Copy(NamedTuple):
    """How to wait for a copy: seconds between two pieces of the response's body, and whether the
    client `has_left`."""

    idle: float
    has_left: Callable[[], bool]


def request_head(method: str, headers: Mapping[str, Any], bodiless: bool, chunked: bool) -> bytes:
    """Build the request line and fields. Without Accept-Encoding, ask for `identity`."""
    target = headers[TARGET]
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name[0] != ":"]
    if "Accept-Encoding" not in headers:
        lines.append("Accept-Encoding: identity")
    if chunked:
        lines.append("Transfer-Encoding: chunked")
    elif bodiless and method not in BODILESS:
        lines.append("Content-Length: 0")
    text, ends = "\r\n".join(lines), len(lines) - 1
    if _NO_TARGET.search(target) or text.count("\n") != ends or text.count("\r") != ends:
        raise ValueError("a line break, or a space in the target, would make it another request")
    return text.encode("latin-1") + b"\r\n\r\n"
