"""Who wrote an answer, and what it is about. The answers are recorded from MLflow 3.17.2."""

import json

import pytest

from app.request.errors import UpstreamOverloaded, UpstreamRefusal
from app.upstream import answers

HTML = {"Content-Type": "text/html; charset=utf-8"}
UVICORN = {"Server": "uvicorn"}
ARTIFACTS_ONLY = (
    b"Endpoint: /api/2.0/mlflow/runs/get disabled due to the mlflow server running in "
    b"`--artifacts-only` mode. To enable tracking server functionality, run `mlflow server` "
    b"without `--artifacts-only`"
)
NO_WORKSPACES = (
    b"Endpoint: /api/3.0/mlflow/workspaces disabled because the server is running without "
    b"workspaces support."
)
WERKZEUG = (
    b"<!doctype html>\n<html lang=en>\n<title>503 Service Unavailable</title>\n"
    b"<h1>Service Unavailable</h1>\n<p>The server is temporarily unable to service your request"
)
NGINX = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx/1.22.1</center>"
)
ALB = b"<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n"


@pytest.mark.parametrize(
    ("headers", "body", "is_between"),
    [
        (HTML | UVICORN, ARTIFACTS_ONLY, False),
        (HTML | UVICORN, b"", False),  # a HEAD
        (HTML | {"Server": "gunicorn/23.0"}, b"?", False),
        ({"Content-Type": "text/plain"} | UVICORN, b"Service Unavailable", False),
        (
            {"Content-Type": "application/json"},
            b'{"detail":"Artifact serving is disabled."}',
            False,
        ),
        # behind something that puts its own name into MLflow's answers
        (HTML | {"Server": "envoy"}, ARTIFACTS_ONLY, False),
        (HTML | {"Server": "nginx/1.22.1"}, NO_WORKSPACES, False),
        (HTML, WERKZEUG, False),
        # its own pages
        (HTML | {"Server": "nginx/1.22.1"}, NGINX, True),
        (HTML | {"Server": "awselb/2.0"}, ALB, True),
        ({"Content-Type": "text/plain", "Server": "envoy"}, b"upstream connect error", True),
        ({}, b"", True),
    ],
)
@pytest.mark.parametrize("status", [502, 503, 504])
def test_whose_error_page_it_is(
    status: int, headers: dict[str, str], body: bytes, is_between: bool
) -> None:
    assert answers.is_of_intermediary(status, headers, body) is is_between


@pytest.mark.parametrize("status", [200, 400, 404, 405, 429, 500, 501])
def test_other_statuses_are_taken_for_mlflows(status: int) -> None:
    assert not answers.is_of_intermediary(status, HTML, NGINX)


CHALLENGE = {"WWW-Authenticate": 'Basic realm="mlflow"'}
JSON_403 = b'{"error_code":"PERMISSION_DENIED","message":"Not all requested traces could be"}'


@pytest.mark.parametrize(
    ("status", "headers", "body", "relays", "word"),
    [
        (401, HTML | CHALLENGE, b"You are not authenticated.", False, "credentials"),
        (401, {}, b"", False, "credentials"),
        (401, CHALLENGE, b"You are not authenticated.", True, "credentials"),
        (401, {}, b'{"detail":"Incorrect API key provided"}', True, None),  # a provider's
        (403, HTML, b"Permission denied", False, "permission"),
        (403, {}, b"Permission denied", True, "permission"),
        (403, {}, b"Invalid Host header - possible DNS rebinding attack detected", False, "host"),
        (403, {}, JSON_403, False, None),
        (403, HTML, b"<html>Blocked by the firewall", False, None),
        (400, {}, b"Permission denied", False, None),
        (200, {}, b"Permission denied", False, None),
    ],
)
def test_what_is_about_the_proxy_and_not_about_the_caller(
    status: int, headers: dict[str, str], body: bytes, relays: bool, word: str | None
) -> None:
    assert answers.refusal(status, headers, body, relays) == word


POOL = "QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00"


def error(message: object) -> bytes:
    return json.dumps({"error_code": "BAD_REQUEST", "message": message}).encode()


@pytest.mark.parametrize(
    ("status", "body", "is_limit"),
    [
        (400, error(f"{POOL} (Background on this error at: https://sqlalche.me/e/20/3o7r)"), True),
        (400, json.dumps({"detail": POOL}).encode(), True),  # jobs
        (400, b'{"detail":' + error(POOL) + b"}", True),  # the gateway
        (500, error(POOL), False),
        (400, error(f"Invalid value '{POOL}'"), False),  # what the caller wrote
        (400, error([POOL]), False),
        (400, f'"{POOL}"'.encode(), False),
        (400, POOL.encode(), True),  # basic-auth, where it asks who may use an artifact
        (400, f"Invalid value '{POOL}'".encode(), False),
        (400, error("no"), False),
    ],
)
def test_a_full_pool(status: int, body: bytes, is_limit: bool) -> None:
    assert answers.is_pool_limit(status, body) is is_limit


def test_each_refusal_says_that_the_key_is_not_the_cause() -> None:
    assert answers.REFUSALS.keys() == {"credentials", "permission", "host"}
    assert all("Your key is not the cause" in said for said in answers.REFUSALS.values())
    assert (UpstreamRefusal.status, UpstreamRefusal.code) == (502, "TEMPORARILY_UNAVAILABLE")
    assert UpstreamOverloaded("", 0).headers == {"Retry-After": "1"}
