"""Our pages at the wire: who gets one, what the form does, and what the status page says."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.pipeline.signing_in import (
    AGENT,
    BROWSER,
    DECISION,
    FORM,
    HOME,
    HTML,
    NAVIGATION,
    OWN,
    SEARCH,
    SIGN_IN,
    cookie_of,
    sign_in,
)
from tests.upstreams import Answer, Upstream, send, sized
from tests.wire import bearer, call

# --- who gets a page -----------------------------------------------------------------------------

NAVIGATIONS = {
    "an old browser": [HTML, AGENT],
    "a browser": NAVIGATION,
    "an ended session": [HTML, AGENT, f"Cookie: hokusai-session={'a' * 43}"],
}


@pytest.mark.parametrize("who", NAVIGATIONS)
@pytest.mark.parametrize("path", [HOME, "/mlflow/get-artifact?path=a"])
def test_a_navigation_without_a_key_gets_the_sign_in_page(
    front: Proxy, upstream: Upstream, who: str, path: str
) -> None:
    answer = call(front.url, "GET", path, *NAVIGATIONS[who])
    assert answer.status == 401
    assert (answer.one("Content-Type") or "").startswith("text/html")
    assert answer.one("WWW-Authenticate") == 'Bearer realm="mlflow"'  # no dialog of the browser's
    assert answer.one("Cache-Control") == "no-store"
    assert f'name="next" value="{path}"'.encode() in answer.body
    assert upstream.requests == []


NO_NAVIGATIONS = {
    "requests": ["User-Agent: python-requests/2.32.5", "Accept: */*"],
    "no Accept": [],
    "JSON": ["Accept: application/json"],
    "Java": [HTML, "User-Agent: Java/21"],
    "a script": [HTML, "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty"],
    "a frame": [HTML, "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"],
    "a bad key": [HTML, "Authorization: Bearer hk_test_bad"],
    "another bad key": [HTML, "X-API-Key: hk_test_bad"],
}


@pytest.mark.parametrize("who", NO_NAVIGATIONS)
def test_nobody_else_gets_html(front: Proxy, upstream: Upstream, who: str) -> None:
    answer = call(front.url, "GET", HOME, *NO_NAVIGATIONS[who])
    assert answer.error == (401, "UNAUTHENTICATED")
    assert [field.split()[0] for field in answer.all("WWW-Authenticate")] == ["Bearer", "Basic"]


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT"])
def test_only_a_get_is_a_navigation(front: Proxy, upstream: Upstream, method: str) -> None:
    answer = call(front.url, method, HOME, *NAVIGATION)
    assert answer.status == 401
    assert answer.one("Content-Type") == "application/json"


def test_a_link_that_the_sdk_prints_leads_to_the_ui(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    """It is the tracking URI, and what stands behind a `#`, which the browser keeps."""
    assert call(front.url, "GET", "/api/mlflow/", *NAVIGATION, bearer(key)).status == 200
    answer = call(front.url, "GET", "/api/mlflow/", *NAVIGATION)
    assert (answer.status, answer.one("Location")) == (302, HOME)
    assert answer.one("WWW-Authenticate") is None
    assert call(front.url, "GET", "/api/mlflow/").error == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize("path", ["/api/mlflow/version", "/mlflow/api/2.0/mlflow/runs/get", SEARCH])
def test_the_api_has_no_pages(front: Proxy, upstream: Upstream, path: str) -> None:
    assert call(front.url, "GET", path, HTML, AGENT).error == (401, "UNAUTHENTICATED")


def test_a_pages_script_is_told_without_a_dialog(front: Proxy, upstream: Upstream) -> None:
    answer = call(front.url, "GET", SEARCH, *BROWSER)
    assert answer.error == (401, "UNAUTHENTICATED")
    assert answer.one("WWW-Authenticate") == 'Bearer realm="mlflow"'
    assert answer.json["message"].startswith("Sign in first. Reload the page to get the form")
    late = call(front.url, "GET", SEARCH, *BROWSER, f"Cookie: hokusai-session={'a' * 43}")
    assert "has ended; sign in again. Reload the page" in late.json["message"]
    own_key = call(front.url, "GET", SEARCH, *BROWSER, "X-API-Key: hk_test_bad")
    assert "This API key is not valid" in own_key.json["message"]


def test_an_error_that_a_navigation_meets_is_a_page(
    front: Proxy, upstream: Upstream, auth_service: Any
) -> None:
    none = cookie_of(sign_in(front, auth_service.create_key(scopes=["nothing"]).key))
    answer = call(front.url, "GET", HOME, *NAVIGATION, none)
    assert answer.status == 403
    assert b"<h1>This is not allowed</h1>" in answer.body
    assert (answer.one("X-Request-ID") or "").encode() in answer.body


def test_our_pages_say_what_they_may_load(front: Proxy, session: str) -> None:
    for path, cookie in ((SIGN_IN, "X: y"), (SIGN_IN, session), ("/status", session)):
        answer = call(front.url, "GET", path, cookie)
        assert answer.status == 200
        policy = answer.one("Content-Security-Policy") or ""
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.one("X-Content-Type-Options") == "nosniff"
        assert answer.one("Referrer-Policy") == "same-origin"
        # Where a server in front adds no-referrer, this is what counts.
        assert b'<meta name="referrer" content="same-origin">' in answer.body
        assert not re.search(rb"<script(?![^>]* src=)|<style| style=| on[a-z]+=", answer.body)


def test_mlflows_pages_get_none_of_these(front: Proxy, upstream: Upstream, session: str) -> None:
    answer = call(front.url, "GET", HOME, HTML, session)
    assert answer.status == 200
    assert answer.one("Content-Security-Policy") is None


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/mlflow/-", "/mlflow/-/", "/mlflow/-/else", "/mlflow/-/a//b"])
def test_nothing_below_our_folder_goes_to_mlflow(
    front: Proxy, upstream: Upstream, key: str, path: str, method: str
) -> None:
    assert call(front.url, method, path, bearer(key)).status in (400, 404)
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/status", "/mlflow/-", SIGN_IN, "/mlflow/-/static/pages.css"])
def test_a_key_in_the_address_of_a_page_is_refused_and_not_repeated(
    front: Proxy, path: str
) -> None:
    answer = call(front.url, "GET", f"{path}?api_key=hk_test_secret", *NAVIGATION)
    assert answer.status == 400
    assert b"hk_test_secret" not in answer.body + repr(answer.headers).encode()


# --- signing in ----------------------------------------------------------------------------------

GOALS = {
    "/mlflow/": "/mlflow/",
    "/mlflow/?x=1": "/mlflow/?x=1",
    "/mlflow/get-artifact?path=a%20b": f"{SIGN_IN}?next=/mlflow/get-artifact%3Fpath%3Da%2520b",
    "/status": "/status",
    "": HOME,
    "https://evil.test/": HOME,
    "//evil.test/mlflow/": HOME,
    "/mlflow//evil.test": HOME,
    "/mlflow/../../evil": HOME,
    "/mlflow/%2e%2e/": HOME,
    "/mlflow/\\evil.test": HOME,
    "/mlflow/a\r\nSet-Cookie: a=b": HOME,
    "/mlflow.evil.test/": HOME,
    "/mlflow/?api_key=hk_test_x": HOME,
    "/mlflow/-/sign-out": HOME,
    "javascript:alert(1)": HOME,
    "/status//evil.test": HOME,
    "/status@evil.test": HOME,
    "/api/mlflow/": HOME,
}


@pytest.mark.parametrize("goal", GOALS)
def test_sign_in_leads_to_our_own_paths_only(front: Proxy, key: str, goal: str) -> None:
    answer = sign_in(front, key, goal=goal)
    assert (answer.status, answer.one("Location")) == (303, GOALS[goal])


@pytest.mark.parametrize("key", ["hk_test_unknown", "", "two keys", "ä", "x" * 600])
def test_a_bad_key_is_told_on_the_page(front: Proxy, key: str) -> None:
    answer = sign_in(front, key, goal="/status")
    assert answer.status == 401
    assert b'role="alert"' in answer.body
    assert b'name="next" value="/status"' in answer.body
    assert answer.one("WWW-Authenticate") == 'Bearer realm="mlflow"'
    assert answer.all("Set-Cookie") == []
    assert not key or key.encode() not in answer.body
    assert b"Authorization" not in answer.body  # that is for programs


def test_failed_attempts_are_limited(start_front: Callable[..., Proxy], key: str) -> None:
    strict = start_front(AUTH_FAILURE_LIMIT=3, TRUSTED_PROXY_HOPS=1)
    address = (OWN, "X-Forwarded-For: 198.51.100.23")
    tried = [sign_in(strict, f"hk_test_guess{n}", *address).status for n in range(4)]
    assert tried == [401, 401, 401, 429]
    answer = sign_in(strict, "hk_test_guess", *address)
    assert int(answer.one("Retry-After") or 0) > 0
    assert b"Too many failed authentications" in answer.body
    assert sign_in(strict, key, OWN, "X-Forwarded-For: 198.51.100.24").status == 303


def test_signing_in_counts_as_a_request_of_the_keys_sessions(
    front: Proxy, auth_service: Any
) -> None:
    issued = auth_service.create_key(scopes=["read"], limit=2)
    answers = [sign_in(front, issued.key) for _ in range(3)]
    assert [answer.status for answer in answers] == [303, 303, 429]
    assert int(answers[-1].one("Retry-After") or 0) > 0
    assert b"browser sessions of this API key may make 2 requests an hour" in answers[-1].body


@pytest.mark.slow
def test_nobody_signs_in_on_a_decision_that_is_stale(
    start_front: Callable[..., Proxy], upstream: Upstream
) -> None:
    """A session would outlast by hours what an outage of the auth service allows."""
    with Upstream() as service:
        service.answers(Answer(send(sized(json.dumps(DECISION).encode()))))
        alone = start_front(HOKUSAI_AUTH_SERVICE_URL=service.url, AUTH_CACHE_TTL=1)
        key = f"hk_test_stale_{alone.port}"
        assert sign_in(alone, key).status == 303
        service.answers(Answer(send(sized(b"{}", 500))))
        upstream.stopping.wait(2)
        assert call(alone.url, "GET", SEARCH, bearer(key)).status == 200
        answer = sign_in(alone, key)
        assert answer.status == 503
        assert b"Signing in is unavailable" in answer.body
        assert answer.all("Set-Cookie") == []


@pytest.mark.parametrize(
    "fields",
    [["Content-Type: application/json"], ["Content-Type: multipart/form-data"], [FORM]],
    ids=["JSON", "broken multipart", "no field"],
)
def test_what_our_form_does_not_send_is_no_key(front: Proxy, fields: list[str]) -> None:
    answer = call(front.url, "POST", SIGN_IN, OWN, *fields, body=b"{}")
    assert answer.status in (400, 401)


def test_a_form_that_is_too_long_is_refused(front: Proxy) -> None:
    body = b"key=" + b"x" * 40_000
    answer = call(front.url, "POST", SIGN_IN, OWN, FORM, body=body)
    assert answer.error == (400, "BAD_REQUEST")


def test_a_new_sign_in_ends_the_session_before(front: Proxy, upstream: Upstream, key: str) -> None:
    first = cookie_of(sign_in(front, key))
    second = cookie_of(sign_in(front, key, OWN, first))
    assert call(front.url, "GET", SEARCH, first).status == 401
    assert call(front.url, "GET", SEARCH, second).status == 200


# --- status --------------------------------------------------------------------------------------


def test_status_is_coarse_for_everybody_and_detailed_for_who_may(
    front: Proxy, upstream: Upstream, session: str, key: str
) -> None:
    upstream.answers(Answer(send(sized(b"{}"))))
    public = call(front.url, "GET", "/status")
    assert public.status == 200
    assert b"<svg" not in public.body
    assert upstream.url.encode() not in public.body
    for field in (session, bearer(key)):
        detailed = call(front.url, "GET", "/status", field)
        assert detailed.body.count(b"<svg") == 3
        assert upstream.url.encode() in detailed.body
    ended = call(front.url, "GET", "/status", f"Cookie: hokusai-session={'a' * 43}")
    assert b"<svg" not in ended.body
    bad = call(front.url, "GET", "/status", bearer("hk_test_bad"))
    assert bad.error == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize("foreign", ["Basic am9lOnB3", 'Digest username="joe"', "Negotiate YII="])
def test_status_takes_no_credentials_for_something_else(
    start_front: Callable[..., Proxy], key: str, foreign: str
) -> None:
    """A browser sends them by itself, and an open page asks every few seconds."""
    alone = start_front(AUTH_FAILURE_LIMIT=1)
    for _ in range(3):
        status = call(alone.url, "GET", "/status", *NAVIGATION, f"Authorization: {foreign}")
        assert (status.status, b"<svg" in status.body) == (200, False)
    assert sign_in(alone, key).status == 303, "none was a failed attempt"


def test_the_detailed_health_takes_a_session(front: Proxy, session: str) -> None:
    assert call(front.url, "GET", "/mlflow/health/mlflow/detailed", session).status in (200, 503)
