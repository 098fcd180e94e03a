"""One audit line for each write, from a real gunicorn: who, what, with which result, and where."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.upstreams import (
    Answer,
    Upstream,
    close,
    eventually,
    refused_port,
    send,
    silence,
    sized,
)
from tests.wire import Wire, bearer, call, request

CREATE = "/api/mlflow/api/2.0/mlflow/runs/create"
SEARCH = "/api/mlflow/api/2.0/mlflow/runs/search"
DELETE = "/api/mlflow/api/2.0/mlflow/registered-models/delete"
BODY = b'{"experiment_id": "7", "tags": [{"key": "canary", "value": "canary"}]}'
LAST = "X-Request-ID: the-last-write"

Start = Callable[..., Proxy]


def lines_in(text: str) -> list[dict[str, Any]]:
    """The audit lines in a log."""
    whole = text[: text.rfind("\n") + 1].splitlines()
    lines = [json.loads(line) for line in whole if line.startswith("{")]
    return [line for line in lines if line["logger"] == "hokusai.audit"]


def told(front: Proxy, request_id: str | None) -> list[dict[str, Any]]:
    """The audit lines about a request."""
    lines = lines_in(front.log.read_text())
    return [line for line in lines if line["request_id"] == request_id]


def the_line(front: Proxy, request_id: str | None) -> dict[str, Any]:
    eventually(lambda: told(front, request_id), "the line in the log")
    (line,) = told(front, request_id)
    return line


def test_a_write_says_who_did_what_with_which_result(
    front: Proxy, upstream: Upstream, auth_service: Any
) -> None:
    made = auth_service.create_key(user="ann")
    answer = call(front.url, "POST", CREATE, bearer(made.key), body=BODY)
    line = the_line(front, answer.one("X-Request-ID"))
    assert line.pop("time")
    assert line == {
        "level": "INFO",
        "logger": "hokusai.audit",
        "message": "write",
        "request_id": answer.one("X-Request-ID"),
        "user_id": "ann",
        "key_id": made.key_id,
        "client_ip": "127.0.0.1",
        "operation": "CreateRun",
        "kind": "runs",
        "method": "POST",
        "upstream_path": "/api/2.0/mlflow/runs/create",
        "resource": {"experiment_id": "7"},
        "result": "accepted",
        "status": 200,
    }
    assert upstream.requests[0].body == BODY


def test_what_mlflow_refused_is_told_with_its_status(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    upstream.answers(Answer(send(sized(b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}', 404))))
    answer = call(front.url, "DELETE", DELETE, bearer(key), body=b'{"name": "m"}')
    line = the_line(front, answer.one("X-Request-ID"))
    assert (line["result"], line["status"]) == ("refused", 404)
    assert (line["operation"], line["resource"]) == ("DeleteRegisteredModel", {"name": "m"})


def test_what_the_proxy_refused_for_want_of_a_scope_is_told(
    front: Proxy, upstream: Upstream, auth_service: Any
) -> None:
    reader = auth_service.create_key(scopes=["read"])
    answer = call(front.url, "POST", CREATE, bearer(reader.key), body=BODY)
    line = the_line(front, answer.one("X-Request-ID"))
    assert (line["result"], line["status"]) == ("refused by proxy", 403)
    assert (line["key_id"], line["operation"]) == (reader.key_id, "CreateRun")
    assert upstream.requests == []


@pytest.mark.parametrize("ending", [close(), silence()])
def test_a_write_that_got_no_answer_may_have_happened(
    start_front: Start, upstream: Upstream, key: str, ending: Any
) -> None:
    front = start_front(MLFLOW_READ_TIMEOUT=0.2, MLFLOW_ARTIFACT_READ_TIMEOUT=0.2)
    upstream.answers(Answer(ending))
    answer = call(front.url, "POST", CREATE, bearer(key), body=BODY)
    assert answer.status in (502, 504)
    line = the_line(front, answer.one("X-Request-ID"))
    assert (line["result"], line["resource"]) == ("unknown", {"experiment_id": "7"})


def test_an_upload_that_was_cut_off_may_have_left_something(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    target = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/m.bin"
    fields = (bearer(key), "Content-Length: 1000000", "X-Request-ID: cut-off-write")
    with Wire(front.url) as wire:
        wire.send(request("PUT", target, *fields, body=b"x" * 300_000))
        upstream.wait_for(lambda: bool(upstream.requests), "the upload's begin")
    line = the_line(front, "cut-off-write")
    assert (line["result"], line["operation"]) == ("unknown", "UploadArtifact")
    assert line["resource"] == {"artifact_path": "1/r/artifacts/m.bin"}


def nothing_told(front: Proxy, key: str, asked: bytes) -> bool:
    """Whether a request leaves no audit line. A write after it shows that its turn has passed."""
    with Wire(front.url) as wire:
        own = wire.ask(asked).one("X-Request-ID")
        wire.ask(request("POST", CREATE, bearer(key), LAST, body=BODY))
    eventually(lambda: told(front, "the-last-write"), "the line of the last write")
    return told(front, own) == []


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/api/mlflow/api/2.0/mlflow/runs/get?run_id=1", b""),
        ("POST", SEARCH, b'{"experiment_ids": ["7"]}'),
        ("POST", "/mlflow/graphql", b"{}"),
        ("POST", "/health", b"{}"),
    ],
)
def test_a_read_has_no_line(
    front: Proxy, upstream: Upstream, key: str, method: str, target: str, body: bytes
) -> None:
    assert nothing_told(front, key, request(method, target, bearer(key), body=body))


def test_a_write_of_nobody_has_no_line(front: Proxy, upstream: Upstream, key: str) -> None:
    assert nothing_told(front, key, request("POST", CREATE, body=BODY))


def test_a_write_that_was_never_sent_has_no_line(
    start_front: Start, auth_service: Any, key: str
) -> None:
    with refused_port() as port:
        front = start_front(MLFLOW_SERVER_URL=f"http://127.0.0.1:{port}")
        reader = auth_service.create_key(scopes=["read"]).key
        with Wire(front.url) as wire:
            own = wire.ask(request("POST", CREATE, bearer(key), body=BODY)).one("X-Request-ID")
            wire.ask(request("POST", CREATE, bearer(reader), LAST, body=BODY))
        the_line(front, "the-last-write")
    assert told(front, own) == []


def test_a_body_that_streams_is_not_read_for_a_name(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    body = BODY[:-1] + b', "x": "' + b"x" * 70_000 + b'"}'
    answer = call(front.url, "POST", CREATE, bearer(key), body=body)
    line = the_line(front, answer.one("X-Request-ID"))
    assert "resource" not in line
    assert (line["operation"], line["result"]) == ("CreateRun", "accepted")
    assert upstream.requests[0].length == len(body)


def test_a_chunked_body_that_is_put_aside_anyway_is_looked_at(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    answer = call(front.url, "POST", CREATE, bearer(key), "Transfer-Encoding: chunked", body=chunks)
    assert the_line(front, answer.one("X-Request-ID"))["resource"] == {"experiment_id": "7"}


def test_a_list_that_is_nested_too_deep_hides_no_write(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    """MLflow ignores fields that a call does not have, however deep."""
    body = b'{"name": "m", "run_ids": %b}' % (b"[" * 900 + b"]" * 900)
    with Wire(front.url) as wire:
        answer = wire.ask(request("POST", DELETE, bearer(key), body=body))
        assert the_line(front, answer.one("X-Request-ID"))["resource"] == {"name": "m"}
        assert wire.ask(request("GET", "/health")).status == 200


def test_the_line_joins_the_trace(front: Proxy, upstream: Upstream, key: str) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = call(front.url, "POST", CREATE, bearer(key), f"traceparent: {trace}", body=BODY)
    line = the_line(front, answer.one("X-Request-ID"))
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


# --- where it goes -------------------------------------------------------------------------------


def write(front: Proxy, key: str, request_id: str) -> None:
    answer = call(front.url, "POST", CREATE, bearer(key), f"X-Request-ID: {request_id}", body=BODY)
    assert answer.status == 200


def ids_in(file: Path) -> list[str]:
    return [line["request_id"] for line in lines_in(file.read_text())] if file.exists() else []


def test_it_can_be_switched_off(start_front: Start, upstream: Upstream, key: str) -> None:
    front = start_front(AUDIT_LOG="off")
    write(front, key, "switched-off-1")
    with Wire(front.url) as wire:
        wire.ask(request("GET", "/nothing", "X-Request-ID: switched-off-2"))
    eventually(lambda: "switched-off-2" in front.log.read_text(), "the last line")
    assert "switched-off-1" in front.log.read_text()
    assert lines_in(front.log.read_text()) == []


@pytest.mark.slow
def test_it_can_go_into_a_file_of_its_own_that_is_rotated(
    start_front: Start, upstream: Upstream, key: str, tmp_path: Path
) -> None:
    """Two workers; who has not written since the file was moved has the old one open."""
    file, moved = tmp_path / "audit.log", tmp_path / "audit.log.1"
    front = start_front(AUDIT_LOG=file, WEB_CONCURRENCY=2, LOG_LEVEL="ERROR")
    before = [f"before-rotation-{number}" for number in range(20)]
    after = [f"after-rotation-{number}" for number in range(20)]
    for request_id in before:
        write(front, key, request_id)
    eventually(lambda: len(ids_in(file)) == len(before), "the lines before")
    file.rename(moved)
    for request_id in after:
        write(front, key, request_id)
    eventually(lambda: len(ids_in(file)) == len(after), "the lines after")
    assert sorted(ids_in(moved)) == sorted(before)  # each worker writes when it comes to it
    assert sorted(ids_in(file)) == sorted(after)
    assert lines_in(front.log.read_text()) == []


@pytest.mark.slow
def test_lines_that_come_at_once_stay_whole(
    start_front: Start, upstream: Upstream, key: str, tmp_path: Path
) -> None:
    file = tmp_path / "audit.log"
    front = start_front(AUDIT_LOG=file, WEB_CONCURRENCY=2)
    ids = [[f"at-once-{client}-{number}" for number in range(15)] for client in range(6)]

    def write_all(own: list[str]) -> None:
        for request_id in own:
            write(front, key, request_id)

    threads = [threading.Thread(target=write_all, args=(own,)) for own in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: len(ids_in(file)) >= 90, "all lines")
    assert sorted(ids_in(file)) == sorted(request_id for own in ids for request_id in own)


@pytest.mark.parametrize("trouble", ["a full disk", "a folder that is gone"])
def test_a_line_that_cannot_be_written_goes_to_stderr_and_the_write_goes_on(
    start_front: Start, upstream: Upstream, key: str, tmp_path: Path, trouble: str
) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()
    file = folder / "audit.log" if "gone" in trouble else Path("/dev/full")
    if "full" in trouble and not file.exists():
        pytest.skip("this machine has no /dev/full")
    front = start_front(AUDIT_LOG=file)
    if "gone" in trouble:
        file.unlink()
        folder.rmdir()
    write(front, key, "not-in-the-file")
    assert the_line(front, "not-in-the-file")["result"] == "accepted"
    (reason,) = [line for line in front.log_lines() if line["logger"] == "hokusai.logs"]
    assert reason["level"] == "ERROR"
    assert "cannot write the audit file" in reason["message"]
