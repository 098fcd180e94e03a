"""docs/what-is-changed.md, row by row: each has a check here, by the name in its first column."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.upstream.headers import REMOVED_EVERYWHERE
from devstack.proxy import Proxy
from tests.upstreams import Answer, Received, Upstream, chunk, close, eventually, head, send, sized
from tests.wire import Response, Wire, bearer, call, request

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "what-is-changed.md"

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
    assert seen.one("X-Hokusai-User-Id")
    assert seen.one("X-Hokusai-Key-Id")
    assert call(stage.front.url, "GET", SEARCH).status == 401


def identity(stage: Stage) -> None:
    answer, seen = stage.ask("Remote-User: root", "X-MLflow-User: root")
    assert answer.one(DROPPED) == "Remote-User, X-Mlflow-User"
    assert b"root" not in seen.head


def underscores(stage: Stage) -> None:
    answer, seen = stage.ask("X_User: root", "my_own: 1")
    assert answer.one(DROPPED) == "X_User, My_Own"
    assert b"root" not in seen.head
    assert b"wn: 1" not in seen.head.lower()


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


def empty_segment(stage: Stage) -> None:
    _, seen = stage.ask(target=SEARCH.replace("/api/mlflow/", "/api/mlflow//"))
    assert seen.target == SEARCH.removeprefix("/api/mlflow").encode()


def not_http(stage: Stage) -> None:
    fields = (bearer(stage.key), "Content-Type: a/b", "Content-Type: c/d")
    assert call(stage.front.url, "POST", CREATE, *fields, body=b"{}").status == 400
    assert stage.upstream.requests == []
    eventually(lambda: "refused: " in str(stage.front.log_lines()[-3:]), "the line in the log")


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

CHECKS: tuple[Check, ...] = (
    hop_by_hop,
    credentials,
    identity,
    underscores,
    addresses,
    request_id,
    trace,
    repeated_fields,
    trailers,
    chunked_body,
    expectation,
    absolute_target,
    empty_segment,
    not_http,
    ambiguous_path,
    key_in_the_url,
    own_fields,
    cookies,
    locations,
    broken_body,
)

#: Rows whose test needs another stage, and where it is.
ELSEWHERE = {
    "artifact name": "pipeline/test_wire_artifact_names.py::test_what_the_proxy_alone_refuses",
    "unknown path": "pipeline/test_wire_route_table.py"
    "::test_what_mlflow_cannot_have_is_404_with_what_is_near",
    "workspace": "pipeline/test_wire_workspaces.py::test_exactly_one_header_arrives",
    "own workspaces": "pipeline/test_wire_workspaces.py::test_the_list_has_the_keys_own",
    "artifact root": "pipeline/test_wire_workspaces.py"
    "::test_nobody_deletes_the_root_and_only_an_admin_lists_it",
    "storage location": "pipeline/test_wire_locations.py::test_a_root_elsewhere_is_not_followed",
    "another's id": "tenants/test_fence.py::test_no_metric_is_logged_to_anothers_model",
    "repeats": "pipeline/test_wire_retries.py::test_a_read_is_tried_three_times_at_most",
    "limit fields": "pipeline/test_sdk_limits.py::test_each_answer_says_what_is_left",
    "forgotten keys": "faults/test_redis_rights.py"
    "::test_a_redis_that_forgets_ends_sessions_and_begins_the_counts",
    "client address": "app/request/test_inbound.py"
    "::test_the_client_is_who_the_outermost_trusted_proxy_saw",
    "unusable address": "pipeline/test_wire_callers.py"
    "::test_a_caller_without_a_usable_address_is_counted_and_logged_once",
    "session cookies": "app/request/test_credentials.py::test_the_session_cookies_of_a_request",
    "long head": "pipeline/test_wire_heads.py::test_the_head_is_measured_as_a_whole",
    "slow client": "pipeline/test_wire_heads.py::test_a_head_that_comes_byte_by_byte_is_ended",
    "full worker": "pipeline/test_wire_heads.py"
    "::test_max_connections_of_stalled_clients_do_not_silence_health",
    "body budget": "pipeline/test_wire_heads.py"
    "::test_chunked_bodies_have_a_budget_and_come_back_when_there_is_room",
    "interim answers": "app/upstream/test_response_head.py::test_interim_answers_are_skipped",
    "odd framing": "app/upstream/test_response_head.py::test_an_unusual_answer_passes",
    "unreadable answer": "app/upstream/test_response_head.py::test_a_head_without_an_end_is_ended",
    "early refusal": "app/upstream/test_response_head.py"
    "::test_a_refusal_before_the_end_of_an_upload_is_passed_on",
    "full pool": "app/upstream/test_forwarding_refusals.py"
    "::test_a_full_pool_of_mlflows_may_be_repeated",
    "full pool, read again": "app/upstream/test_forwarding_retries.py"
    "::test_a_read_that_found_a_full_pool_is_sent_again",
    "refused proxy": "faults/test_refusing_mlflow.py"
    "::test_nobodys_key_is_blamed_for_the_proxys_credentials",
    "writing POST": "pipeline/test_wire_errors.py"
    "::test_the_circuit_opens_lets_one_probe_go_and_closes",
    "traces": "pipeline/test_wire_otlp.py"
    "::test_an_open_circuit_is_503_with_a_short_wait_in_protobuf",
    "static files": "pipeline/test_wire_compression.py"
    "::test_a_static_file_needs_no_key_and_says_nothing_of_who_asks",
    "caching": "pipeline/test_wire_sessions.py"
    "::test_what_a_key_or_a_session_reads_is_not_kept_for_others",
    "Redis unavailable": "faults/test_redis_outage.py"
    "::test_known_keys_go_on_and_the_shared_count_comes_back",
    "refused right": "faults/test_redis_rights.py"
    "::test_one_right_less_is_named_and_nothing_alternates",
    "unheard revocation": "faults/test_redis_rights.py"
    "::test_who_may_not_subscribe_hears_nothing_and_everybody_is_told",
    "stale result": "faults/test_auth_outage.py"
    "::test_a_known_key_goes_on_for_its_stale_time_and_no_longer",
    "last address": "faults/test_frozen_names.py::test_everything_goes_on_by_its_last_address",
    "full folder": "faults/test_instance_folder.py::test_no_request_fails_and_the_instance_lives",
    "audit file": "pipeline/test_wire_audit.py"
    "::test_a_line_that_cannot_be_written_goes_to_stderr_and_the_write_goes_on",
    "long log values": "app/observability/test_record.py::test_a_long_path_is_cut",
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_the_page_says_is_so(check: Check, stage: Stage) -> None:
    check(stage)


def test_each_row_has_a_check_and_each_check_a_row() -> None:
    page = PAGE.read_text("utf-8")
    rows = [row for row in re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE) if row != "row"]
    names = {check.__name__ for check in CHECKS}
    here = [row for row in rows if re.sub(r"[ -]", "_", row).lower() in names]
    assert len(here) == len(CHECKS)
    assert sorted(set(rows) - set(here)) == sorted(ELSEWHERE)
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize("row", ELSEWHERE)
def test_the_test_of_a_row_is_there(row: str) -> None:
    file, _, name = ELSEWHERE[row].partition("::")
    assert f"def {name}(" in (TESTS / file).read_text("utf-8")


def test_each_field_that_is_removed_in_silence_is_on_the_page() -> None:
    names = re.findall(r"`([A-Za-z0-9*-]+)`", PAGE.read_text("utf-8"))
    listed = {name if name[0] != "-" else f"X-Forwarded{name}" for name in names}
    folded = {name.lower() for name in listed}
    families = tuple(name.rstrip("*") for name in folded if name.endswith("*"))
    silent = REMOVED_EVERYWHERE - {"expect"}  # which has a row of its own
    assert {name for name in silent if not name.startswith(families)} <= folded
