"""docs/what-is-changed.md, row by row: each has a check here, by the name in its first column."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from devstack.proxy import Proxy
from tests.upstreams import Answer, Received, Upstream, chunk, close, head, send, sized
from tests.wire import Response, Wire, bearer, call, request

PAGE = Path(__file__).resolve().parents[2] / "docs" / "what-is-changed.md"

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
CREATE = "/api/mlflow/api/2.0/mlflow/runs/create"
DROPPED = "X-Hokusai-Dropped-Headers"


@dataclass
class Stage:
    """The proxy `front` with a fake MLflow behind it, and a key."""

    front: Proxy
    upstream: Upstream
    key: str

    def ask(
        self, *fields: str, method: str = "GET", target: str = SEARCH, body: bytes = b""
    ) -> tuple[Response, Received]:
        """The answer to a request with these fields, and what MLflow received."""
        answer = call(self.front.url, method, target, bearer(self.key), *fields, body=body)
        return answer, self.upstream.requests[-1]

    def refused(self, target: str) -> tuple[int, str]:
        """Status and code of the answer to a request that MLflow did not receive."""
        error = call(self.front.url, "GET", target, bearer(self.key)).error
        assert self.upstream.requests == []
        return error


@pytest.fixture
def stage(front: Proxy, upstream: Upstream, key: str) -> Stage:
    """A stage with nothing recorded."""
    return Stage(front, upstream, key)


# --- in a request --------------------------------------------------------------------------------


def hop_by_hop(stage: Stage) -> None:
    fields = ("Connection: X-Private", "X-Private: 1", "Keep-Alive: 5", "Upgrade: websocket")
    answer, seen = stage.ask(*fields, "TE: trailers", "Proxy-Connection: close")
    assert answer.status == 200
    for name in ("X-Private", "Keep-Alive", "Upgrade", "TE", "Proxy-Connection"):
        assert seen.all(name) == []


def credentials(stage: Stage) -> None:
    answer, seen = stage.ask(f"X-API-Key: {stage.key}", "Cookie: a=b")
    assert answer.status == 200
    assert seen.all("Authorization") == seen.all("X-API-Key") == seen.all("Cookie") == []
    assert seen.one("X-Hokusai-User-Id") and seen.one("X-Hokusai-Key-Id")
    assert call(stage.front.url, "GET", SEARCH).status == 401


def identity(stage: Stage) -> None:
    answer, seen = stage.ask("Remote-User: root", "X-MLflow-User: root")
    assert answer.one(DROPPED) == "Remote-User, X-Mlflow-User"
    assert b"root" not in seen.head


def addresses(stage: Stage) -> None:
    fields = ("Host: mlflow.example", "X-Forwarded-For: 203.0.113.9", "Forwarded: for=evil")
    answer, seen = stage.ask(*fields, "Via: 1.1 front", "X-Real-IP: 203.0.113.9")
    assert answer.one(DROPPED) is None
    assert seen.one("Host") == f"127.0.0.1:{stage.upstream.port}"
    assert seen.one("X-Forwarded-Host") == "mlflow.example"
    assert seen.one("X-Forwarded-For") == "127.0.0.1"
    assert seen.all("Forwarded") == seen.all("Via") == seen.all("X-Real-IP") == []


def request_id(stage: Stage) -> None:
    answer, seen = stage.ask("X-Request-ID: short")
    assert answer.one("X-Request-ID") == seen.one("X-Request-ID") != "short"


def trace(stage: Stage) -> None:
    answer, seen = stage.ask("traceparent: nonsense")
    assert (answer.one(DROPPED), seen.all("traceparent")) == ("Traceparent", [])


def repeated_fields(stage: Stage) -> None:
    _, seen = stage.ask("Accept: text/html", "Accept: text/plain")
    assert (seen.one("Accept") or "").replace(" ", "") == "text/html,text/plain"


def trailers(stage: Stage) -> None:
    body = chunk(b"{}") + b"0\r\nX-Checksum: 1\r\n\r\n"
    fields = ("Transfer-Encoding: chunked", "Trailer: X-Checksum")
    answer, seen = stage.ask(*fields, method="POST", target=CREATE, body=body)
    assert (answer.one(DROPPED), seen.trailers, seen.body) == ("Trailer", b"", b"{}")


def chunked_body(stage: Stage) -> None:
    body = chunk(b"{}") + b"0\r\n\r\n"
    framing = "Transfer-Encoding: chunked"
    _, seen = stage.ask(framing, method="POST", target=CREATE, body=body)
    assert (seen.one("Content-Length"), seen.all("Transfer-Encoding")) == ("2", [])
    large = chunk(bytes(100_001)) + b"0\r\n\r\n"  # the limit of `front` is 100,000
    answer, _ = stage.ask(framing, method="POST", target=CREATE, body=large)
    assert answer.status == 413


def expectation(stage: Stage) -> None:
    fields = (bearer(stage.key), "Expect: 100-continue", "Content-Length: 2")
    with Wire(stage.front.url) as wire:
        assert wire.ask(request("POST", CREATE, *fields)).status == 100
        assert wire.send(b"{}").read("POST").status == 200
    assert stage.upstream.requests[-1].all("Expect") == []
    assert call(stage.front.url, "GET", SEARCH, "Expect: a-miracle").status == 417


def absolute_target(stage: Stage) -> None:
    _, seen = stage.ask(target=f"http://elsewhere.example{SEARCH}?")
    assert seen.target == SEARCH.removeprefix("/api/mlflow").encode()


def ambiguous_path(stage: Stage) -> None:
    for target in ("/mlflow/a/../b", "/mlflow/a//b", "/mlflow/a%5Cb", "/mlflow/a%"):
        assert stage.refused(target)[0] == 400


def key_in_the_url(stage: Stage) -> None:
    assert stage.refused(f"{SEARCH}?api_key={stage.key}")[0] == 400
    assert stage.key not in "".join(map(str, stage.front.log_lines()))


# --- in an answer --------------------------------------------------------------------------------


def own_fields(stage: Stage) -> None:
    fields = (("Server", "uvicorn"), ("X-Request-ID", "mlflow"), ("Keep-Alive", "5"))
    stage.upstream.answers(Answer(send(sized(b"{}", 200, *fields))))
    answer, seen = stage.ask()
    assert answer.one("X-Request-ID") == seen.one("X-Request-ID") != "mlflow"
    assert (answer.one("Server"), answer.one("Keep-Alive")) != ("uvicorn", "5")


def cookies(stage: Stage) -> None:
    stage.upstream.answers(Answer(send(sized(b"{}", 200, ("Set-Cookie", "a=b")))))
    answer, _ = stage.ask()
    assert (answer.one(DROPPED), answer.all("Set-Cookie")) == ("Set-Cookie", [])


def locations(stage: Stage) -> None:
    stage.upstream.answers(Answer(send(sized(b"", 302, ("Location", "/next")))))
    assert stage.ask()[0].one("Location") == "/api/mlflow/next"


def broken_body(stage: Stage) -> None:
    cut = Answer(send(head(200, ("Content-Length", "10")) + b"half"), close())
    stage.upstream.answers(cut)
    answer, _ = stage.ask()
    assert (answer.status, answer.whole) == (200, False)


Check = Callable[[Stage], None]

#: The names in the page, with a blank for each underscore and a dash in "hop-by-hop".
CHECKS: tuple[Check, ...] = (
    hop_by_hop,
    credentials,
    identity,
    addresses,
    request_id,
    trace,
    repeated_fields,
    trailers,
    chunked_body,
    expectation,
    absolute_target,
    ambiguous_path,
    key_in_the_url,
    own_fields,
    cookies,
    locations,
    broken_body,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_the_page_says_is_so(check: Check, stage: Stage) -> None:
    check(stage)


def test_each_row_has_a_check_and_each_check_a_row() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    names = [re.sub(r"[ -]", "_", row).lower() for row in rows if row not in ("row",)]
    assert names == [check.__name__ for check in CHECKS]
