"""One line for each request, as a real gunicorn writes it: its fields, its formats, its levels."""

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.upstreams import (
    OK,
    Answer,
    Upstream,
    close,
    eventually,
    generate,
    head,
    pause,
    send,
    sized,
)
from tests.wire import Wire, bearer, call, request

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
CREATE = "/api/mlflow/api/2.0/mlflow/runs/create"
ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/1/a%20b.bin"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Start = Callable[..., Proxy]


def line_of(front: Proxy, request_id: str | None, logger: str = "hokusai.access") -> dict[str, Any]:
    """The one line about a request."""

    def found() -> list[dict[str, Any]]:
        lines = [line for line in front.log_lines() if line["logger"] == logger]
        return [line for line in lines if line.get("request_id") == request_id]

    eventually(found, "the line in the log")
    (line,) = found()
    return line


def test_a_request_that_mlflow_answered_is_told_in_full(
    front: Proxy, upstream: Upstream, auth_service: Any
) -> None:
    made = auth_service.create_key(user="ann")
    upstream.answers(Answer(send(sized(b"12345", 201))))
    fields = (bearer(made.key), f"traceparent: {TRACE}", "X-Request-ID: my-job-4711")
    with Wire(front.url) as wire:
        wire.ask(request("POST", f"{CREATE}?a=b", *fields, body=b'{"experiment_id": "1"}'))
    line = line_of(front, "my-job-4711")
    assert re.fullmatch(r"[0-9-]{10}T[0-9:]{8}\.[0-9]{3}Z", line.pop("time"))
    times = [line.pop(f"{name}_ms") for name in ("own", "auth", "upstream")]
    assert all(time >= 0 for time in times)
    assert sum(times) <= line.pop("duration_ms") + 0.03
    assert line == {
        "level": "INFO",
        "logger": "hokusai.access",
        "message": "request",
        "request_id": "my-job-4711",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "method": "POST",
        "path": CREATE,
        "upstream_path": "/api/2.0/mlflow/runs/create",
        "target": upstream.url,
        "kind": "runs",
        "operation": "CreateRun",
        "status": 201,
        "outcome": "forwarded",
        "attempts": 1,
        "auth_source": "miss",
        "bytes_in": 22,
        "bytes_out": 5,
        "user_id": "ann",
        "key_id": made.key_id,
        "client_ip": "127.0.0.1",
    }


def test_each_try_is_counted(start_front: Start, upstream: Upstream, key: str) -> None:
    front = start_front(MLFLOW_RETRY_DEADLINE=30)
    upstream.answers(Answer(close()), Answer(close()), OK)
    answer = call(front.url, "GET", SEARCH, bearer(key))
    assert answer.status == 200
    assert line_of(front, answer.one("X-Request-ID"))["attempts"] == 3


def test_a_request_that_was_refused_was_not_tried(front: Proxy, upstream: Upstream) -> None:
    answer = call(front.url, "GET", SEARCH)
    line = line_of(front, answer.one("X-Request-ID"))
    assert (line["outcome"], line["error_code"]) == ("unauthenticated", "UNAUTHENTICATED")
    assert line.keys() & {"attempts", "target", "upstream_ms", "user_id", "key_id"} == set()


@pytest.mark.parametrize("size", [1000, 1_000_000])
@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_the_bytes_of_an_upload_are_counted(
    front: Proxy, upstream: Upstream, key: str, size: int, framing: str
) -> None:
    body, fields = b"x" * size, [bearer(key)]
    if framing == "chunked":
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (size, body)
        fields.append("Transfer-Encoding: chunked")
    answer = call(front.url, "PUT", ARTIFACT, *fields, body=body)
    assert line_of(front, answer.one("X-Request-ID"))["bytes_in"] == size


def test_of_an_upload_that_was_cut_off_the_bytes_that_came_are_counted(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    fields = (bearer(key), "Content-Length: 1000000", "X-Request-ID: cut-off-upload")
    with Wire(front.url) as wire:
        wire.send(request("PUT", ARTIFACT, *fields, body=b"x" * 300_000))
        upstream.wait_for(lambda: bool(upstream.requests), "the upload's begin")
    line = line_of(front, "cut-off-upload")
    assert (line["outcome"], line["attempts"]) == ("client_gone", 1)
    assert line["bytes_in"] == 300_000


def test_a_download_that_takes_its_time_is_not_the_proxys(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    upstream.answers(
        Answer(send(head(200, ("Content-Length", "500000"))), pause(0.3), generate(500_000))
    )
    answer = call(front.url, "GET", ARTIFACT, bearer(key))
    line = line_of(front, answer.one("X-Request-ID"))
    assert line["bytes_out"] == 500_000
    spent = line["own_ms"] + line["auth_ms"] + line["upstream_ms"]
    assert spent <= line["duration_ms"] - 290


def test_every_request_of_many_at_once_has_one_line(
    start_front: Start, upstream: Upstream, key: str
) -> None:
    """Paths as long as they may be: lines of several workers must not mix."""
    front = start_front(WEB_CONCURRENCY=2)
    path = "/api/mlflow/" + '"' * 7000  # each needs two characters in JSON
    ids = [f"at-once-{client}-{number:02}" for client in range(8) for number in range(20)]

    def ask(client: int) -> None:
        with Wire(front.url) as wire:
            for number in range(20):
                own = f"X-Request-ID: at-once-{client}-{number:02}"
                wire.ask(request("GET", path, bearer(key), own))

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def told() -> list[str]:
        lines = [line for line in front.log_lines() if line["logger"] == "hokusai.access"]
        return sorted(line["request_id"] for line in lines)

    eventually(lambda: len(told()) >= len(ids), "a line for each request")
    assert told() == sorted(ids)
    assert max(map(len, front.log.read_text().splitlines())) < 4096


# --- levels and formats --------------------------------------------------------------------------


def test_probes_have_no_line_unless_debugging(start_front: Start, upstream: Upstream) -> None:
    quiet, talkative = start_front(), start_front(MLFLOW_PROXY_DEBUG="true")
    for front in (quiet, talkative):
        call(front.url, "GET", "/health", "X-Request-ID: probe-0001")
        call(front.url, "GET", "/nothing", "X-Request-ID: nothing-0001")
        line_of(front, "nothing-0001")
    assert line_of(talkative, "probe-0001")["kind"] == "own"
    assert [line for line in quiet.log_lines() if line.get("request_id") == "probe-0001"] == []


def test_debugging_tells_each_step_of_a_request(
    start_front: Start, upstream: Upstream, key: str
) -> None:
    quiet, talkative = start_front(), start_front(MLFLOW_PROXY_DEBUG="true")
    for front in (quiet, talkative):
        call(front.url, "GET", SEARCH, bearer(key), "X-Request-ID: steps-0001")
        line_of(front, "steps-0001")
    steps = [line["message"] for line in talkative.log_lines() if line["level"] == "DEBUG"]
    assert [step for step in steps if step.startswith("steps-0001 ")] == [
        "steps-0001 received: SearchExperiments",
        f"steps-0001 authenticated: {line_of(talkative, 'steps-0001')['key_id']}",
        "steps-0001 permitted, within its limit",
        "steps-0001 answered by MLflow: 200",
    ]
    assert [line for line in quiet.log_lines() if line["level"] == "DEBUG"] == []


def test_the_text_format_is_one_line_for_each_request_too(
    start_front: Start, upstream: Upstream, key: str
) -> None:
    front = start_front(LOG_FORMAT="text")
    call(front.url, "GET", SEARCH, bearer(key), "X-Request-ID: in-text-0001")
    eventually(lambda: "in-text-0001" in front.log.read_text(), "the line")
    (line,) = [text for text in front.log.read_text().splitlines() if "in-text-0001" in text]
    assert re.match(r"[0-9-]{10} [0-9:,]{12} INFO    hokusai\.access request request_id=", line)
    assert " status=200 " in line
    assert " operation=SearchExperiments " in line
