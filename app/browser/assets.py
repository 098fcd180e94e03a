"""MLflow's static files, compressed here: it sends 4.4 MB of JavaScript uncompressed.

They are public code, so they need no key. Each worker compresses a file once, whole, and keeps the
copy; requests that come meanwhile wait up to LOCK_TIMEOUT for it. It revalidates a copy at MLflow
by its ETag, and serves it after a 304. A file whose name has a hash of its content never changes, so
its copy is not revalidated. Only static files come here, no other response and no artifact. See
docs/decisions/static-files.md.
"""

import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from flask import Blueprint, Response, g, request
from werkzeug.datastructures import Headers

from app.browser import static_files
from app.observability.record import Record
from app.request.body import yield_to_hub
from app.request.inbound import PREFIXES
from app.request.permit import Permit

#: Types to compress. Fonts and pictures are compressed already; pages are short, and HTML in place
#: of another file must not be kept.
TYPES = frozenset(
    """text/javascript application/javascript text/css text/plain image/svg+xml
    application/json application/manifest+json application/wasm""".split()
)

#: Bytes: a smaller response is one packet anyway, a larger one would fill the memory.
SMALLEST, LARGEST = 1024, 16 * 1024 * 1024

#: Bytes of compressed files that a worker keeps; all of MLflow 3.17's are 7 MB.
KEPT = 16 * 1024 * 1024

#: Of zlib's 9: the next ones cost more and gain less than 1 %.
LEVEL = 6

#: Characters of an Accept-Encoding that is parsed; browsers' have 25.
LONGEST_ENCODINGS = 1000

#: Bytes compressed at once, in about 3 ms; then the worker serves its other requests.
STEP = 64 * 1024

#: Seconds to wait for another request that compresses the file, which takes 0.3 s of CPU at most.
#: MLflow may fall silent meanwhile.
LOCK_TIMEOUT = 5.0

#: Describes one request's header fields, so it is not kept for the next.
DROPPED = "X-Hokusai-Dropped-Headers"


@dataclass(frozen=True, slots=True)
class Copy:
    """A compressed file, and the header fields of its response."""

    body: bytes
    headers: tuple[tuple[str, str], ...]
    etag: str


class Copies(dict[str, Copy]):
    """The compressed files of this worker, by path. Those of one MLflow fit in; where more come,
    all are forgotten, and those in use are compressed again."""

    def __init__(self, limit: int = KEPT) -> None:
        """`limit` is in bytes of compressed files."""
        super().__init__()
        self._limit = limit
        #: By path, held while its file is compressed.
        self.locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def keep(self, path: str, copy: Copy) -> None:
        """Keep a copy, in place of an older one of the same path."""
        self.pop(path, None)
        if sum(len(kept.body) for kept in [*self.values(), copy]) > self._limit:
            self.clear()
        self[path] = copy


PermitAnybody = Callable[[Record], Permit]
PassOn = Callable[[Permit, Record], Response]


def blueprint(permit_anybody: PermitAnybody, pass_on: PassOn) -> Blueprint:
    """MLflow's static files under both prefixes: `permit_anybody` checks the request, `pass_on`
    forwards it."""
    routes = Blueprint("assets", __name__)
    copies = Copies()

    def asset(rest: str) -> Response:
        forward = partial(pass_on, permit_anybody(g.record), g.record)
        if static_files.is_page(rest):
            response = static_files.page(forward, g.record)
        else:
            response = compressed(forward, copies, rest)
        return static_files.describe(response, rest)

    for prefix in PREFIXES:
        routes.add_url_rule(
            f"{prefix}/static-files/<any_rest:rest>",
            "asset",
            asset,
            methods=["GET", "HEAD"],
            provide_automatic_options=False,
        )
    return routes


def compressed(forward: Callable[[], Response], copies: Copies, name: str) -> Response:
    """MLflow's response, compressed where the client wants that and it is worth it."""
    if not _wants_gzip():
        return _varying(forward())
    copy = copies.get(name)
    client_has_it = copy is not None and _client_has(copy)
    if copy is not None and static_files.is_hashed(name):
        return _not_modified(copy) if client_has_it else _from_copy(copy)
    if copy is not None and not client_has_it:
        request.environ["HTTP_IF_NONE_MATCH"] = copy.etag
    response = forward()
    if response.status_code == 304:
        if copy is not None and not client_has_it:
            return _from_copy(copy, response)
        _weaken(response)
    if _is_worth_it(response):
        return _compressed_whole(response, copies, name)
    return _varying(response)


def _wants_gzip() -> bool:
    """Whether the client prefers gzip, and wants the whole file.

    An If-Range that names no strong ETag, which only MLflow's own bytes have (RFC 9110 section
    13.1.5), is dropped with its range: the part that the client has may be of our bytes.
    """
    environ = request.environ
    if len(environ.get("HTTP_ACCEPT_ENCODING", "")) > LONGEST_ENCODINGS:
        return False
    wanted = request.accept_encodings
    if not wanted.quality("gzip") or wanted.quality("identity") > wanted.quality("gzip"):
        return False
    condition: str | None = environ.get("HTTP_IF_RANGE")
    if condition is not None and not condition.strip().startswith('"'):
        environ.pop("HTTP_RANGE", None)
        del environ["HTTP_IF_RANGE"]
    return "HTTP_RANGE" not in environ


def _is_worth_it(response: Response) -> bool:
    return (
        response.status_code == 200
        and response.mimetype in TYPES
        and "Content-Encoding" not in response.headers
        and "no-transform" not in response.headers.get("Cache-Control", "")
        and SMALLEST <= (response.content_length or 0) <= LARGEST
    )


def _compressed_whole(response: Response, copies: Copies, name: str) -> Response:
    """The file compressed, by this request or by another one while this one waited; uncompressed
    if that takes too long."""
    lock = copies.locks[name]
    if request.method == "HEAD":
        _describe(response)
        return response
    if not lock.acquire(timeout=LOCK_TIMEOUT):
        return _varying(response)
    try:
        copy = copies.get(name)
        etag = response.headers.get("ETag", "")
        if copy is None or copy.etag != etag:
            _describe(response)
            fields = tuple(field for field in response.headers.items() if field[0] != DROPPED)
            copy = Copy(_gzip(static_files.pieces(response)), fields, etag)
            if etag:  # without one it cannot be revalidated
                copies.keep(name, copy)
    finally:
        lock.release()
    return _from_copy(copy, response)


def _gzip(pieces: Iterable[bytes]) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = bytearray()
    for piece in pieces:
        for start in range(0, len(piece), STEP):
            packed += packer.compress(piece[start : start + STEP])
            yield_to_hub()
    return bytes(packed + packer.flush())


def _from_copy(copy: Copy, upstream: Response | None = None) -> Response:
    """Serve the copy. `upstream` is MLflow's response, often a 304, None for a file that never
    changes; its Cache-Control, Expires and dropped header fields apply."""
    body = copy.body if request.method == "GET" else b""
    response = Response(body, headers=Headers(copy.headers))
    response.headers["Content-Length"] = str(len(copy.body))
    if upstream is not None:
        for name in ("Cache-Control", "Expires", DROPPED):
            if value := upstream.headers.get(name):
                response.headers[name] = value
        response.call_on_close(upstream.close)
    record: Record = g.record
    record.bytes_out = len(body)
    return response


def _not_modified(copy: Copy) -> Response:
    """A 304, for a client that has the kept version."""
    response = Response(status=304)
    response.headers.clear()
    response.headers["ETag"] = copy.etag
    _weaken(response)
    return _varying(response)


def _describe(response: Response) -> None:
    """Header fields for compressed bytes: a weak ETag, because the bytes are others; no ranges."""
    response.headers["Content-Encoding"] = "gzip"
    response.headers.pop("Content-Length", None)
    response.headers.pop("Accept-Ranges", None)
    _weaken(response)
    _varying(response)


def _client_has(copy: Copy) -> bool:
    """Whether the client's own condition names this version, or a date."""
    if "HTTP_IF_NONE_MATCH" not in request.environ:
        return "HTTP_IF_MODIFIED_SINCE" in request.environ
    return request.if_none_match.contains_weak(copy.etag.removeprefix("W/").strip('"'))


def _weaken(response: Response) -> None:
    etag, _ = response.get_etag()
    if etag:
        response.set_etag(etag, weak=True)


def _varying(response: Response) -> Response:
    """The response with Vary: Accept-Encoding, so that caches keep it apart from the other form."""
    if response.status_code in (200, 206, 304):
        fields = [value for value in response.headers.getlist("Vary") if value]
        if not any("accept-encoding" in value.lower() for value in fields):
            response.headers["Vary"] = ", ".join([*fields, "Accept-Encoding"])
    return response
