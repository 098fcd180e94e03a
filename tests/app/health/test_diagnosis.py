"""What failures and answers mean: a table for each part, and no address for everybody."""

import re
import socket
import ssl
from itertools import pairwise

import pytest
import redis

from app.health import diagnosis
from app.health.diagnosis import DEGRADED, HEALTHY, UNHEALTHY
from app.health.faults import FAULTS, fault
from app.state.redis_client import SomeNodesFail
from app.state.redis_link import Trouble
from app.state.redis_rights import SUBSCRIBED, Lack

MLFLOW = diagnosis.mlflow_at("http://mlflow.internal:5000/base")
AUTH = diagnosis.auth_service_at("https://auth.internal")
REDIS = diagnosis.redis_at("rediss://user:secret@redis.internal:6379/0?x=secret")
PAGE = b"<!doctype html><title>Welcome</title>"


def chain(*causes: BaseException) -> BaseException:
    """The first one, caused by the second one, and so on."""
    for outer, inner in pairwise(causes):
        outer.__cause__ = inner
    return causes[0]


class ConnectTimeoutError(Exception):
    """As urllib3 calls it."""


class ReadTimeoutError(Exception):
    """As urllib3 calls it."""


@pytest.mark.parametrize(
    ("url", "hostname"),
    [
        ("redis://user:secret@one/0", "one"),
        ("redis+sentinel://one,two:26379/service", "one"),
        ("redis+sentinel://one:26379,two/service", "one"),
        ("redis+cluster://one,two,three?protocol=2", "one"),
        ("redis+cluster://[::1],[::2]:6379", "::1"),
        ("unix:///run/redis,1.sock", ""),
    ],
)
def test_one_host_of_redis_is_looked_up(url: str, hostname: str) -> None:
    assert diagnosis.redis_at(url).hostname == hostname


FAILURES = [
    (socket.gaierror(-2, "Name or service not known"), False, "dns"),
    (ConnectionRefusedError(111, "refused"), False, "refused"),
    (ssl.SSLCertVerificationError("expired"), False, "certificate"),
    (ssl.SSLError("WRONG_VERSION_NUMBER"), False, "no tls"),
    (ConnectTimeoutError("2 s"), False, "no connection"),
    (ConnectTimeoutError("2 s"), True, "no connection"),
    (ReadTimeoutError("2 s"), True, "silent"),
    (ConnectionResetError(104, "reset"), True, "broken off"),
    (ValueError("half a head"), True, "broken off"),
    (OSError(113, "No route to host"), False, "unreachable"),
]


@pytest.mark.parametrize(("cause", "was_sent", "word"), FAILURES)
def test_the_innermost_cause_names_the_failure(
    cause: BaseException, was_sent: bool, word: str
) -> None:
    error = chain(RuntimeError("in our words"), ValueError("in the library's"), cause)
    found = diagnosis.no_response(MLFLOW, error, was_sent)
    assert found.status == UNHEALTHY
    assert found.message == str(MLFLOW.no_response(word))
    assert found.detail == f"mlflow.internal:5000: {cause}"


def test_a_cause_that_was_only_in_the_way_is_found_too() -> None:
    """`raise A from B` while C is handled: C is what happened."""
    error = chain(RuntimeError("A"), RuntimeError("B"))
    error.__context__ = ConnectionRefusedError("C")
    found = diagnosis.auth_no_response(AUTH, error)
    assert found.message == f"{AUTH.no_response('refused')} {diagnosis.WITHOUT_AUTH}"
    assert found.detail == "auth.internal: C"


def test_a_circle_of_causes_has_an_end() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__context__ = other, one
    assert diagnosis.no_response(MLFLOW, one).status == UNHEALTHY


MLFLOW_ANSWERS = [
    ("connectivity", 200, b"OK", None),
    ("connectivity", 200, b"{}", None),
    ("connectivity", 200, PAGE, "page"),
    ("experiments_api", 200, b"{}", None),
    ("experiments_api", 200, b'{"experiments":[]}', None),
    ("experiments_api", 200, b'{"status":"healthy"}', "another"),
    ("experiments_api", 200, b"OK", "another"),
    ("models_api", 200, b'{"registered_models":[]}', None),
    ("artifacts_api", 200, b'{"files":[]}', None),
    ("artifacts_api", 200, b'{\n  "files": [\n    {' + 300 * b" ", None),  # of a long list
    ("artifacts_api", 200, b'{\n  "flies": [\n    {' + 300 * b" ", "another"),
    ("artifacts_api", 503, b"disabled: running with `--no-serve-artifacts`", "no artifacts"),
    ("experiments_api", 403, b"Invalid Host header - possible DNS rebinding attack", "host"),
    ("experiments_api", 508, b"", "loop"),
    ("experiments_api", 401, b'{"error_code":"X","message":"","request_id":"1"}', "loop"),
    ("experiments_api", 401, b"You are not authenticated", "no credentials"),
    ("experiments_api", 403, b"", "no credentials"),
    ("connectivity", 404, PAGE, "not found"),
    ("connectivity", 302, b"", "redirect"),
    ("models_api", 429, b"", "throttled"),
    ("connectivity", 502, PAGE, "intermediary"),
    ("connectivity", 503, b"no healthy upstream", "intermediary"),
    ("experiments_api", 503, b"disabled: running in `--artifacts-only` mode", "artifacts only"),
    ("experiments_api", 403, b"Permission denied", "no credentials"),
    ("models_api", 503, b'{"error_code":"TEMPORARILY_UNAVAILABLE"}', "fails"),
    ("models_api", 500, b'{"error_code":"INTERNAL_ERROR"}', "fails"),
    # What MLflow makes of S3's InvalidAccessKeyId, AccessDenied and NoSuchBucket.
    ("artifacts_api", 401, b'{"error_code":"UNAUTHENTICATED"}', "fails"),
    ("artifacts_api", 403, b'{"error_code":"PERMISSION_DENIED"}', "fails"),
    ("artifacts_api", 404, b'{"error_code":"RESOURCE_DOES_NOT_EXIST"}', "fails"),
    ("artifacts_api", 401, b"You are not authenticated", "no credentials"),
]


@pytest.mark.parametrize(("check", "status", "body", "word"), MLFLOW_ANSWERS)
def test_mlflows_answers(check: str, status: int, body: bytes, word: str | None) -> None:
    found = diagnosis.mlflow_response(check, MLFLOW, status, body, has_key=False)
    if word is None:
        assert found == (HEALTHY, "MLflow answers.", "", None)
        return
    served = word in ("no artifacts", "throttled")
    assert found.status == (DEGRADED if served else UNHEALTHY)
    assert found.message == str(fault(f"mlflow.{word}", status=status))
    assert "mlflow.internal:5000" in found.detail


def test_credentials_that_are_refused_are_not_credentials_that_are_missing() -> None:
    found = diagnosis.mlflow_response("connectivity", MLFLOW, 401, b"", has_key=True)
    assert found.message == str(fault("mlflow.credentials"))


def test_an_account_without_a_right_is_not_one_that_is_unknown() -> None:
    body = b"Permission denied"
    found = diagnosis.mlflow_response("models_api", MLFLOW, 403, body, has_key=True)
    assert found.message == str(fault("mlflow.permission"))


def test_the_proxys_own_user_may_do_nothing_where_it_signs() -> None:
    body = b"Permission denied"
    found = diagnosis.mlflow_response("artifacts_api", MLFLOW, 403, body, has_key=True, signs=True)
    assert found.status == HEALTHY


@pytest.mark.parametrize(
    ("status", "body", "is_known"),
    [
        (200, b'{"user": {"id": 4, "username": "hokusai-proxy"}}', True),
        (200, b'{"user": {"username": "admin"}}', False),
        (404, b"<!doctype html>", False),  # without basic-auth
        (200, b"[]", False),
    ],
)
def test_whom_mlflow_takes_the_proxy_for(status: int, body: bytes, is_known: bool) -> None:
    found = diagnosis.mlflow_user(MLFLOW, status, body)
    assert found.status == (HEALTHY if is_known else DEGRADED)
    assert is_known or found.message == str(fault("mlflow.unsigned"))


def test_an_error_page_of_mlflow_itself_is_not_somebody_elses() -> None:
    found = diagnosis.mlflow_response(
        "models_api", MLFLOW, 503, PAGE, has_key=False, by_mlflow=True
    )
    assert found.message == str(fault("mlflow.fails", status=503))


def test_whoever_may_see_the_host_gets_the_option_to_paste() -> None:
    body = b"Invalid Host header"
    found = diagnosis.mlflow_response("models_api", MLFLOW, 403, body, has_key=False)
    assert found.detail == "mlflow server --allowed-hosts mlflow.internal:5000"


AUTH_ANSWERS = [
    (401, "application/json", b"{}", False, None),
    (403, "application/json", b"{}", False, None),
    (400, "application/json", b"{}", False, None),
    (422, "application/json", b"{}", False, None),
    (404, "application/json", b'{"detail":"unknown key"}', False, None),
    (200, "application/json", b'{"valid":false}', False, None),
    (200, "application/json", b'{"user_id":"ann"}', False, None),
    (404, "application/json", b'{"detail":"Not Found"}', True, "no path"),
    (404, "text/html", PAGE, False, "another"),
    (403, "text/html", PAGE, False, "another"),
    (200, "text/html", PAGE, False, "another"),
    (200, "application/json", b'{"status":"ok"}', False, "another"),
    (200, "application/json", b"[]", False, "another"),
    (301, "text/plain", b"", False, "another"),
    (405, "application/json", b"{}", False, "another"),
    (429, "application/json", b"{}", False, "throttled"),
    (500, "text/plain", b"", False, "fails"),
    (503, "text/html", PAGE, False, "fails"),
]


@pytest.mark.parametrize(("status", "kind", "body", "same", "word"), AUTH_ANSWERS)
def test_the_auth_services_answers(
    status: int, kind: str, body: bytes, same: bool, word: str | None
) -> None:
    found = diagnosis.auth_response(AUTH, status, kind, body, same)
    if word is None:
        assert found == (HEALTHY, "The auth service answers.", "", None)
        return
    assert found.status == (DEGRADED if word in ("throttled", "no path") else UNHEALTHY)
    assert found.message.startswith(str(fault(f"auth.{word}", status=status)))
    assert found.detail.startswith(f"auth.internal answered {status}")


def test_an_auth_service_that_refuses_no_key_and_fails_at_each_one() -> None:
    why = "the auth service answered 500"
    found = diagnosis.auth_response(AUTH, 401, "application/json", b"{}", False, why)
    assert found.status == DEGRADED
    assert found.message.startswith(FAULTS["auth.no decision"].message)
    assert found.detail == f"auth.internal: {why}"


@pytest.mark.parametrize("lookup", ["401", "404", "500", "none"])
def test_an_auth_service_that_looks_up_no_keys(lookup: str) -> None:
    found = diagnosis.auth_response(AUTH, 401, "application/json", b"{}", False, "why", lookup)
    assert found.status == DEGRADED
    assert found.message.startswith(str(fault("auth.no look-up", status=lookup)))
    assert found.detail == f"auth.internal answered {lookup} to a look-up"


REDIS_WORDS = [key.removeprefix("redis.") for key in FAULTS if key.startswith("redis.")]


@pytest.mark.parametrize("word", sorted({*REDIS_WORDS} - {"permission"}))
def test_redis_in_trouble(word: str) -> None:
    found = diagnosis.redis_trouble(REDIS, Trouble(word, ValueError("in its words")))
    is_partial = word in ("slots", "is cluster")
    assert found.status == (DEGRADED if is_partial else UNHEALTHY)
    hurts = diagnosis.WITHOUT_SOME if is_partial else diagnosis.WITHOUT_REDIS
    assert found.message == f"{fault(f'redis.{word}')} {hurts}"
    assert found.detail == "redis.internal:6379/0: in its words"


def test_some_nodes_of_a_cluster_in_trouble() -> None:
    error = chain(SomeNodesFail("some"), redis.OutOfMemoryError("OOM"))
    found = diagnosis.redis_trouble(REDIS, Trouble("full", error))
    assert found.status == DEGRADED
    assert found.message == f"{fault('redis.full')} {diagnosis.WITHOUT_SOME}"


def test_a_redis_that_refuses_some_of_it() -> None:
    lacks = (
        Lack("+", "getex", "sessions end"),
        Lack("&", "revoked", SUBSCRIBED),
        Lack("+", "script|load", "limits end"),
        Lack("~", "LIMITS*", "limits end"),
    )
    found = diagnosis.redis_trouble(REDIS, Trouble("permission", ValueError("NOPERM"), lacks))
    assert found.status == DEGRADED
    assert found.message == (
        "Redis does not let this user do what the proxy needs: it may not run GETEX, SCRIPT LOAD, "
        "may not use the keys LIMITS*, may not subscribe to revoked. Add to its ACL, on each "
        "node: +getex &revoked +script|load ~LIMITS*. Until then sessions end; revocations are not "
        "received; limits end."
    )
    assert found.detail == "redis.internal:6379/0: NOPERM"


def test_a_redis_that_refuses_what_every_connection_needs() -> None:
    trouble = Trouble("permission", ValueError("NOPERM"), (Lack("+", "select", "all ends"),))
    assert diagnosis.redis_trouble(REDIS, trouble).status == UNHEALTHY


def test_a_redis_that_is_too_old_for_a_command() -> None:
    trouble = Trouble("permission", ValueError("ERR"), (Lack("", "getex", "sessions end"),))
    assert diagnosis.redis_trouble(REDIS, trouble).message == (
        "Redis does not let this user do what the proxy needs: it gets an error for GETEX (Redis "
        "6.2 and newer have it, unless it is renamed, or disabled by a proxy in front). Until then "
        "sessions end."
    )


def test_a_redis_that_is_not_there() -> None:
    error = chain(ValueError("redis-py"), ConnectionRefusedError("refused"))
    found = diagnosis.redis_trouble(REDIS, Trouble("unreachable", error))
    assert found.message == f"{REDIS.no_response('refused')} {diagnosis.WITHOUT_REDIS}"


@pytest.mark.parametrize(
    ("mlflow", "auth", "status", "said"),
    [
        ({}, {}, HEALTHY, "closed in every worker"),
        ({"7": "open"}, {}, UNHEALTHY, "to MLflow is not closed in 1 worker."),
        ({"7": "open", "8": "half-open"}, {"7": "open"}, UNHEALTHY, "not closed in 2 workers."),
        ({"7": "half-open"}, {}, DEGRADED, "to MLflow is not closed in 1 worker."),
        ({}, {"7": "open"}, DEGRADED, "to the auth service is not closed in 1 worker."),
    ],
)
def test_circuits(mlflow: dict[str, str], auth: dict[str, str], status: str, said: str) -> None:
    found = diagnosis.circuits(mlflow, auth)
    assert found.status == status
    assert said in found.message


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://:hush@cache:6379/1?password=hush", "rediss://cache:6379/1"),
        ("redis+sentinel://u:hush@a:1,b:2/main/0", "redis+sentinel://a:1,b:2/main/0"),
        ("unix:///run/redis.sock?password=hush", "unix:///run/redis.sock"),
        ("memory://", "memory://"),
    ],
)
def test_no_credentials_are_shown(url: str, plain: str) -> None:
    assert diagnosis.without_credentials(url) == plain


def all_messages() -> list[str]:
    """Every message as it goes out."""
    said = [str(FAULTS[key]) for key in FAULTS if key.startswith(("mlflow.", "redis.", "auth."))]
    said += [
        str(FAULTS[key]) for key in FAULTS if key.startswith(("circuit.", "folder.", "check."))
    ]
    words = [key.removeprefix("network.") for key in FAULTS if key.startswith("network.")]
    return said + [str(part.no_response(w)) for part in (MLFLOW, AUTH, REDIS) for w in words]


@pytest.mark.parametrize("message", all_messages())
def test_no_message_for_everybody_names_a_place(message: str) -> None:
    assert ".internal" not in message
    assert not re.search(r"\d+\.\d+\.\d+\.\d+|:\d{4}|\w+://\w", message)
