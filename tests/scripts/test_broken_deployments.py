"""Each way in which a deployment can be broken is told apart, with what to do about it."""

import itertools
import json
import time
from typing import Any

import pytest

CONNECTION = "test_mlflow_connection.py"
HEALTH = "test_health_endpoints.py"
REGISTRATION = "test_model_registration_complete.py"
JSON = {"Content-Type": "application/json"}
CHECKS = ("connectivity", "experiments_api", "models_api", "artifacts_api")


def as_json(
    status: int, document: dict[str, Any], **headers: str
) -> tuple[int, dict[str, str], bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, JSON | named, json.dumps(document).encode()


def error(status: int, code: str, message: str, **headers: str) -> Any:
    return lambda asked: as_json(status, {"error_code": code, "message": message}, **headers)


def page(status: int, title: str, **headers: str) -> Any:
    body = f"<html><title>{title}</title></html>".encode()
    return lambda asked: (status, {"Content-Type": "text/html", **headers}, body)


def health(status: str = "healthy", message: str = "all is well", code: int = 200) -> Any:
    check = {"status": status, "latency_ms": 1.0, "message": message}
    document = {"status": status, "version": "1", "checks": dict.fromkeys(CHECKS, check)}
    return as_json(code, document)


def open_to_all(asked: Any) -> Any:
    """What MLflow itself would answer: no door at all."""
    return 200, {"Content-Type": "text/html"}, b"3.17.2"


def guarded(asked: Any) -> Any:
    """What a proxy and MLflow behind it answer, without X-Request-ID."""
    refusal = {"error_code": "UNAUTHENTICATED", "message": "x", "request_id": "1"}
    key = asked.headers.get("Authorization", "") + asked.headers.get("X-API-Key", "")
    if asked.path == "/health":
        return as_json(200, {"status": "healthy", "version": "1"})
    if "hk_test_a0b1c2d3" not in key and not key.startswith("Basic "):
        return as_json(401, refusal, WWW_Authenticate="Bearer")
    if asked.path.endswith("/detailed"):
        return health()
    if asked.path.endswith("/health"):
        return 200, {}, b"OK"
    if "search" in asked.path or "artifacts" in asked.path:
        return as_json(200, {})
    return open_to_all(asked)


def loses_bodies(asked: Any) -> Any:
    if asked.command == "POST":
        return as_json(400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid value 0"})
    return guarded(asked)


def asks_for_its_own_login(asked: Any) -> Any:
    return 401, {"Content-Type": "text/html", "WWW-Authenticate": "Basic"}, b"<html></html>"


def is_silent(asked: Any) -> Any:
    time.sleep(1.5)
    return open_to_all(asked)


BROKEN = {
    "a website": (CONNECTION, page(200, "Sign in"), "A login page or a website stands in front"),
    "no target": (CONNECTION, page(503, "503 Unavailable"), "no healthy target"),
    "no answer from the proxy": (
        CONNECTION,
        page(502, "Bad"),
        "balancer got no answer from the proxy",
    ),
    "moved": (
        CONNECTION,
        page(301, "", Location="https://new.example/"),
        "redirects to https://new.example/",
    ),
    "no door": (CONNECTION, open_to_all, "anybody can get in"),
    "another door": (
        CONNECTION,
        asks_for_its_own_login,
        "A login page or a website stands in front",
    ),
    "MLflow away": (
        CONNECTION,
        error(502, "TEMPORARILY_UNAVAILABLE", "x"),
        "does not reach MLflow",
    ),
    "MLflow slow": (CONNECTION, error(504, "DEADLINE_EXCEEDED", "x"), "MLflow is too slow"),
    "no route": (CONNECTION, error(404, "ENDPOINT_NOT_FOUND", "x"), "Check the path: it ends in"),
    "limit": (
        CONNECTION,
        error(429, "REQUEST_LIMIT_EXCEEDED", "x", Retry_After="1800"),
        "Retry-After: 1800 s",
    ),
    "foreign Host": (
        CONNECTION,
        lambda asked: (403, {"Content-Type": "text/plain"}, b"Invalid Host header - attack"),
        "MLflow refuses the Host header",
    ),
    "bodies lost": (CONNECTION, loses_bodies, "did not see the request's body"),
    "ids lost": (CONNECTION, guarded, "came back as nothing"),
    "silent": (HEALTH, is_silent, "does not answer in time"),
    "unhealthy": (
        HEALTH,
        lambda asked: health("unhealthy", "refused", 503),
        "artifacts_api: refused",
    ),
    "contradiction": (HEALTH, lambda asked: health("unhealthy"), "answered 200 but says unhealthy"),
    "address told": (
        HEALTH,
        lambda asked: health(message="10.0.3.7:6379"),
        "addresses: 10.0.3.7:6379",
    ),
    "open details": (HEALTH, lambda asked: health(), "anybody can get in"),
    "poor details": (HEALTH, lambda asked: health(), "says no more than the public answer"),
    "other form": (
        HEALTH,
        lambda asked: as_json(200, {"status": "UP"}),
        "status is none of the three",
    ),
    "SDK, website": (
        REGISTRATION,
        page(200, "Sign in"),
        "A login page or a website stands in front",
    ),
    "SDK, not JSON": (REGISTRATION, open_to_all, "not in a valid JSON format"),
}


@pytest.mark.parametrize("trouble", BROKEN)
def test_it_is_told_apart(run_script: Any, serve: Any, trouble: str) -> None:
    script, answering, explanation = BROKEN[trouble]
    done = run_script(script, "--uri", serve(answering), "--timeout", "1")
    assert done.status == 1
    assert explanation in done.out, done.out


def test_a_state_that_comes_and_goes_is_noticed(run_script: Any, serve: Any) -> None:
    turn = itertools.count()

    def flapping(asked: Any) -> Any:
        return health("degraded" if next(turn) % 5 == 4 else "healthy")

    done = run_script(HEALTH, "--uri", serve(flapping))
    assert "20 quick calls of /health gave 2 different results" in done.out


def test_a_port_without_tls_is_recognized(run_script: Any, serve: Any) -> None:
    done = run_script(CONNECTION, "--uri", serve(open_to_all).replace("http:", "https:"))
    assert done.status == 1
    assert "Use http:// in the tracking URI" in done.out


def test_a_key_that_an_answer_repeats_is_not_shown(run_script: Any, serve: Any) -> None:
    def echoing(asked: Any) -> Any:
        given = asked.headers.get("Authorization") or asked.headers.get("X-API-Key") or ""
        refusal = {"error_code": "PERMISSION_DENIED", "message": f"no: {given}"}
        is_let_in = given.startswith("Bearer") and asked.path.endswith("/detailed")
        found = guarded(asked)
        return found if found[0] != 200 or not given or is_let_in else as_json(403, refusal)

    done = run_script(CONNECTION, "--uri", serve(echoing))  # which looks for the key in the output
    assert done.out.count("[key]") == 4


def test_the_failed_request_is_named_by_its_id(run_script: Any, serve: Any) -> None:
    answering = error(502, "TEMPORARILY_UNAVAILABLE", "x", X_Request_ID="abc-1")
    done = run_script(HEALTH, "--uri", serve(answering), "--json")
    assert done.step("GET /health")["request_id"] == "abc-1"
    assert done.report()["ok"] is False
