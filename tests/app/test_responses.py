"""Whose fault an exception is: below 500 the caller's, else ours, with its cause in the log."""

import logging
from collections.abc import Iterator

import pytest
import werkzeug.exceptions
import werkzeug.routing.exceptions
from flask import Flask
from mlflow.protos.databricks_pb2 import ErrorCode
from werkzeug.exceptions import HTTPException

from app import responses


def family(parent: type[HTTPException]) -> Iterator[type[HTTPException]]:
    for child in parent.__subclasses__():
        yield child
        yield from family(child)


#: All that werkzeug has: a new one is tested as well.
FAMILY = sorted(
    (
        kind
        for kind in set(family(HTTPException))
        if kind.__module__.startswith("werkzeug.") and not kind.__name__.startswith("_")
    ),
    key=lambda kind: kind.__qualname__,
)
REDIRECTS = [kind for kind in FAMILY if 300 <= (kind.code or 0) < 400]
REFUSALS = [kind for kind in FAMILY if 400 <= (kind.code or 0) < 500]
FAILURES = [kind for kind in FAMILY if (kind.code or 0) >= 500]


def raising(error: Exception) -> Flask:
    """An application with our error handler, and a view that raises."""
    app = Flask(__name__)
    responses.install(
        app,
        hops=0,
        target="http://mlflow.test",
        audit=lambda record: None,
        render=responses.error_json,
    )

    @app.route("/", methods=["GET", "POST", "OPTIONS"])
    def view() -> str:
        raise error

    return app


def test_nothing_is_left_out() -> None:
    assert len(REFUSALS) > 20
    assert len(FAILURES) >= 6
    assert {*REDIRECTS, *REFUSALS, *FAILURES} == set(FAMILY), "one without a status"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_keeps_its_status_and_is_no_defect(
    kind: type[HTTPException], method: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = raising(kind()).test_client().open("/", method=method)
    assert answer.status_code == kind.code
    assert answer.content_type == "application/json"
    if method != "HEAD":
        assert answer.json is not None
        assert answer.json["error_code"] in ErrorCode.DESCRIPTOR.values_by_name
        assert answer.json["error_code"] != "INTERNAL_ERROR"
        assert answer.json["request_id"] == answer.headers["X-Request-ID"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("kind", [*FAILURES, ValueError, UnicodeError, OSError, KeyError])
def test_a_failure_is_a_defect_with_its_cause_in_the_log(
    kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    answer = raising(kind()).test_client().get("/")
    assert answer.json is not None
    assert (answer.status_code, answer.json["error_code"]) == (500, "INTERNAL_ERROR")
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.exc_info is not None
    assert line.exc_info[0] is kind
    assert vars(line)["fields"]["request_id"] == answer.json["request_id"]


@pytest.mark.parametrize("kind", REDIRECTS)
def test_a_redirect_of_the_router_is_one(kind: type[HTTPException]) -> None:
    answer = raising(kind("http://localhost/there")).test_client().get("/")
    assert answer.status_code == kind.code
    assert answer.headers["Location"] == "http://localhost/there"


def test_the_fields_of_a_refusal_stay() -> None:
    allowed = werkzeug.exceptions.MethodNotAllowed(["GET", "PUT"])
    assert raising(allowed).test_client().get("/").headers["Allow"] == "GET, PUT"
    later = werkzeug.exceptions.TooManyRequests(retry_after=7)
    assert raising(later).test_client().get("/").headers["Retry-After"] == "7"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Connection": "Upgrade", "Upgrade": "websocket"}, 404),
        ({"Connection": "keep-alive, upgrade", "Upgrade": "WebSocket"}, 404),
        ({"Host": "a" * 64 + ".test"}, 400),
        ({"Host": "a..test"}, 400),
        ({"Host": ".test"}, 400),
    ],
)
def test_what_the_router_cannot_read_is_the_callers(fields: dict[str, str], status: int) -> None:
    answer = raising(ValueError()).test_client().get("/nothing", headers=fields)
    assert answer.status_code == status
