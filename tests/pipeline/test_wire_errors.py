"""What goes wrong is said in MLflow's words, with an id that is found in the log."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.upstreams import (
    OK,
    Answer,
    Step,
    Upstream,
    chunk,
    close,
    eventually,
    head,
    refused_port,
    reset,
    send,
    silence,
    sized,
    until,
)
from tests.wire import Response, Wire, bearer, call, request

HEALTH = b"/health"
SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
CREATE = "/api/mlflow/api/2.0/mlflow/runs/create"

UNREACHABLE = (502, "TEMPORARILY_UNAVAILABLE")
TOO_SLOW = (504, "DEADLINE_EXCEEDED")


def logged(front: Proxy, answer: Response) -> dict[str, Any]:
    """The access line with the id that the client was told."""
    own = answer.json["request_id"]

    def found() -> list[dict[str, Any]]:
        lines = [line for line in front.log_lines() if line.get("request_id") == own]
        return [line for line in lines if line["logger"] == "hokusai.access"]

    eventually(found, "the line in the log")
    (line,) = found()
    return line


def nothing_internal(front: Proxy, upstream: Upstream, answer: Response) -> bool:
    """Whether an answer keeps to itself where MLflow is."""
    return str(upstream.port).encode() not in answer.body and b"Traceback" not in answer.body


# --- MLflow gives no answer ----------------------------------------------------------------------


def test_an_mlflow_that_refuses_connections_is_502(
    start_front: Callable[..., Proxy], key: str
) -> None:
    with refused_port() as port:
        front = start_front(MLFLOW_SERVER_URL=f"http://127.0.0.1:{port}")
        answers = [call(front.url, method, SEARCH, bearer(key)) for method in ("GET", "POST")]
    for answer in answers:
        assert answer.error == UNREACHABLE
        assert "Nothing was sent" in answer.json["message"]
        assert str(port) not in answer.json["message"]
        line = logged(front, answer)
        assert (line["status"], line["outcome"]) == (502, "upstream_unreachable")


def test_a_create_of_which_nothing_was_sent_is_502_too(
    start_front: Callable[..., Proxy], key: str
) -> None:
    """Only what the proxy did not try is 429. A Retry-After would replace the waits of MLflow's
    client, which last for minutes."""
    with refused_port() as port:
        front = start_front(MLFLOW_SERVER_URL=f"http://127.0.0.1:{port}")
        answer = call(front.url, "POST", CREATE, bearer(key))
    assert answer.error == (502, "TEMPORARILY_UNAVAILABLE")
    assert answer.one("Retry-After") is None
    assert logged(front, answer)["outcome"] == "upstream_unreachable"


def test_an_mlflow_whose_name_is_unknown_is_502(
    start_front: Callable[..., Proxy], key: str
) -> None:
    front = start_front(MLFLOW_SERVER_URL="http://mlflow.invalid:5000")
    answer = call(front.url, "GET", SEARCH, bearer(key))
    assert answer.error == UNREACHABLE
    assert "invalid" not in answer.json["message"]


@pytest.mark.parametrize("end", [close(), reset()], ids=["closed", "reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_an_mlflow_that_breaks_off_before_its_answer_is_502(
    front: Proxy, upstream: Upstream, key: str, method: str, end: Step
) -> None:
    upstream.answers(Answer(end))
    answer = call(front.url, method, SEARCH, bearer(key))
    assert answer.status == 502
    assert method == "HEAD" or answer.error == UNREACHABLE
    assert nothing_internal(front, upstream, answer)


GARBAGE = {
    "no HTTP": b"220 smtp.test ESMTP\r\n\r\n",
    "binary": bytes(range(256)),
    "TLS": b"\x15\x03\x03\x00\x02\x02\x28",
    "another version": b"HTTP/9.9 200 OK\r\n\r\n",
    "no number": b"HTTP/1.1 OK\r\n\r\n",
    "a small number": b"HTTP/1.1 099 No\r\n\r\n",
    "an interim answer as the last": head(103, ("Link", "</a>")),
    "a switch of protocols": head(101, ("Upgrade", "h2c")),
    "an endless line": b"HTTP/1.1 200 " + b"x" * 100_000,
    "an endless field": head(200, ("X-A", "x" * 100_000)),
    "too many fields": head(200, *((f"X-{number}", "1") for number in range(200))),
    "a control character": sized(b"", 200, ("X-A", "a\x01b")),
    "a control character in the reason": b"HTTP/1.1 200 a\x01b\r\nContent-Length: 0\r\n\r\n",
    "a name that is none": sized(b"", 200, ("X(A)", "b")),
    "a length that is none": head(200, ("Content-Length", "two")) + b"{}",
    "a negative length": head(200, ("Content-Length", "-2")) + b"{}",
    "two lengths": head(200, ("Content-Length", "2"), ("Content-Length", "3")) + b"{}",
    "a length and chunks": (
        head(200, ("Content-Length", "2"), ("Transfer-Encoding", "chunked"))
        + chunk(b"hello")
        + b"0\r\n\r\n"
    ),
    "another coding": head(200, ("Transfer-Encoding", "gzip, chunked")) + b"0\r\n\r\n",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_an_answer_that_is_no_http_is_502(
    front: Proxy, upstream: Upstream, key: str, name: str
) -> None:
    upstream.answers(Answer(send(GARBAGE[name]), close()))
    answer = call(front.url, "GET", SEARCH, bearer(key))
    assert answer.error == UNREACHABLE
    assert logged(front, answer)["outcome"] == "upstream_reset"


def test_an_answer_that_is_no_http_takes_no_place_for_good(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    front = start_front(MAX_IN_FLIGHT_PER_KEY=1)
    for garbage in GARBAGE.values():
        upstream.answers(Answer(send(garbage), close()))
        assert call(front.url, "GET", SEARCH, bearer(key)).status == 502
    upstream.answers(OK)
    assert call(front.url, "GET", SEARCH, bearer(key)).status == 200
    assert "hokusai_proxy_in_flight 1.0" in call(front.url, "GET", "/metrics").body.decode()


@pytest.fixture(scope="module")
def hasty(start_front: Callable[..., Proxy]) -> Proxy:
    """A proxy that waits 0.3 s for MLflow."""
    return start_front(
        MLFLOW_READ_TIMEOUT=0.3,
        MLFLOW_ARTIFACT_READ_TIMEOUT=0.3,
        CIRCUIT_FAIL_MAX=1000,
    )


def test_an_mlflow_that_is_too_slow_is_504(hasty: Proxy, upstream: Upstream, key: str) -> None:
    begun = head(200, ("Content-Length", "2"))[:-10]
    for number, steps in enumerate([(silence(),), (send(begun), silence())], start=1):
        answer_it = Answer(*steps)
        upstream.answers_by(lambda asked, it=answer_it: OK if asked.target == HEALTH else it)  # type: ignore[misc]
        for method in ("GET", "POST"):
            answer = call(hasty.url, method, SEARCH, bearer(key))
            assert answer.error == TOO_SLOW
            assert "0.3 s" in answer.json["message"]
            assert logged(hasty, answer)["outcome"] == "upstream_timeout"
        searches = [asked for asked in upstream.requests if asked.target != HEALTH]
        assert len(searches) == 2 * number, "a slow request was repeated"
    upstream.wait_for(lambda: upstream.open_connections == 0, "the end of all connections")


def test_an_artifact_is_waited_for_longer(hasty: Proxy, upstream: Upstream, key: str) -> None:
    go_on = threading.Event()
    upstream.answers_by(
        lambda asked: Answer(silence() if b"search" in asked.target else until(go_on), *OK.steps)
    )
    with Wire(hasty.url) as wire:
        target = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/a"
        wire.send(request("GET", target, bearer(key)))
        assert call(hasty.url, "GET", SEARCH, bearer(key)).error == TOO_SLOW
        go_on.set()
        assert wire.read().status == 200


# --- the circuit ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_circuit_opens_lets_one_probe_go_and_closes(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    front = start_front(
        MLFLOW_READ_TIMEOUT=1,
        MLFLOW_ARTIFACT_READ_TIMEOUT=1,
        HEALTH_TIMEOUT=2,
        CIRCUIT_RESET_TIMEOUT=0.6,
    )

    def ask(method: str, target: str) -> Response:
        return call(front.url, method, target, bearer(key))

    upstream.answers(Answer(silence()))
    assert ask("GET", SEARCH).error == TOO_SLOW
    eventually(lambda: "circuit to mlflow is now open" in front.log.read_text(), "the opening")

    for method, target, status in (
        ("GET", SEARCH, 503),
        ("POST", SEARCH, 503),
        ("POST", CREATE, 429),
        ("POST", "/api/mlflow/api/2.0/mlflow/runs/outputs", 429),
        ("POST", "/api/mlflow/api/2.0/mlflow/runs/set-tag", 503),
    ):
        refused = ask(method, target)
        assert refused.error == (status, "TEMPORARILY_UNAVAILABLE")
        assert refused.one("Retry-After") == "1"
        assert logged(front, refused)["outcome"] == "circuit_open"
    searches = [asked for asked in upstream.requests if asked.target != HEALTH]
    assert len(searches) == 1, "an open circuit asks nobody"

    probing, go_on = threading.Event(), threading.Event()

    def probe(exchange: Any) -> None:
        probing.set()
        assert go_on.wait(10)

    upstream.answers(Answer(probe, send(sized(b"{}"))))
    answers: list[Response] = []

    def until_let_through() -> bool:
        answers.append(ask("GET", SEARCH))
        return answers[-1].status == 200

    waiting = threading.Thread(target=lambda: eventually(until_let_through, "the probe"))
    waiting.start()
    assert probing.wait(10)
    assert [ask("GET", SEARCH).status for _ in range(5)] == [503] * 5, "one probe at a time"
    go_on.set()
    waiting.join()
    last, but_one = upstream.requests[-1].target, upstream.requests[-2].target
    assert b"search" in last, "no request probes"
    assert but_one == HEALTH

    upstream.answers(OK)
    assert [ask("GET", SEARCH).status for _ in range(3)] == [200] * 3


def test_what_is_often_the_callers_doing_does_not_open_the_circuit(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    front = start_front(CIRCUIT_FAIL_MAX=1)
    for fault in (
        Answer(send(sized(b"{}", 500))),
        Answer(send(sized(b"{}", 503))),
        Answer(reset()),
        Answer(send(b"garbage"), close()),
    ):
        upstream.answers(fault)
        for _ in range(3):
            assert call(front.url, "POST", SEARCH, bearer(key)).status in (500, 502, 503)
        upstream.answers(OK)
        assert call(front.url, "GET", SEARCH, bearer(key)).status == 200


# --- what the client sends is no HTTP ------------------------------------------------------------

MALFORMED = {
    "nothing like HTTP": (b"\x16\x03\x01\x02\x00\x01\x00", None),
    "no version": (b"GET /health\r\n\r\n", 400),
    "another version": (b"GET /health HTTP/3.0\r\n\r\n", 400),
    "no method": (b"/health HTTP/1.1\r\n\r\n", 400),
    "a method in small letters": (b"get /health HTTP/1.1\r\n\r\n", 400),
    "a method that is none": (b"G(T /health HTTP/1.1\r\n\r\n", 400),
    "a target that is none": (b"GET health HTTP/1.1\r\n\r\n", 400),
    "bare line feeds": (b"GET /health HTTP/1.1\nHost: a\n\n", 400),
    "a field without a colon": (b"GET /health HTTP/1.1\r\nnonsense\r\n\r\n", 400),
    "a field without a name": (b"GET /health HTTP/1.1\r\n: a\r\n\r\n", 400),
    "a name with a blank": (b"GET /health HTTP/1.1\r\nX A: b\r\n\r\n", 400),
    "a folded field": (b"GET /health HTTP/1.1\r\nX-A: a\r\n b\r\n\r\n", 400),
    "a control character": (b"GET /health HTTP/1.1\r\nX-A: a\x01b\r\n\r\n", 400),
    "a field that is too long": (
        b"GET /health HTTP/1.1\r\nX-A: " + b"a" * 66_000 + b"\r\n\r\n",
        431,
    ),
    "too many fields": (b"GET /health HTTP/1.1\r\n" + b"X-A: a\r\n" * 501 + b"\r\n", 431),
    "an expectation": (b"GET /health HTTP/1.1\r\nExpect: wonders\r\n\r\n", 417),
    "a transfer coding": (b"PUT /health HTTP/1.1\r\nTransfer-Encoding: lzma\r\n\r\n", 501),
}


@pytest.mark.parametrize("name", [name for name, (_, status) in MALFORMED.items() if status])
def test_malformed_http_is_refused_in_json(front: Proxy, name: str) -> None:
    data, status = MALFORMED[name]
    with Wire(front.url) as wire:
        answer = wire.ask(data, method="GET")
        assert answer.error == (status, "BAD_REQUEST")
        assert answer.one("Connection") == "close"
        assert wire.end() == "fin"
    own = answer.json["request_id"]
    eventually(
        lambda: [line for line in front.log_lines() if line.get("request_id") == own],
        "the line in the log",
    )


@pytest.mark.parametrize("data", [b"", b"\r\n", b"GET", b"GET /health HTTP/1.1\r\nHost:"])
def test_a_client_that_leaves_in_its_head_is_nobodys_error(front: Proxy, data: bytes) -> None:
    before = len([line for line in front.log_lines() if line["level"] == "ERROR"])
    with Wire(front.url) as wire:
        wire.send(data).socket.shutdown(1)
        wire.end()
    assert call(front.url, "GET", "/health").status == 200
    assert len([line for line in front.log_lines() if line["level"] == "ERROR"]) == before


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND"])
def test_a_method_that_mlflow_has_not_is_405(
    front: Proxy, upstream: Upstream, key: str, method: str
) -> None:
    answer = call(front.url, method, SEARCH, bearer(key))
    assert answer.error == (405, "BAD_REQUEST")
    assert upstream.requests == []
