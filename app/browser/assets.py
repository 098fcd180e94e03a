"""MLflow's static files, compressed by us: it sends 4.4 MB of JavaScript as they are.

They are public code, so they need no key. A file is compressed once in each worker, whole, and then
kept; whoever comes meanwhile waits. For a kept file MLflow is asked with its ETag: "304 Not
Modified" is answered with the copy. A file whose name has a hash of its content never changes, so
MLflow is not asked again. Only MLflow's static files come here; answers and artifacts never do.
See docs/decisions/static-files.md and static_files.py.
"""

import threading
import zlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, g, request
from werkzeug.datastructures import Headers

from app.browser import static_files
from app.observability.record import Record
from app.request.body import yield_to_hub
from app.request.permit import Permit

#: What is worth it; fonts and pictures are compressed already. Pages are short, and HTML in another
#: file's place must not be kept.
TYPES = frozenset(
    """text/javascript application/javascript text/css text/plain image/svg+xml
    application/json application/manifest+json application/wasm""".split()
)

#: Bytes: below, a response is one packet anyway; above, nobody wants it in memory.
SMALLEST, LARGEST = 1024, 16 * 1024 * 1024

#: Bytes of compressed files that a worker keeps; all of MLflow 3.17's are 7 MB.
KEPT = 16 * 1024 * 1024

#: zlib's, of 9: the next ones cost more and give less than 1 %.
LEVEL = 6

#: Characters of an Accept-Encoding that is read; browsers' have 25.
LONGEST_WISH = 1000

#: Bytes compressed at once, in about 3 ms; then the worker's other requests have their turn.
STEP = 64 * 1024


#: What is said of one request's own header fields, and so is not kept for the next.
DROPPED = "X-Hokusai-Dropped-Headers"


@dataclass(frozen=True, slots=True)
class Copy:
    """A compressed file, and the header fields of MLflow's answer to which it belongs."""

    body: bytes
    headers: tuple[tuple[str, str], ...]
    etag: str


class Copies:
    """The compressed files of this worker, by path; the least recently used go first."""

    def __init__(self, limit: int = KEPT) -> None:
        """`limit` is in bytes of compressed files."""
        self._limit = limit
        self._size = 0
        self._guard = threading.Lock()
        self._kept: OrderedDict[str, Copy] = OrderedDict()
        #: Held by who compresses the file of this path.
        self.turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def get(self, path: str) -> Copy | None:
        """The copy that was kept, current or not."""
        with self._guard:
            if path in self._kept:
                self._kept.move_to_end(path)
            return self._kept.get(path)

    def put(self, path: str, copy: Copy) -> None:
        """Keeps one, in place of an older one of the same path."""
        with self._guard:
            if (old := self._kept.pop(path, None)) is not None:
                self._size -= len(old.body)
            self._kept[path] = copy
            self._size += len(copy.body)
            while self._size > self._limit:
                self._size -= len(self._kept.popitem(last=False)[1].body)


PermitAnybody = Callable[[Record], Permit]
PassOn = Callable[[Permit, Record], Response]


def blueprint(permit_anybody: PermitAnybody, pass_on: PassOn) -> Blueprint:
    """MLflow's static files under both prefixes: `permit_anybody` checks the request, `pass_on`
    gets MLflow's answer."""
    routes = Blueprint("assets", __name__)
    copies = Copies()

    def asset(rest: str) -> Response:
        permit = permit_anybody(g.record)

        def forward(record: Record) -> Response:
            return pass_on(permit, record)

        if static_files.is_page(rest):
            answer = static_files.page(forward, g.record)
        else:
            answer = compressed(forward, copies, rest)
        return static_files.describe(answer, rest)

    for prefix in ("/api/mlflow", "/mlflow"):
        routes.add_url_rule(
            f"{prefix}/static-files/<any_rest:rest>",
            "asset",
            asset,
            methods=["GET", "HEAD"],
            provide_automatic_options=False,
        )
    return routes


def compressed(forward: Callable[[Record], Response], copies: Copies, name: str) -> Response:
    """MLflow's answer, compressed where that is wanted and worth it."""
    environ = request.environ
    if len(environ.get("HTTP_ACCEPT_ENCODING", "")) > LONGEST_WISH:
        return _varying(forward(g.record))
    wanted = request.accept_encodings
    if not wanted.quality("gzip") or wanted.quality("identity") > wanted.quality("gzip"):
        return _varying(forward(g.record))
    _without_unsafe_range(environ)
    if "HTTP_RANGE" in environ:
        return _varying(forward(g.record))
    copy = copies.get(name)
    if copy is not None and static_files.is_hashed(name):
        return _not_modified(copy) if _has_it_already(copy) else _from_copy(None, copy)
    if copy is not None and _has_it_already(copy):
        copy = None
    if copy is not None:
        environ["HTTP_IF_NONE_MATCH"] = copy.etag
    answer = forward(g.record)
    if copy is not None and answer.status_code == 304:
        return _from_copy(answer, copy)
    if answer.status_code == 304:
        _weaken(answer.headers)
    if _is_worth_it(answer):
        return _compressed_whole(answer, copies, name)
    return _varying(answer)


def _without_unsafe_range(environ: MutableMapping[str, Any]) -> None:
    """A range of "what I have a part of" is dropped unless that is named by a strong ETag, which
    only MLflow's own bytes have (RFC 9110 section 13.1.5): what the client has may be ours."""
    condition: str | None = environ.get("HTTP_IF_RANGE")
    if condition is not None and not condition.strip().startswith('"'):
        environ.pop("HTTP_RANGE", None)
        del environ["HTTP_IF_RANGE"]


def _is_worth_it(answer: Response) -> bool:
    headers = answer.headers
    length = headers.get("Content-Length", "")
    return (
        answer.status_code == 200
        and headers.get("Content-Type", "").partition(";")[0].strip().lower() in TYPES
        and "Content-Encoding" not in headers
        and "no-transform" not in headers.get("Cache-Control", "")
        and length.isdigit()
        and SMALLEST <= int(length) <= LARGEST
    )


def _compressed_whole(answer: Response, copies: Copies, name: str) -> Response:
    """The file compressed: by us, or by another request that did so while this one waited."""
    etag = answer.headers.get("ETag", "")
    _describe(answer.headers)
    if request.method == "HEAD":
        return answer
    with copies.turns[name]:
        copy = copies.get(name)
        if copy is None or copy.etag != etag:
            fields = tuple(field for field in answer.headers.items() if field[0] != DROPPED)
            copy = Copy(_gzip(static_files.pieces(answer)), fields, etag)
            if etag:  # else nobody could say later whether it is still the same
                copies.put(name, copy)
    return _from_copy(answer, copy)


def _gzip(pieces: Iterable[bytes]) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = bytearray()
    for piece in pieces:
        for start in range(0, len(piece), STEP):
            packed += packer.compress(piece[start : start + STEP])
            yield_to_hub()
    return bytes(packed + packer.flush())


def _from_copy(answer: Response | None, copy: Copy) -> Response:
    """The copy. `answer` is MLflow's, often the 304 by which it said that the copy is current; None
    for a file that never changes. Its Cache-Control and Expires are newer than the copy's, and what
    was dropped of this request only it says."""
    whole = Response(copy.body if request.method == "GET" else b"")
    whole.headers = Headers(copy.headers)
    for name in ("Cache-Control", "Expires", DROPPED):
        if answer is not None and (value := answer.headers.get(name)):
            whole.headers[name] = value
    whole.headers["Content-Length"] = str(len(copy.body))
    if answer is not None:
        whole.call_on_close(answer.close)
    record: Record = g.record
    record.bytes_out = len(copy.body) if request.method == "GET" else 0
    return whole


def _not_modified(copy: Copy) -> Response:
    """What MLflow would say to a client that has the kept version."""
    answer = Response(status=304)
    answer.headers.clear()
    answer.headers["ETag"] = copy.etag
    _weaken(answer.headers)
    return _varying(answer)


def _describe(headers: Headers) -> None:
    """Header fields for compressed bytes in place of MLflow's: the same ETag, but weak, because the
    bytes are others; no ranges of them."""
    headers["Content-Encoding"] = "gzip"
    headers.pop("Content-Length", None)
    headers.pop("Accept-Ranges", None)
    _weaken(headers)
    _vary(headers)


def _has_it_already(copy: Copy) -> bool:
    """Whether the client's own condition is to decide: it names this version, or a date."""
    if "HTTP_IF_NONE_MATCH" not in request.environ:
        return "HTTP_IF_MODIFIED_SINCE" in request.environ
    return request.if_none_match.contains_weak(copy.etag.removeprefix("W/").strip('"'))


def _weaken(headers: Headers) -> None:
    etag = headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        headers["ETag"] = f"W/{etag}"


def _varying(answer: Response) -> Response:
    """MLflow's answer as it is, with Vary: a cache must not give it to a client without gzip."""
    if answer.status_code in (200, 206, 304):
        _vary(answer.headers)
    return answer


def _vary(headers: Headers) -> None:
    fields = [value for value in headers.getlist("Vary") if value]
    if not any("accept-encoding" in value.lower() for value in fields):
        headers["Vary"] = ", ".join([*fields, "Accept-Encoding"])
